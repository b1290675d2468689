import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_runs import WAYS, store

from pulsetrain import chunks

FRAME = (8, 16)
KINDS = {
    "contiguous": ("plain", 1),
    "chunk of 1": ("plain", 1),
    "chunk of 3": ("plain", 3),
    "gzip": ("packed", 1),
    "gzip shuffle": ("packed", 1),
    "gzip shuffle of 3": ("packed", 3),
    "gzip of 3": ("packed", 3),
    "resizable": ("packed", 1),
}


def write(path, way, n_frames=23, dtype="u2", frame=FRAME):
    values = np.random.default_rng(1).integers(0, 200, (n_frames, *frame)).astype(dtype)
    with h5py.File(path, "w", userblock_size=512 if way == "user block" else 0) as file:
        store(file, "some/data", values, way)
    return values


def read_frames(path, rows, dataset="some/data", cells=None, n_wanted=None, **limits):
    """All frames through read_blocks; {position in `rows`: values}, and the number of blocks."""
    found, n_blocks = {}, 0
    with chunks.open_storages() as storage_of:
        storage = storage_of(path, dataset, n_wanted=n_wanted)
        for packed in chunks.read_blocks(chunks.plan_reads(storage, np.arange(len(rows)), rows, cells, **limits)):
            block = chunks.unpack(packed)
            n_blocks += 1
            for i, position in enumerate(block.frames):
                assert position not in found
                assert block.rows[i] == rows[position]
                found[int(position)] = chunks.frame_values(block, i).copy()
    return found, n_blocks


def assert_frames(found, values, rows):
    assert sorted(found) == list(range(len(rows)))
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(found[position], values[row].reshape(-1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4"])
def test_all_ways_are_recognised_and_read(tmp_path, way, dtype):
    path = tmp_path / "data.h5"
    values = write(path, way, dtype=dtype)
    with chunks.open_storages() as storage_of:
        storage = storage_of(path, "some/data")
        known = "gzip" if way == "big endian" and dtype == "u1" else way  # a byte has no order
        assert (storage.kind, storage.rows_per_chunk) == KINDS.get(known, ("hdf5", 1))
        assert storage.shuffled == (way in ("gzip shuffle", "gzip shuffle of 3", "resizable"))
        assert (storage.n_rows, storage.shape, storage.dtype.name) == (23, FRAME, np.dtype(dtype).name)
        np.testing.assert_array_equal(chunks.read_rows(storage, [3, 22, 0, 3]), values[[3, 22, 0, 3]])
    rows = np.arange(23)
    assert_frames(read_frames(path, rows)[0], values, rows)


@settings(max_examples=60)
@given(
    st.sampled_from(["contiguous", "chunk of 3", "gzip shuffle", "gzip shuffle of 3", "lzf of 3"]),
    st.sets(st.integers(0, 22)),
    st.integers(1, 3000),
    st.integers(1, 30),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_any_rows_in_any_blocks(tmp_path_factory, way, rows, block_bytes, block_frames, n_cells, shuffled):
    path = tmp_path_factory.mktemp("rows") / "data.h5"
    values = write(path, way)
    rows = sorted(rows)
    shuffled.shuffle(rows)
    cells = [shuffled.randrange(n_cells) for _ in rows]
    found, _ = read_frames(path, np.array(rows, int), cells=cells, block_bytes=block_bytes, block_frames=block_frames)
    assert_frames(found, values, rows)


def test_blocks_keep_to_their_limits(tmp_path):
    path = tmp_path / "data.h5"
    write(path, "contiguous")
    rows = np.arange(23)
    assert read_frames(path, rows, block_frames=5)[1] == 5
    assert read_frames(path, rows, block_bytes=2 * 4 * 2 * 128)[1] == 3
    write(path, "gzip of 3")
    assert read_frames(path, rows, block_frames=1)[1] == 8  # a chunk is never divided


def test_blocks_of_plain_data_hold_a_cell_several_times():
    cells = np.tile(np.arange(352), 32)
    order = chunks._order_by_cells(cells, 256)
    assert sorted(order) == list(range(len(cells)))
    for first in range(0, len(order), 256):
        part = order[first : first + 256]
        assert len(np.unique(cells[part])) == 16
        assert len(np.flatnonzero(np.diff(np.sort(part)) != 1)) < 16  # in stretches of at least 16 frames


def test_close_pieces_are_read_together():
    offset = np.array([100, 200, 300, 300 + 2 * chunks.GAP_BYTES, 10**9, 10**9 + 1001])
    size = np.array([100, 100, 100, 100, 1000, 10])
    begin, length, place, total = chunks._spans(offset, size, 1)
    assert begin.tolist() == [100, 300 + 2 * chunks.GAP_BYTES, 10**9]
    assert length.tolist() == [300, 100, 1011]
    assert place.tolist() == [0, chunks.PAGE, 2 * chunks.PAGE]
    assert total == 3 * chunks.PAGE
    assert len(chunks._spans(offset, size, 4)[0]) == 4  # 1001 would not be aligned


def test_reading_over_several_spans(tmp_path):
    path = tmp_path / "data.h5"
    values = write(path, "chunk of 1", n_frames=40, dtype="f4", frame=(512, 128))
    rows = np.array([39, 0, 1, 2, 3, *range(6, 30), 33])
    assert_frames(read_frames(path, rows)[0], values, rows)


def test_missing_chunks_read_as_fill_value(tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("some/data", (9, *FRAME), "u2", chunks=(1, *FRAME), compression="gzip", fillvalue=7)
        data[3] = 1
        file.create_dataset("empty", (9, *FRAME), "u2", fillvalue=5)
        file.create_dataset("compact/none", (0, *FRAME), "u2")
    values = np.full((9, *FRAME), 7, "u2")
    values[3] = 1
    rows = np.arange(9)
    assert_frames(read_frames(path, rows)[0], values, rows)
    assert_frames(read_frames(path, rows, "empty")[0], np.full((9, *FRAME), 5), rows)
    assert read_frames(path, rows[:0], "compact/none") == ({}, 0)


def test_chunks_that_skipped_a_filter_are_read(tmp_path):
    path = tmp_path / "data.h5"
    values = write(path, "gzip")
    with h5py.File(path, "r+") as file:
        file["some/data"].id.write_direct_chunk((4, 0, 0), values[4].tobytes(), filter_mask=1)
    rows = np.arange(23)
    with chunks.open_storages() as storage_of:
        assert storage_of(path, "some/data").kind == "hdf5"
    assert_frames(read_frames(path, rows)[0], values, rows)


def test_virtual_and_external_data_are_read(tmp_path):
    path = tmp_path / "data.h5"
    values = write(path, "gzip")
    layout = h5py.VirtualLayout((23, *FRAME), "u2")
    layout[:] = h5py.VirtualSource(path, "some/data", (23, *FRAME))
    values.tofile(tmp_path / "outside.bin")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("outside", values.shape, "u2", external=[(tmp_path / "outside.bin", 0, values.nbytes)])
    rows = np.array([5, 1, 22])
    assert_frames(read_frames(tmp_path / "other.h5", rows, "virtual")[0], values, rows)
    assert_frames(read_frames(tmp_path / "other.h5", rows, "outside")[0], values, rows)


@pytest.mark.parametrize("way", ["contiguous", "chunk of 1", "gzip shuffle"])
@pytest.mark.parametrize("n_wanted", [None, 3])
def test_data_behind_an_external_link_are_read_from_their_own_file(tmp_path, way, n_wanted):
    values = write(tmp_path / "data.h5", way)
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["padding"] = np.zeros(100_000, "u1")
        file["some"] = h5py.ExternalLink("data.h5", "/some")
    rows = np.array([5, 1, 22])
    assert_frames(read_frames(tmp_path / "linked.h5", rows, n_wanted=n_wanted)[0], values, rows)


@pytest.mark.parametrize("way", WAYS)
def test_selected_frames_as_one_block(tmp_path, way):
    values = write(tmp_path / "data.h5", way)
    rows = np.array([5, 1, 22, 4, 12])
    for n_wanted in (None, 1):
        with chunks.open_storages() as storage_of:
            storage = storage_of(tmp_path / "data.h5", "some/data", n_wanted=n_wanted)
            block = chunks.read_frames(storage, np.arange(5) + 10, rows, single=True)
            found = {int(k) - 10: chunks.frame_values(block, i) for i, k in enumerate(block.frames)}
            assert not block.packed
            np.testing.assert_array_equal(rows[block.frames - 10], block.rows)
            assert_frames(found, values, rows)


@pytest.mark.parametrize("chunk", [(1, 1, *FRAME), (2, 1, *FRAME), (1, 2, *FRAME), None])
def test_two_leading_axes(tmp_path, chunk):
    values = np.random.default_rng(2).normal(size=(3, 5, *FRAME)).astype("f4")
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        packed = {"compression": "gzip", "shuffle": True} if chunk else {}
        file.create_dataset("data", data=values, chunks=chunk, **packed)
    with chunks.open_storages() as storage_of:
        storage = storage_of(path, "data", 2)
        assert storage.kind == {(1, 1, *FRAME): "packed", None: "plain"}.get(chunk, "hdf5")
        rows = [14, 0, 7, 8]
        np.testing.assert_array_equal(chunks.read_rows(storage, rows), values.reshape(15, *FRAME)[rows])


@pytest.mark.parametrize("way", ["gzip", "gzip shuffle of 3"])
def test_damaged_chunks_name_file_dataset_and_frame(tmp_path, way):
    path = tmp_path / "data.h5"
    write(path, way)
    with chunks.open_storages() as storage_of:
        storage = storage_of(path, "some/data")
        chunk = 12 // storage.rows_per_chunk
        with path.open("r+b") as file:
            file.seek(int(storage.offset[chunk]) + 10)
            file.write(b"\xff" * 20)
        (plan,) = chunks.plan_reads(storage, [0], [12])
        with pytest.raises(ValueError, match=r"data\.h5: some/data, frame 12: .*Copy the file again"):
            chunks.unpack(chunks.read_block(plan), single=True)


def test_a_file_that_is_cut_off_is_an_error(tmp_path):
    path = tmp_path / "data.h5"
    write(path, "contiguous")
    with chunks.open_storages() as storage_of:
        storage = storage_of(path, "some/data")
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(OSError, match=r"data\.h5: the file ends at byte"):
            list(chunks.read_blocks(chunks.plan_reads(storage, np.arange(23), np.arange(23))))


def test_rows_beyond_the_end_are_an_error(tmp_path):
    path = tmp_path / "data.h5"
    write(path, "gzip")
    with (
        chunks.open_storages() as storage_of,
        pytest.raises(ValueError, match="has 23 frames; the frame table asks for frame 23"),
    ):
        chunks.plan_reads(storage_of(path, "some/data"), [0], [23])


def test_missing_datasets_and_files_are_errors(tmp_path):
    path = tmp_path / "data.h5"
    write(path, "gzip")
    with chunks.open_storages() as storage_of:
        with pytest.raises(KeyError, match="there is no dataset other"):
            storage_of(path, "other")
        with pytest.raises(FileNotFoundError, match=r"none\.h5"):
            storage_of(tmp_path / "none.h5", "other")


def test_sources_are_checked_for_being_there_and_their_size(tmp_path):
    path = tmp_path / "data.h5"
    write(path, "gzip")
    size = path.stat().st_size
    chunks.check_source(path, size)
    with pytest.raises(OSError, match=f"found {size + 1}"):
        chunks.check_source(path, size + 1)
    shutil.move(path, tmp_path / "away.h5")
    with pytest.raises(FileNotFoundError, match="gone since check_run"):
        chunks.check_source(path, size)


def test_files_are_closed_when_reading_stops_early(tmp_path):
    path = tmp_path / "data.h5"
    write(path, "contiguous")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with chunks.open_storages() as storage_of:
        plans = chunks.plan_reads(storage_of(path, "some/data"), np.arange(23), np.arange(23), block_frames=2)
        blocks = chunks.read_blocks(plans)
        next(blocks)
        blocks.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("way", WAYS)
def test_few_frames_are_found_without_listing_all(tmp_path, way):
    path = tmp_path / "data.h5"
    values = write(path, way)
    rows = np.array([20, 3, 4])
    with chunks.open_storages() as storage_of:
        storage = storage_of(path, "some/data", n_wanted=1)
        looked_up = way == "chunk of 1" or KINDS.get(way, ("hdf5", 1))[0] == "packed"
        assert (storage.direct is not None) == looked_up
    found, _ = read_frames(path, rows, n_wanted=1, block_frames=2)
    assert_frames(found, values, rows)


@pytest.mark.parametrize("n_wanted", [1, 100])
def test_few_frames_with_missing_and_unfiltered_chunks(tmp_path, n_wanted):
    path = tmp_path / "data.h5"
    values = np.full((30, *FRAME), 7, "u2")
    with h5py.File(path, "w") as file:
        data = file.create_dataset("some/data", values.shape, "u2", chunks=(1, *FRAME), compression="gzip", fillvalue=7)
        for row in (3, 4, 6):
            data[row] = values[row] = row
        data.id.write_direct_chunk((4, 0, 0), values[4].tobytes(), filter_mask=1)
    for rows in ([6, 3], [6, 3, 4], [5, 6]):
        assert_frames(read_frames(path, np.array(rows), n_wanted=n_wanted)[0], values, rows)
