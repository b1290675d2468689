"""Dragonfly's binary photon files (``.emc``): the places of pixels with one and with more photons.

Layout, all int32 little-endian: number of frames, pixels per frame, type 0, padding to 1024 bytes; then per frame
the number of pixels with one photon and of those with more; then, all frames after one another, the places of the
former, the places of the latter and their photons
(https://github.com/duaneloh/Dragonfly/wiki/EMC-file-format).
"""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from pulsetrain.cxi import DETECTOR, map_frames

HEADER_BYTES = 1024
SPARSE = 0
INT = np.dtype("<i4")


class EmcPhotons(NamedTuple):
    """A photon file as it lies on disk.

    Attributes
    ----------
    path : Path
    n_pixels : int
        Pixels per frame.
    ones, multi : ndarray of int32, (N,)
        Per frame: pixels with exactly one photon, pixels with more.
    place_ones, place_multi, count_multi : ndarray of int32
        Of all frames after one another; a place is an index into the flat frame (module, slow_scan, fast_scan).
    """

    path: Path
    n_pixels: int
    ones: np.ndarray
    multi: np.ndarray
    place_ones: np.ndarray
    place_multi: np.ndarray
    count_multi: np.ndarray


def write_photons(path, frames, n_frames, n_pixels):
    """Write a photon file as the frames come; memory use does not depend on their number.

    Parameters
    ----------
    path : str or Path
    frames : iterable of (place_ones, place_multi, count_multi)
        int32 arrays of each frame, as :func:`sparse_frame` gives them.
    n_frames : int
    n_pixels : int
        Pixels per frame.

    Raises
    ------
    ValueError
        If there are fewer or more than `n_frames` frames.
    """
    counts = np.zeros((2, n_frames), dtype=INT)
    folder = Path(path).parent
    with (
        Path(path).open("wb") as out,
        tempfile.TemporaryFile(dir=folder) as places,
        tempfile.TemporaryFile(dir=folder) as photons,
    ):
        out.seek(HEADER_BYTES + counts.nbytes)
        written = 0
        for place_ones, place_multi, count_multi in frames:
            if written == n_frames:
                raise ValueError(f"{path}: more frames than the {n_frames} announced")
            counts[:, written] = len(place_ones), len(place_multi)
            out.write(place_ones.astype(INT, copy=False).tobytes())
            places.write(place_multi.astype(INT, copy=False).tobytes())
            photons.write(count_multi.astype(INT, copy=False).tobytes())
            written += 1
        if written != n_frames:
            raise ValueError(f"{path}: {written} frames instead of the {n_frames} announced")
        for spool in (places, photons):
            spool.seek(0)
            shutil.copyfileobj(spool, out, 1 << 20)
        header = np.zeros(HEADER_BYTES // INT.itemsize, dtype=INT)
        header[:3] = n_frames, n_pixels, SPARSE
        out.seek(0)
        out.write(header.tobytes())
        out.write(counts.tobytes())


def read_photons(path):
    """Open a photon file and check that it is whole.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    EmcPhotons
        Arrays mapped from the file.

    Raises
    ------
    ValueError
        If header, tables and length of the file do not fit together.
    """
    path = Path(path)
    size = path.stat().st_size
    if size < HEADER_BYTES or size % INT.itemsize:
        raise ValueError(f"{path} has {size} bytes; expected a header of {HEADER_BYTES} and then int32 numbers")
    words = np.memmap(path, dtype=INT, mode="r")
    n_frames, n_pixels, kind = (int(word) for word in words[:3])
    if kind != SPARSE or n_frames < 0 or n_pixels < 0:
        raise ValueError(f"{path}: header says {n_frames} frames of {n_pixels} pixels, type {kind}; expected type 0")
    start = HEADER_BYTES // INT.itemsize
    if len(words) < start + 2 * n_frames:
        raise ValueError(f"{path} ends within the tables of its {n_frames} frames")
    ones = words[start : start + n_frames]
    multi = words[start + n_frames : start + 2 * n_frames]
    if n_frames and min(ones.min(), multi.min()) < 0:
        raise ValueError(f"{path}: a frame has a negative number of pixels")
    n_ones, n_multi = int(ones.sum(dtype=np.int64)), int(multi.sum(dtype=np.int64))
    expected = HEADER_BYTES + INT.itemsize * (2 * n_frames + n_ones + 2 * n_multi)
    if size != expected:
        raise ValueError(f"{path} has {size} bytes; its tables ask for {expected}. It is cut off or damaged.")
    body = words[start + 2 * n_frames :]
    places = body[:n_ones], body[n_ones : n_ones + n_multi]
    return EmcPhotons(path, n_pixels, ones, multi, *places, body[n_ones + n_multi :])


def frames_of(photons):
    """Go through the frames of a photon file; memory use does not depend on their number.

    Parameters
    ----------
    photons : EmcPhotons

    Yields
    ------
    place_ones, place_multi, count_multi : ndarray of int32
    """
    # Read, since the pages of a mapped file count as memory of the process.
    lengths = 2 * len(photons.ones), len(photons.place_ones), len(photons.place_multi)
    starts = HEADER_BYTES + INT.itemsize * np.cumsum(lengths)
    with ExitStack() as stack:
        parts = [stack.enter_context(photons.path.open("rb")) for _ in starts]
        for part, start in zip(parts, starts.tolist(), strict=True):
            part.seek(start)
        for n_ones, n_multi in zip(photons.ones.tolist(), photons.multi.tolist(), strict=True):
            yield tuple(np.fromfile(part, INT, n) for part, n in zip(parts, (n_ones, n_multi, n_multi), strict=True))


def sparse_frame(frame, good_pixels):
    """Find the lit pixels of a frame.

    Parameters
    ----------
    frame : ndarray of uint8 or uint16, (...,)
        Photons; the number of pixels is a multiple of 8. C order.
    good_pixels : ndarray of bool, same shape
        Photons elsewhere are left out.

    Returns
    -------
    place_ones, place_multi, count_multi : ndarray of int32
        In ascending order.
    """
    flat = frame.reshape(-1)
    lit = np.empty(flat.size, dtype=np.int32)
    n_lit = _find_lit(flat.view(np.uint64), flat, good_pixels.reshape(-1), lit)
    places = lit[:n_lit]
    photons = flat[places]
    several = photons > 1
    return places[~several], places[several], photons[several].astype(np.int32)


def write_emc(path, file, good_pixels, threads=2):
    """Write the photons of a CXI file of hits as Dragonfly's photon file.

    Parameters
    ----------
    path : str or Path
    file : h5py.File
        Written by write_cxi.
    good_pixels : ndarray of bool, (16, 512, 128)
        Photons elsewhere are left out.
    threads : int
    """
    data = file[f"{DETECTOR}/data"]
    frames = map_frames(data, lambda frame: sparse_frame(frame, good_pixels), threads)
    write_photons(path, frames, len(data), good_pixels.size)


def verify_emc(path, file, good_pixels, threads=2):
    """Read a photon file back and compare every frame with the CXI file.

    Dragonfly reads a file that was cut off, or whose numbers of pixels differ, without an error, and its results
    then look sound; so this is the place where such a file must be found.

    Parameters
    ----------
    path : str or Path
    file : h5py.File
    good_pixels : ndarray of bool, (16, 512, 128)
    threads : int

    Returns
    -------
    int
        Photons in the file.

    Raises
    ------
    ValueError
        At the first difference.
    """
    data = file[f"{DETECTOR}/data"]
    photons = read_photons(path)
    if (len(photons.ones), photons.n_pixels) != (len(data), good_pixels.size):
        raise ValueError(
            f"{path} holds {len(photons.ones)} frames of {photons.n_pixels} pixels; {file.filename} has {len(data)} of "
            f"{good_pixels.size}"
        )
    total = 0
    expected_frames = map_frames(data, lambda frame: _lit_pixels(frame, good_pixels), threads)
    for i, (expected, held) in enumerate(zip(expected_frames, frames_of(photons), strict=True)):
        place_ones, place_multi, count_multi = held
        places = np.concatenate([place_ones, place_multi])
        counts = np.concatenate([np.ones(len(place_ones), INT), count_multi])
        order = np.argsort(places)
        if not all(map(np.array_equal, (places[order], counts[order]), expected)):
            raise ValueError(
                f"{path}: frame {i} has {len(places)} lit pixels and {counts.sum()} photons and differs from "
                f"{file.filename} with {len(expected[0])} and {expected[1].sum()}. The file was not kept. Run "
                "write_emc again; if it happens twice, the disk or memory is at fault."
            )
        total += int(counts.sum(dtype=np.int64))
    return total


def _lit_pixels(frame, good_pixels):
    """Places and photons of a frame by numpy alone, not by what wrote the file."""
    kept = (frame * good_pixels).reshape(-1)
    places = np.flatnonzero(kept != 0)
    return places, kept[places]


@njit(nogil=True, cache=True)
def _find_lit(words, photons, good, lit):
    """Places of lit good pixels; whole 64-bit words are skipped when dark, as most are."""
    per_word = photons.size // words.size
    n_lit = 0
    for word in range(words.size):
        if words[word] == 0:
            continue
        for pixel in range(per_word * word, per_word * (word + 1)):
            if photons[pixel] != 0 and good[pixel]:
                lit[n_lit] = pixel
                n_lit += 1
    return n_lit
