"""Outputs appear whole or not at all: written beside the final name, flushed, renamed."""

import contextlib
import os
import secrets
import socket
from pathlib import Path

import h5py
import numpy as np

MODE_VARIABLE = "PULSETRAIN_OUTPUT_MODE"


@contextlib.contextmanager
def whole_file(path, replace=True):
    """Give a temporary name beside `path`; rename it to `path` when the block ends without an error.

    The temporary name is unique per job, so that two jobs for one output (after a kill and a restart) cannot
    mix. The mode is the environment variable PULSETRAIN_OUTPUT_MODE (octal, default 0666) less the umask.

    Parameters
    ----------
    path : str or Path
        Final name. Its directory is made when it is missing.
    replace : bool
        Whether the file may take the place of one that is there when the block ends.

    Yields
    ------
    Path
        The name to write to.

    Raises
    ------
    FileExistsError
        If not `replace` and the file is there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_parts_of_dead_jobs(path)
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield part
        _flush(part)
        part.chmod(int(os.environ.get(MODE_VARIABLE, "0666"), 8) & ~_umask())
        if replace:
            part.replace(path)
        else:
            os.link(part, path)
            part.unlink()
        _flush(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_h5(path, attributes):
    """Give a new HDF5 file that becomes `path` when the block ends without an error.

    Parameters
    ----------
    path : str or Path
        Final name.
    attributes : dict
        Provenance, written as attributes of the root group (:func:`pulsetrain.provenance.begin_job`).

    Yields
    ------
    h5py.File
    """
    with whole_file(path) as part, h5py.File(part, "w") as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        yield file


def write_behind(file):
    """Let the kernel begin to write what it holds of an HDF5 file, and keep no pages that are written.

    Without it gigabytes gather in the page cache, until all writers of the machine have to wait; called every few
    megabytes, it made writing 2 to 8 times as fast on the disks at hand.
    """
    os.posix_fadvise(file.id.get_vfd_handle(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_text(path, text):
    """Write a text file whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_array(group, name, array, units=None, description=None):
    """Write one array, compressed with gzip 1 and shuffle when it has elements, with its unit as attribute."""
    array = np.asarray(array)
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.size and array.ndim else {}
    if array.ndim > 2 and array.size:
        packed["chunks"] = (1,) * (array.ndim - 2) + array.shape[-2:]
    dataset = group.create_dataset(name, data=array, **packed)
    if units is not None:
        dataset.attrs["units"] = units
    if description is not None:
        dataset.attrs["description"] = description
    return dataset


def _flush(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise RuntimeError("/proc/self/status has no Umask line; pulsetrain needs Linux 4.7 or later")


def _remove_parts_of_dead_jobs(path):
    host = socket.gethostname()
    for part in path.parent.glob(f".{path.name}.{host}.*.part"):
        pid = part.name[len(f".{path.name}.{host}.") :].split(".")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            part.unlink(missing_ok=True)
