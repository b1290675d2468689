"""Where the bytes of image frames lie in HDF5 files, and reading them in large blocks beside the HDF5 library.

HDF5 inflates one chunk at a time under a global lock. Here it is asked only for the places of the chunks; the bytes are
read with ``preadv`` and unpacked by as many threads as the job has. Whatever is stored in another way than plain or
gzip(+shuffle) with whole frames per chunk is read through HDF5 itself: always right, but slower.
"""

import contextlib
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.decode import inflate, unshuffle
from pulsetrain.kernels import Stored
from pulsetrain.memory import BLOCK_MB

BLOCK_BYTES = BLOCK_MB * 1024**2
BLOCK_FRAMES = 4096
READ_BYTES = 4 * 1024**2  # one preadv: large enough to run at full speed, small enough for two to work side by side
GAP_BYTES = 64 * 1024  # reading over a smaller gap costs less than another preadv
READERS = 2
FEW = 4  # listing all chunks costs some 1.5 us each, asking HDF5 for one of them some 6 us
CELL_REPEATS = 16  # frames of one cell per block: its constants are then fetched from memory once for all of them
ALL = 1 << 60
PAGE = 4096  # reads into page-aligned memory are twice as fast


class Storage(NamedTuple):
    """How the frames of one dataset are stored.

    Attributes
    ----------
    path : str
    dataset : str
    kind : str
        "plain": whole frames, uncompressed. "packed": whole frames per chunk, gzip with or without shuffle.
        "hdf5": anything else.
    direct : h5py.h5d.DatasetID or None
        If given, HDF5 is asked for the stored bytes of each chunk, and `offset` and `size` are empty.
    dtype : numpy.dtype
    shape : tuple of int
        Shape of one frame.
    n_rows : int
        Frames in the dataset.
    rows_per_chunk : int
    shuffled : bool
    descriptor : int
        Open file, for preadv; -1 for "hdf5".
    offset, size : ndarray of int64, (chunks,)
        Place of each chunk in the file [bytes].
    """

    path: str
    dataset: str
    kind: str
    direct: h5py.h5d.DatasetID | None
    dtype: np.dtype
    shape: tuple
    n_rows: int
    rows_per_chunk: int
    shuffled: bool
    descriptor: int
    offset: np.ndarray
    size: np.ndarray

    @property
    def frame_bytes(self):
        """Size of one frame, unpacked."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class ReadPlan(NamedTuple):
    """Frames to read together: their numbers (the caller's), their rows, and the stored pieces that hold them."""

    storage: Storage
    frames: np.ndarray
    rows: np.ndarray
    piece: np.ndarray
    offset: np.ndarray
    size: np.ndarray


class Block(NamedTuple):
    """Frames in memory. Frame i is (or, if packed, is inflated from) `buffer[start[i] : start[i] + size[i]]`."""

    storage: Storage
    frames: np.ndarray
    rows: np.ndarray
    packed: bool
    buffer: np.ndarray
    start: np.ndarray
    size: np.ndarray


@contextlib.contextmanager
def open_storages():
    """Give a function ``storage_of(path, dataset, leading=1, n_wanted=None)``; close its files at the end.

    It finds each storage once; the arguments are those of :func:`find_storage`.
    """
    with contextlib.ExitStack() as stack:
        found = {}

        def storage_of(path, dataset, leading=1, n_wanted=None):
            key = (str(path), dataset, leading)
            if key not in found:
                descriptor = os.open(path, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                file = stack.enter_context(h5py.File(path))
                found[key] = find_storage(file, dataset, descriptor, leading, n_wanted)
                if found[key].direct is None:
                    file.close()
            return found[key]

        yield storage_of


def find_storage(file, dataset, descriptor, leading=1, n_wanted=None):
    """Find out how and where a dataset's frames are stored.

    Parameters
    ----------
    file : h5py.File
    dataset : str
    descriptor : int
        The same file, open for reading.
    leading : int
        Axes before those of the frame. With several, (row of the first, row of the second, ...) count as one row
        number in C order.
    n_wanted : int, optional
        How many rows will be asked for. If they are few, the chunks are not listed, and the file has to stay open.

    Returns
    -------
    Storage

    Raises
    ------
    KeyError
        The file has no such dataset.
    """
    path = file.filename
    if dataset not in file:
        raise KeyError(f"{path}: there is no dataset {dataset}; the file is not what the frame table says")
    held = file[dataset]
    shape = held.shape[leading:]
    n_rows = int(np.prod(held.shape[:leading]))
    nothing = np.empty(0, np.int64)
    storage = Storage(path, dataset, "hdf5", None, held.dtype, shape, n_rows, 1, False, -1, nothing, nothing)
    if held.file.filename != path:  # behind an external link: its places are those in another file
        return storage
    if file.userblock_size or held.dtype.byteorder == ">" or held.dtype.kind not in "uif" or held.is_virtual:
        return storage
    creation = held.id.get_create_plist()
    if creation.get_external_count():
        return storage
    if creation.get_layout() == h5py.h5d.CONTIGUOUS:
        first = held.id.get_offset()
        if first is None:
            return storage
        offset = first + np.arange(n_rows, dtype=np.int64) * storage.frame_bytes
        size = np.full(n_rows, storage.frame_bytes, np.int64)
        return storage._replace(kind="plain", descriptor=descriptor, offset=offset, size=size)
    if creation.get_layout() != h5py.h5d.CHUNKED:
        return storage
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    kinds = {
        (): ("plain", False),
        (h5py.h5z.FILTER_DEFLATE,): ("packed", False),
        (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE): ("packed", True),
    }
    whole = held.chunks[leading:] == shape and all(n == 1 for n in held.chunks[1:leading])
    if tuple(filters) not in kinds or not whole or (leading > 1 and held.chunks[0] != 1):
        return storage
    kind, shuffled = kinds[tuple(filters)]
    rows_per_chunk = held.chunks[0]
    n_chunks = -(-n_rows // rows_per_chunk)
    chunked = storage._replace(kind=kind, rows_per_chunk=rows_per_chunk, shuffled=shuffled, descriptor=descriptor)
    if (
        n_wanted is not None
        and n_wanted * FEW < n_chunks
        and leading == 1
        and (kind == "packed" or rows_per_chunk == 1)
    ):
        return chunked._replace(direct=held.id)
    offset, size = _chunk_table(held, leading, n_chunks)
    if (offset < 0).any() or (kind == "plain" and (size != rows_per_chunk * storage.frame_bytes).any()):
        return storage
    return chunked._replace(offset=offset, size=size)


def _chunk_table(dataset, leading, n_chunks):
    """Place and size of every chunk, ordered by row; -1 where a chunk is missing or a filter was left out."""
    offset = np.full(n_chunks, -1, np.int64)
    size = np.zeros(n_chunks, np.int64)
    found = []
    dataset.id.chunk_iter(found.append)  # the one call that is linear: get_chunk_info(i) costs O(chunks) each
    if found:
        corner, filter_mask, begin, n_bytes = zip(*found, strict=True)
        axes = zip(list(zip(*corner, strict=True))[:leading], dataset.chunks, strict=False)
        place = tuple(np.array(axis) // chunk for axis, chunk in axes)
        number = np.ravel_multi_index(place, _chunk_grid(dataset, leading))
        offset[number] = np.where(np.array(filter_mask) == 0, begin, -1)
        size[number] = n_bytes
    return offset, size


def _chunk_grid(dataset, leading):
    return tuple(-(-length // chunk) for length, chunk in zip(dataset.shape[:leading], dataset.chunks, strict=False))


def plan_reads(storage, frames, rows, cells=None, block_bytes=BLOCK_BYTES, block_frames=BLOCK_FRAMES):
    """Group frames into blocks to be read at once.

    Blocks follow the order of the file, but for uncompressed data with known memory cells: there a block takes some
    neighbouring cells of several trains, in reads of megabytes, so that a cell comes several times in a block.

    Parameters
    ----------
    storage : Storage
    frames : ndarray of int, (n,)
        Numbers by which the caller knows the frames.
    rows : ndarray of int, (n,)
        Their rows in the dataset.
    cells : ndarray of int, (n,), optional
        Their memory cells.
    block_bytes : int
        Most bytes per block, except that a chunk is never divided.
    block_frames : int
        Most frames per block, except that a chunk is never divided.

    Returns
    -------
    list of ReadPlan
    """
    frames, rows = np.asarray(frames, np.int64), np.asarray(rows, np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= storage.n_rows):
        raise ValueError(
            f"{storage.path}: {storage.dataset} has {storage.n_rows} frames; the frame table asks for frame "
            f"{rows.max()}. The file has changed since check_run: run snakemake again."
        )
    chunk = rows // storage.rows_per_chunk
    if storage.direct is not None:
        offset, size = chunk, np.zeros(len(rows), np.int64)
        weight = np.full(len(rows), storage.frame_bytes * storage.rows_per_chunk)
    elif storage.kind == "plain":
        offset = storage.offset[chunk] + (rows % storage.rows_per_chunk) * storage.frame_bytes
        size = np.full(len(rows), storage.frame_bytes, np.int64)
        weight = size
    elif storage.kind == "packed":
        offset, size = storage.offset[chunk], storage.size[chunk]
        several = storage.rows_per_chunk > 1
        weight = np.full(len(rows), storage.frame_bytes * storage.rows_per_chunk) if several else size
    else:
        offset, size = rows, np.zeros(len(rows), np.int64)
        weight = np.full(len(rows), storage.frame_bytes)
    order = np.lexsort((rows, offset))
    if storage.kind == "plain" and cells is not None and storage.direct is None:
        order = order[_order_by_cells(np.asarray(cells)[order], block_bytes // storage.frame_bytes)]
    frames, rows, offset, size, weight = (values[order] for values in (frames, rows, offset, size, weight))
    plans = []
    first = 0
    is_new = np.ones(len(rows), bool)
    is_new[1:] = offset[1:] != offset[:-1]
    cost = np.cumsum(np.where(is_new, weight, 0))
    while first < len(rows):
        before = cost[first] - weight[first]
        last = int(np.searchsorted(cost, before + block_bytes, side="right"))
        last = max(first + 1, min(last, first + block_frames))
        while last < len(rows) and not is_new[last]:
            last += 1
        part = np.arange(first, last)[np.argsort(offset[first:last], kind="stable")]
        pieces = part[is_new[part]]
        piece = np.cumsum(is_new[part]) - 1
        plans.append(ReadPlan(storage, frames[part], rows[part], piece, offset[pieces], size[pieces]))
        first = last
    return plans


def _order_by_cells(cells, block_frames):
    """Order of frames, given in file order, in which blocks of `block_frames` hold few cells, each several times."""
    _, rank = np.unique(cells, return_inverse=True)
    n_cells = int(rank.max(initial=0)) + 1
    window = np.arange(len(cells)) // (n_cells * CELL_REPEATS)
    return np.lexsort((np.arange(len(cells)), rank // max(1, block_frames // CELL_REPEATS), window))


def read_block(plan, buffer=None, pool=None):
    """Read the bytes of a plan.

    Parameters
    ----------
    plan : ReadPlan
    buffer : ndarray of uint8, optional
        Memory to use again; replaced when it is too small.
    pool : concurrent.futures.Executor, optional
        Threads that share the reading.

    Returns
    -------
    Block

    Raises
    ------
    OSError
        The file ends early.
    """
    storage = plan.storage
    if storage.kind == "hdf5":
        return _read_through_hdf5(plan)
    if storage.direct is not None:
        return _read_direct_chunks(plan)
    step = 1 if storage.kind == "packed" else storage.dtype.itemsize
    begin, length, place, total = _spans(plan.offset, plan.size, step)
    buffer = grown(buffer, total)
    share = map if pool is None else pool.map
    for _ in share(lambda *span: _read_span(storage, buffer, *span), place.tolist(), begin.tolist(), length.tolist()):
        pass
    span = np.searchsorted(begin, plan.offset, side="right") - 1
    start = place[span] + plan.offset - begin[span]
    return Block(
        storage, plan.frames, plan.rows, storage.kind == "packed", buffer, start[plan.piece], plan.size[plan.piece]
    )


def _spans(offset, size, step):
    """Join pieces that lie close together into reads; give each a page-aligned place in the buffer.

    Distances within a read are multiples of `step`, so that values stay aligned.
    """
    begin, length = [], []
    for first, n in zip(offset.tolist(), size.tolist(), strict=True):
        if begin:
            end = begin[-1] + length[-1]
            joined = first + n - begin[-1]
            if end <= first <= end + GAP_BYTES and joined <= READ_BYTES and (first - begin[-1]) % step == 0:
                length[-1] = joined
                continue
        begin.append(first)
        length.append(n)
    begin, length = np.array(begin, np.int64), np.array(length, np.int64)
    room = -(-length // PAGE) * PAGE
    return begin, length, np.cumsum(room) - room, int(room.sum())


def _read_span(storage, buffer, place, begin, length):
    done = 0
    view = memoryview(buffer)
    while done < length:
        n = os.preadv(storage.descriptor, [view[place + done : place + length]], begin + done)
        if n == 0:
            raise OSError(
                f"{storage.path}: the file ends at byte {begin + done}, but {storage.dataset} goes on to byte "
                f"{begin + length}; it was cut off. Copy it again."
            )
        done += n


def _read_direct_chunks(plan):
    storage = plan.storage
    found = []
    for chunk in plan.offset.tolist():
        corner = (chunk * storage.rows_per_chunk, *(0 for _ in storage.shape))
        try:
            filter_mask, data = storage.direct.read_direct_chunk(corner)
        except (OSError, RuntimeError, ValueError):  # not there (fill value) or damaged: HDF5 shall say which
            return _read_through_hdf5(plan)
        if filter_mask or (storage.kind == "plain" and len(data) != storage.frame_bytes):
            return _read_through_hdf5(plan)
        found.append(data)
    size = np.array([len(data) for data in found], np.int64)
    start = np.cumsum(size) - size
    buffer = np.frombuffer(bytearray().join(found), np.uint8)
    packed = storage.kind == "packed"
    return Block(storage, plan.frames, plan.rows, packed, buffer, start[plan.piece], size[plan.piece])


def _read_through_hdf5(plan):
    storage = plan.storage
    values = np.empty((len(plan.rows), *storage.shape), storage.dtype.newbyteorder("="))
    try:
        with h5py.File(storage.path) as file:
            dataset = file[storage.dataset]
            leading = dataset.shape[: dataset.ndim - len(storage.shape)]
            for first, last in _runs(plan.rows):
                if len(leading) == 1:
                    rows = slice(int(plan.rows[first]), int(plan.rows[last - 1]) + 1)
                    values[first:last] = dataset[rows]
                else:
                    for k in range(first, last):
                        values[k] = dataset[np.unravel_index(int(plan.rows[k]), leading)]
    except OSError as error:
        raise OSError(
            f"{storage.path}: {storage.dataset} cannot be read between the frames {plan.rows[0]} and {plan.rows[-1]} "
            f"({error}). The file is damaged or uses a filter that is not installed: copy it again."
        ) from error
    n = storage.frame_bytes
    start = np.arange(len(plan.rows), dtype=np.int64) * n
    storage = storage._replace(dtype=values.dtype)
    buffer = values.reshape(-1).view(np.uint8)
    return Block(storage, plan.frames, plan.rows, False, buffer, start, np.full(len(start), n, np.int64))


def _runs(rows):
    """Bounds of the stretches of consecutive rows."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    return zip([0, *edges.tolist()], [*edges.tolist(), len(rows)], strict=True)


def unpack(block, buffer=None, pool=None, single=False):
    """Inflate the chunks of a block that hold several frames each; blocks of other kinds are returned as they are.

    Only the frames of the block are kept: each thread holds one whole chunk at a time.

    Parameters
    ----------
    block : Block
    buffer : ndarray of uint8, optional
        Memory to use again; replaced when it is too small.
    pool : concurrent.futures.Executor, optional
        Threads that share the work.
    single : bool
        Inflate chunks of one frame, too.

    Returns
    -------
    Block
    """
    storage = block.storage
    if not block.packed or (storage.rows_per_chunk == 1 and not single):
        return block
    n = storage.frame_bytes
    _, piece = np.unique(block.start, return_inverse=True)
    members = np.split(np.argsort(piece, kind="stable"), np.cumsum(np.bincount(piece))[:-1])
    buffer = grown(buffer, n * len(block.rows))

    def inflate_chunk(frames):
        values = _unpacked(block, int(frames[0]), n * storage.rows_per_chunk).view(np.uint8)
        for i, row in zip(frames.tolist(), (block.rows[frames] % storage.rows_per_chunk).tolist(), strict=True):
            buffer[i * n : (i + 1) * n] = values[row * n : (row + 1) * n]

    share = map if pool is None else pool.map
    for _ in share(inflate_chunk, members):
        pass
    start = np.arange(len(block.rows), dtype=np.int64) * n
    return block._replace(packed=False, buffer=buffer, start=start, size=np.full(len(start), n, np.int64))


def read_frames(storage, frames, rows, pool=None, single=False):
    """Read frames as one block; memory is that of these frames, whatever the number of frames per chunk.

    Parameters
    ----------
    storage : Storage
    frames, rows : array of int, (n,)
        As for :func:`plan_reads`.
    pool, single
        As for :func:`unpack`.

    Returns
    -------
    Block
        Chunks of several frames are inflated, one after the other.
    """
    if storage.kind != "packed" or storage.rows_per_chunk == 1:
        (plan,) = plan_reads(storage, frames, rows, None, ALL, ALL)
        return unpack(read_block(plan, pool=pool), pool=pool, single=single)
    plans = plan_reads(storage, frames, rows, None, 0, ALL)  # a block of 0 bytes is one chunk
    n = storage.frame_bytes
    first = np.cumsum([0, *(len(plan.rows) for plan in plans)])
    buffer = grown(None, n * int(first[-1]))

    def read_chunk(plan, begin):
        block = unpack(read_block(plan))
        for i in range(len(plan.rows)):
            buffer[(begin + i) * n : (begin + i + 1) * n] = frame_values(block, i).view(np.uint8)

    for _ in (map if pool is None else pool.map)(read_chunk, plans, first[:-1].tolist()):
        pass
    frames, rows = (np.concatenate([getattr(plan, name) for plan in plans]) for name in ("frames", "rows"))
    start = np.arange(len(rows), dtype=np.int64) * n
    return Block(storage, frames, rows, False, buffer, start, np.full(len(start), n, np.int64))


def frame_values(block, i):
    """Values of frame i of a block.

    Returns
    -------
    ndarray, (pixels,)
        Flat; a view into the block where that is possible.
    """
    storage = block.storage
    if not block.packed:
        start = int(block.start[i])
        return block.buffer[start : start + storage.frame_bytes].view(storage.dtype)
    return _unpacked(block, i, storage.frame_bytes)


def _unpacked(block, i, n_bytes):
    storage = block.storage
    start = int(block.start[i])
    try:
        data = inflate(block.buffer[start : start + int(block.size[i])], n_bytes)
    except ValueError as error:
        raise damaged(block, i, str(error)) from error
    return unshuffle(data, storage.dtype) if storage.shuffled else data.view(storage.dtype)


def damaged(block, i, problem):
    """Error that says which frame of which file cannot be unpacked, to be raised."""
    storage = block.storage
    return ValueError(
        f"{storage.path}: {storage.dataset}, frame {int(block.rows[i])}: {problem}. Copy the file again; if that does "
        "not help, correct the run again or leave the file out."
    )


def stored_frames(block):
    """The frames of a block as compiled code wants them.

    Returns
    -------
    pulsetrain.kernels.Stored
    """
    dtype = block.storage.dtype
    values = block.buffer[: block.buffer.size // dtype.itemsize * dtype.itemsize].view(dtype)
    return Stored(block.buffer, values, block.start, block.size, block.packed, block.storage.shuffled)


def read_blocks(plans):
    """Read plans one after the other; the next one is read while the caller works on this one.

    Parameters
    ----------
    plans : iterable of ReadPlan
        Advanced in another thread, so it may look for the next file's chunks there.

    Yields
    ------
    Block
        Its memory is used again: valid until the next one is asked for.
    """
    plans = iter(plans)
    buffers = [None, None]

    with ThreadPoolExecutor(1) as coordinator, ThreadPoolExecutor(READERS) as readers:

        def read_next(turn):
            plan = next(plans, None)
            if plan is None:
                return None
            block = read_block(plan, buffers[turn], readers)
            if plan.storage.kind != "hdf5":
                buffers[turn] = block.buffer
            return block

        turn = 0
        pending = coordinator.submit(read_next, turn)
        while (block := pending.result()) is not None:
            turn = 1 - turn
            pending = coordinator.submit(read_next, turn)
            yield block


def read_rows(storage, rows, pool=None):
    """Read rows of a dataset as one array.

    Parameters
    ----------
    storage : Storage
    rows : array of int, (n,)
    pool : concurrent.futures.Executor, optional
        Threads that share the work.

    Returns
    -------
    ndarray, (n, ...) of the dataset's type
    """
    rows = np.asarray(rows, np.int64)
    values = np.empty((len(rows), *storage.shape), storage.dtype.newbyteorder("="))
    if not len(rows):
        return values
    flat = values.reshape(len(rows), -1)
    for plan in plan_reads(storage, np.arange(len(rows)), rows):
        block = unpack(read_block(plan, pool=pool), pool=pool)

        def place(i, block=block):
            flat[block.frames[i]] = frame_values(block, i)

        for _ in (map if pool is None else pool.map)(place, range(len(block.frames))):
            pass
    return values


def grown(buffer, n_bytes):
    """Page-aligned memory of at least `n_bytes`: the given one if it is large enough, else new."""
    if buffer is not None and buffer.nbytes >= n_bytes:
        return buffer
    memory = mmap.mmap(-1, max(int(n_bytes), PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def check_source(path, size):
    """Raise unless a source file is there with the size that check_run found.

    Parameters
    ----------
    path : Path
    size : int
        [bytes]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the source file is gone since check_run. Bring it back (from tape?), or run snakemake again."
        )
    found = path.stat().st_size
    if found != size:
        raise OSError(
            f"{path}: the file has {found} bytes; check_run found {size}. It was changed: run snakemake again."
        )
