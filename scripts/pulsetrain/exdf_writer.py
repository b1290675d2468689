"""Write files in the European XFEL data format ("EXDF"), as the facility's data acquisition does.

https://rtd.xfel.eu/docs/data-format describes it. Only what the simulator needs: train index, instrument and
control sources. Versions: ``0.1`` (the oldest index: first, last, status), ``0.5``, ``1.0``, ``1.1``, ``1.2``, ``1.3``.
"""

import h5py
import numpy as np

VERSIONS = ("0.1", "0.5", "1.0", "1.1", "1.2", "1.3")
ID_CHUNK = 32
CREATED = b"20231101T120000Z"  # fixed, so that a file rebuilt alone is the same file
CLOCK_START_NS = 1_698_840_000 * 10**9
TRAIN_PERIOD_NS = 10**8
TEXT = h5py.string_dtype()

# Numbers of karabo's enumerations Unit and MetricPrefix, as they stand in the attributes of the facility's files.
UNITS = {"m": (2, "meter"), "J": (15, "joule"), "V": (18, "volt"), "s": (4, "second"), "Hz": (9, "hertz")}
PREFIXES = {"": (10, ""), "u": (14, "micro"), "n": (15, "nano"), "p": (16, "pico"), "M": (6, "mega")}


def write_head(file, version, train_ids, flags, sources, run, sequence):
    """Write METADATA and the train index.

    Parameters
    ----------
    file : h5py.File
        New file.
    version : str
        One of `VERSIONS`.
    train_ids : ndarray of uint64, (T,)
    flags : ndarray, (T,)
        1 = the train ID comes from the time server, 0 = suspect. Stored in the sense of the version (1.1 holds an
        index in which 0 is the time server); not stored before 1.0.
    sources : list of str
        ``CONTROL/<device>`` or ``INSTRUMENT/<device>:<channel>/<group>``.
    run, sequence : int
    """
    if version not in VERSIONS:
        raise ValueError(f"format version {version!r} is not known; expected one of {', '.join(VERSIONS)}")
    old = version in ("0.1", "0.5")
    section, _, device = zip(*(name.partition("/") for name in sources), strict=True)
    listing = file.create_group("METADATA" if old else "METADATA/dataSources")
    for name, values in (("dataSourceId", sources), ("root", section), ("deviceId", device)):
        listing.create_dataset(name, data=[value.encode() for value in values], dtype=TEXT)
    train_ids = np.asarray(train_ids, dtype=np.uint64)
    _write_column(file, "INDEX/trainId", train_ids)
    if old:
        return
    for name, value in (
        ("dataFormatVersion", version.encode()),
        ("creationDate", CREATED),
        ("updateDate", CREATED),
        ("daqLibrary", b"1.9"),
        ("karaboFramework", b"2.10"),
        ("runType", b"simulated"),
        ("sample", b"simulated"),
    ):
        file.create_dataset(f"METADATA/{name}", data=[value], dtype=TEXT)
    for name, number in (("proposalNumber", 900000), ("runNumber", run), ("sequenceNumber", sequence)):
        file.create_dataset(f"METADATA/{name}", data=np.array([number], dtype=np.uint32))
    flags = np.asarray(flags, dtype=np.int32)
    _write_column(file, "INDEX/flag", 1 - flags if version == "1.1" else flags)
    _write_column(file, "INDEX/timestamp", timestamps(train_ids))
    if version in ("1.2", "1.3"):
        _write_column(file, "INDEX/origin", np.full(len(train_ids), -1, dtype=np.int32))


def timestamps(train_ids):
    """Time of each train [ns since 1970], (T,) uint64: 10 trains per second."""
    low = np.asarray(train_ids, dtype=np.uint64) & np.uint64(0xFFFFFFFF)
    return np.uint64(CLOCK_START_NS) + low * np.uint64(TRAIN_PERIOD_NS)


def write_index(file, version, source, first, count):
    """Write where the rows of each train lie.

    Parameters
    ----------
    file : h5py.File
    version : str
    source : str
        ``<device>`` or ``<device>:<channel>/<group>``.
    first, count : array_like of int, (T,)
    """
    first = np.asarray(first, dtype=np.uint64)
    count = np.asarray(count, dtype=np.uint64)
    _write_column(file, f"INDEX/{source}/first", first)
    if version == "0.1":
        last = np.where(count > 0, first + count - np.uint64(1), first)
        _write_column(file, f"INDEX/{source}/last", last.astype(np.uint64))
        _write_column(file, f"INDEX/{source}/status", (count > 0).astype(np.int32))
    else:
        _write_column(file, f"INDEX/{source}/count", count)


def write_instrument(file, source, key, values, unit=None, prefix=""):
    """Write one small dataset of an instrument source, all rows at once; `source` as in :func:`write_index`."""
    values = np.asarray(values)
    chunks = (min(ID_CHUNK, len(values)), *values.shape[1:]) if len(values) else None
    dataset = file.create_dataset(f"INSTRUMENT/{source}/{key}", data=values, chunks=chunks)
    if unit is not None:
        _write_unit(dataset, unit, prefix)
    return dataset


def write_control(file, device, train_ids, key, values, unit=None, prefix=""):
    """Write one slow-control value: an entry per train, and the one of the start of the run.

    Parameters
    ----------
    file : h5py.File
    device : str
    train_ids : ndarray of uint64, (T,)
    key : str
        Such as ``pulseEnergy/wavelengthUsed``.
    values : array_like, (T,) or scalar
        Numbers, or one text for all trains.
    unit, prefix : str
        Such as ``"m"`` and ``"n"``; written on the dataset and on its group, as the facility does.
    """
    if isinstance(values, str):
        values, at_start = [values.encode()] * len(train_ids), values.encode()
        kind = TEXT
    else:
        values = np.asarray(values)
        at_start = values if values.ndim == 0 else (values[0] if len(values) else np.zeros((), values.dtype))
        values = np.broadcast_to(values, (len(train_ids),))
        kind = values.dtype
    times = timestamps(train_ids)
    start = times[:1] if len(times) else np.array([CLOCK_START_NS], dtype=np.uint64)
    for section, held, stamps in (("CONTROL", values, times), ("RUN", [at_start], start)):
        group = file.create_group(f"{section}/{device}/{key}")
        dataset = group.create_dataset("value", data=held, dtype=kind)
        group.create_dataset("timestamp", data=stamps)
        if unit is not None:
            _write_unit(dataset, unit, prefix)
            _write_unit(group, unit, prefix)


def _write_column(file, name, values):
    chunks = (min(ID_CHUNK, len(values)),) if len(values) else None
    file.create_dataset(name, data=values, chunks=chunks)


def _write_unit(held, unit, prefix):
    held.attrs["unitEnum"] = np.array([UNITS[unit][0]], dtype=np.int32)
    held.attrs["unitName"] = UNITS[unit][1].encode()
    held.attrs["unitSymbol"] = unit.encode()
    held.attrs["metricPrefixEnum"] = np.array([PREFIXES[prefix][0]], dtype=np.int32)
    held.attrs["metricPrefixName"] = PREFIXES[prefix][1].encode()
    held.attrs["metricPrefixSymbol"] = prefix.encode()
