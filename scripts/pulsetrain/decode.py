"""Undo the HDF5 filters gzip and shuffle on the bytes of one chunk, outside the HDF5 library and without the GIL.

libdeflate takes about a third of zlib's time, and two thirds of ISA-L's. Compiled code calls it directly: with a Python
call per frame of some 30 us, threads would spend as long waiting for the GIL.
"""

import deflate
import llvmlite.binding
import numpy as np
from numba import njit, types

# The package deflate brings libdeflate; compiled code finds the functions in it by name.
llvmlite.binding.load_library_permanently(deflate._deflate.__file__)
if llvmlite.binding.address_of_symbol("libdeflate_zlib_decompress") is None:
    raise ImportError(
        f"{deflate._deflate.__file__} has no function libdeflate_zlib_decompress; install the package deflate as "
        "pyproject.toml names it"
    )
# https://github.com/ebiggers/libdeflate/blob/v1.25/libdeflate.h; pointers are passed as addresses
_alloc_decompressor = types.ExternalFunction("libdeflate_alloc_decompressor", types.uintp())
_free_decompressor = types.ExternalFunction("libdeflate_free_decompressor", types.void(types.uintp))
_zlib_decompress = types.ExternalFunction(
    "libdeflate_zlib_decompress",
    types.int32(types.uintp, types.uintp, types.uintp, types.uintp, types.uintp, types.uintp),
)

DAMAGES = {
    1: "the compressed bytes are damaged",
    2: "the compressed bytes hold less than a frame",
    3: "the compressed bytes hold more than a frame",
    4: "there is no memory to unpack it",
}
NO_MEMORY = 4


def inflate(packed, n_bytes):
    """Decompress a chunk that HDF5's gzip filter wrote (zlib format).

    Parameters
    ----------
    packed : buffer
    n_bytes : int
        Size that the chunk must have.

    Returns
    -------
    ndarray of uint8, (n_bytes,)

    Raises
    ------
    ValueError
        The bytes are damaged or have another size.
    """
    try:
        data = deflate.zlib_decompress(packed, n_bytes)
    except deflate.DeflateError as error:
        raise ValueError(f"the compressed bytes are damaged, or hold more than {n_bytes} bytes") from error
    if len(data) != n_bytes:
        raise ValueError(f"the compressed bytes hold {len(data)} bytes; expected {n_bytes}")
    return np.frombuffer(data, np.uint8)


@njit(cache=True, nogil=True)
def open_decompressor():
    """Make a decompressor for :func:`inflate_into`, for one thread; 0 if there is no memory."""
    return _alloc_decompressor()


@njit(cache=True, nogil=True)
def close_decompressor(decompressor):
    """Give a decompressor's memory back."""
    if decompressor != 0:
        _free_decompressor(decompressor)


@njit(cache=True, nogil=True)
def inflate_into(decompressor, buffer, start, size, target):
    """Decompress ``buffer[start : start + size]``, which must hold exactly as many bytes as `target`.

    Parameters
    ----------
    decompressor : int
        From :func:`open_decompressor`.
    buffer : ndarray of uint8
    start, size : int
    target : ndarray of uint8

    Returns
    -------
    int
        0, or a key of DAMAGES.
    """
    if decompressor == 0:
        return NO_MEMORY
    return _zlib_decompress(
        decompressor, buffer.ctypes.data + start, size, target.ctypes.data, target.size, np.uintp(0)
    )


def unshuffle(planes, dtype):
    """Undo HDF5's shuffle filter: from byte planes (all first bytes, all second bytes, ...) to values.

    Parameters
    ----------
    planes : ndarray of uint8, (n * itemsize,)
    dtype : numpy.dtype

    Returns
    -------
    ndarray of `dtype`, (n,)
    """
    dtype = np.dtype(dtype)
    if dtype.itemsize == 1:
        return planes.view(dtype)
    values = np.empty(planes.size // dtype.itemsize, dtype)
    join_planes(planes, values)
    return values


@njit(cache=True, nogil=True)
def join_planes(planes, values):
    """Undo HDF5's shuffle filter.

    Parameters
    ----------
    planes : ndarray of uint8, (n * itemsize,)
    values : ndarray, (n,)
        Becomes the values.
    """
    n = values.size
    if values.itemsize == 2:
        words = values.view(np.uint16)
        p0, p1 = planes[:n], planes[n : 2 * n]
        for i in range(n):
            words[i] = np.uint16(p0[i]) | (np.uint16(p1[i]) << np.uint16(8))
    elif values.itemsize == 4:
        longs = values.view(np.uint32)
        p0, p1, p2, p3 = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
        for i in range(n):
            low = np.uint32(p0[i]) | (np.uint32(p1[i]) << np.uint32(8))
            high = (np.uint32(p2[i]) << np.uint32(16)) | (np.uint32(p3[i]) << np.uint32(24))
            longs[i] = low | high
    else:
        itemsize = values.itemsize
        items = values.view(np.uint8)
        for k in range(itemsize):
            for i in range(n):
                items[i * itemsize + k] = planes[k * n + i]
