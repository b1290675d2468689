"""Simulate what a MID run has beside its AGIPD modules: two ePix cameras and a dark file, with truth and faults.

The AGIPD files are those of :mod:`pulsetrain.simulate_files`. The ePix start one train after AGIPD, as
in real runs. Each ePix image holds a bright line whose row tells the train.
"""

import difflib
import functools
import json
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain import exdf_writer, simulate_detector, simulate_faults
from pulsetrain.detector import MODULE_SHAPE, N_MODULES
from pulsetrain.mid_epix import EPIX_SHAPE, GROUP, PIXELS, epix_aggregator, epix_source
from pulsetrain.output import new_h5, whole_file, write_array

FAULTS = {
    "epix_lacks_trains": "EPIX-2 has no entry for two of the trains",
    "epix_count_zero": "a train of EPIX-1 has count 0 in INDEX and no row",
    "epix_two_frames": "a train of EPIX-1 has count 2",
    "epix_train_id_zero": "INDEX/trainId of EPIX-1 is 0 for one train in the middle of a file; its row remains",
    "epix_duplicate_train": "a train stands twice in a file of EPIX-2; INDEX/flag is 1 on both copies",
    "epix_duplicate_train_flagged": "a train stands twice in a file of EPIX-1; INDEX/flag is 0 on the second copy",
    "epix_index_hole": "between two trains the file of EPIX-2 holds a row that INDEX does not point to",
    "epix_index_off_by_one": "INDEX/trainId of one train of EPIX-2 is not that of data/trainId",
    "epix_truncated_file": "sequence file 1 of EPIX-2 is cut off at 60 % of its size",
    "epix_missing_file": "sequence file 1 of EPIX-1 does not exist",
    "no_epix_2": "no file of EPIX-2 exists",
    "dark_missing_module": "the dark file has no data of the last modules: its module axis is 13 long",
    "dark_missing_cell": "the dark file lacks the last memory cell",
    "dark_wrong_shape": "the dark file's images are (128, 512) instead of (512, 128)",
    "dark_turned_badpixel": "the dark file's Badpixel means the opposite",
}
# (ePix, positions of the trains in the run). All are in the ePix' second sequence file but for epix_count_zero.
FAULT_TRAINS = {
    "epix_lacks_trains": (2, (9, 11)),
    "epix_count_zero": (1, (3,)),
    "epix_two_frames": (1, (12,)),
    "epix_train_id_zero": (1, (10,)),
    "epix_duplicate_train": (2, (13,)),
    "epix_duplicate_train_flagged": (1, (13,)),
    "epix_index_hole": (2, (10,)),
    "epix_index_off_by_one": (2, (12,)),
}
MIN_TRAINS_FOR_FAULTS = 24
SEQUENCES = 3  # other borders than the AGIPD's
LATE = 1  # trains that the ePix miss at the start
JUNK = 77
CUT_AT = 0.6
PEDESTAL_ADU, PATTERN_ADU, NOISE_ADU, LINE_ADU, RING_ADU = 2400, 60, 12, 900, 150
LINE_STEP = 37  # rows between the lines of two trains; no divisor in common with 704
SEED_PATTERN, SEED_NOISE, SEED_ENERGY = 51, 52, 53
NEW, OLD = "new", "old"  # the two forms of Badpixel: (16 * 512, 128), 1 = good; (3, cells, 16, 512, 128), 0 = good


class EpixPlan(NamedTuple):
    """Contents of one ePix file: INDEX columns, and per row the position of its train (-1 = junk) and data/trainId."""

    index_train_id: np.ndarray
    flag: np.ndarray
    first: np.ndarray
    count: np.ndarray
    train: np.ndarray
    row_train_id: np.ndarray


def check_faults(settings, faults):
    """Raise ValueError for faults that do not exist or that a run of this size cannot have."""
    for name in faults:
        if name not in FAULTS:
            near = difflib.get_close_matches(name, FAULTS, n=3)
            raise ValueError(f"fault {name!r} is not known; nearest: {', '.join(near) or ', '.join(FAULTS)}")
    if faults and settings["trains"] < MIN_TRAINS_FOR_FAULTS:
        raise ValueError(f"faults need at least {MIN_TRAINS_FOR_FAULTS} trains; `trains` is {settings['trains']}")


def epix_files(data_root, run, numbers, faults=()):
    """Files of the ePix of a run, whether they exist or not: {number: [path, ...]}, absolute, as text."""
    directory = Path(data_root).resolve() / "raw" / f"r{run:04d}"
    return {
        number: [
            str(directory / f"RAW-R{run:04d}-{epix_aggregator(number)}-S{sequence:05d}.h5")
            for sequence in range(SEQUENCES)
            if not (number == 1 and sequence == 1 and "epix_missing_file" in faults)
        ]
        for number in numbers
        if not (number == 2 and "no_epix_2" in faults)
    }


def epix_trains(settings, sequence):
    """Positions in the run of the trains of one ePix file. They end one after the last train of AGIPD."""
    return np.array_split(np.arange(LATE, settings["trains"] + 1), SEQUENCES)[sequence]


def line_row(number, train):
    """Row of the bright line in the image of a train."""
    return 2 + (int(train) * LINE_STEP + 11 * number) % (EPIX_SHAPE[0] - 4)


def epix_image(settings, run, number, train):
    """Image of one ePix.

    Parameters
    ----------
    settings : dict
        :func:`pulsetrain.simulate.settings`.
    run, number : int
    train : int
        Position in the run.

    Returns
    -------
    ndarray of uint16, (708, 768)
        [ADU]
    """
    pedestal, ring = _still_life(settings["seed"], number)
    noise = np.random.default_rng([SEED_NOISE, settings["seed"], run, number, int(train)])
    image = noise.standard_normal(EPIX_SHAPE, dtype=np.float32)
    image *= np.float32(NOISE_ADU)
    image += pedestal
    energy = np.random.default_rng([SEED_ENERGY, settings["seed"], run, int(train)]).gamma(30, 1 / 30)
    image += np.float32(RING_ADU * energy) * ring
    image[line_row(number, train)] += LINE_ADU
    return np.rint(image).astype(np.uint16)


@functools.lru_cache(maxsize=2)
def _still_life(seed, number):
    """What all images of an ePix have: pedestals [ADU] and the shape of the scattering, both (708, 768) float32."""
    random = np.random.default_rng([SEED_PATTERN, seed, number])
    pedestal = PEDESTAL_ADU + PATTERN_ADU * random.standard_normal(EPIX_SHAPE, dtype=np.float32)
    row, column = np.ogrid[: EPIX_SHAPE[0], : EPIX_SHAPE[1]]
    distance = np.hypot(row - 500, column - 250 * number)
    return pedestal, np.exp(-(((distance - 220) / 40) ** 2) / 2).astype(np.float32)


def plan_epix_file(settings, number, sequence, faults=()):
    """Lay out one ePix file.

    Returns
    -------
    EpixPlan
    """

    def struck(fault):
        where, trains = FAULT_TRAINS[fault]
        return trains if fault in faults and where == number else ()

    index, flag, count, hole, train_of_row, id_of_row = [], [], [], [], [], []
    for train in epix_trains(settings, sequence).tolist():
        if train in struck("epix_lacks_trains"):
            continue
        twice = train in struck("epix_duplicate_train") or train in struck("epix_duplicate_train_flagged")
        for copy in range(2 if twice else 1):
            true_id = settings["first_train"] + train
            index_id = 0 if train in struck("epix_train_id_zero") else true_id
            index_id += 1000 if train in struck("epix_index_off_by_one") else 0
            n_rows = 0 if train in struck("epix_count_zero") else 1 + (train in struck("epix_two_frames"))
            index.append(index_id)
            flag.append(0 if copy and struck("epix_duplicate_train_flagged") else 1)
            count.append(n_rows)
            hole.append(int(train in struck("epix_index_hole")))
            train_of_row += [train] * n_rows + [-1] * hole[-1]
            id_of_row += [true_id] * n_rows + [0] * hole[-1]
    first = np.cumsum(np.add(count, hole)) - np.add(count, hole)
    return EpixPlan(
        np.array(index, np.uint64),
        np.array(flag, np.int32),
        first.astype(np.uint64),
        np.array(count, np.uint64),
        np.array(train_of_row, np.int64),
        np.array(id_of_row, np.uint64),
    )


def write_epix_file(path, settings, run, number, sequence, faults=(), attributes=None):
    """Write one sequence file of an ePix: data/image/pixels (rows, 708, 768) uint16 [ADU] and data/trainId."""
    check_faults(settings, faults)
    plan = plan_epix_file(settings, number, sequence, faults)
    source, version = epix_source(number), settings["format_version"]
    with whole_file(path) as part:
        with h5py.File(part, "w") as file:
            file.attrs.update(attributes or {})
            sources = [f"INSTRUMENT/{source}/{GROUP}"]
            exdf_writer.write_head(file, version, plan.index_train_id, plan.flag, sources, run, sequence)
            exdf_writer.write_index(file, version, f"{source}/{GROUP}", plan.first, plan.count)
            exdf_writer.write_instrument(file, source, f"{GROUP}/trainId", plan.row_train_id)
            pixels = file.create_dataset(
                f"INSTRUMENT/{source}/{PIXELS}",
                (len(plan.train), *EPIX_SHAPE),
                "u2",
                chunks=(1, *EPIX_SHAPE),
                maxshape=(None, *EPIX_SHAPE),
            )
            for row, train in enumerate(plan.train.tolist()):
                pixels[row] = JUNK if train < 0 else epix_image(settings, run, number, train)
        if number == 2 and sequence == 1 and "epix_truncated_file" in faults:
            os.truncate(part, int(part.stat().st_size * CUT_AT))


def dark_level(settings, module):
    """Digital value between high and medium gain, (512, 128) float32: as in the constants of simulated raw runs."""
    levels = simulate_detector.digital_levels(settings, module)
    return np.rint((levels[1] + levels[0]) / 2).astype(np.float32)


def dark_good_pixels(settings, module):
    """Pixels without a defect in any memory cell, bool (512, 128)."""
    return ~np.any([simulate_detector.bad_bits(settings, module, cell) for cell in range(settings["cells"])], axis=0)


def write_dark(path, settings, badpixel=NEW, faults=(), attributes=None):
    """Write a dark file with the true pedestals and gain thresholds of the modules in the settings.

    AnalogOffset and DigitalGainLevel float32 (3, cells, 16, 512, 128) [ADU]: pedestal and lower edge of each gain
    stage; Badpixel uint8 (16 * 512, 128), 1 = good, or (3, cells, 16, 512, 128), 0 = good.
    """
    check_faults({"trains": MIN_TRAINS_FOR_FAULTS}, faults)  # a dark file has no trains
    n_cells = settings["cells"] - ("dark_missing_cell" in faults)
    n_modules = 13 if "dark_missing_module" in faults else N_MODULES
    turn = (lambda image: image.T) if "dark_wrong_shape" in faults else (lambda image: image)
    shape = (3, n_cells, n_modules, *turn(np.empty(MODULE_SHAPE)).shape)
    good_is = 1 if (badpixel == NEW) == ("dark_turned_badpixel" not in faults) else 0
    with new_h5(path, attributes or {}) as file:
        chunked = {"chunks": (1, 1, 1, *shape[3:])}
        offset = file.create_dataset("AnalogOffset", shape, "f4", fillvalue=np.nan, **chunked)
        level = file.create_dataset("DigitalGainLevel", shape, "f4", **chunked)
        flags = np.full((N_MODULES, *MODULE_SHAPE), 1 - good_is, np.uint8)
        if badpixel == OLD:
            old = file.create_dataset("Badpixel", shape, "u1", fillvalue=1 - good_is, compression="gzip", **chunked)
        for module in settings["modules"]:
            if module >= n_modules:
                continue
            stages = simulate_detector.digital_levels(settings, module)
            edges = [np.zeros(MODULE_SHAPE), dark_level(settings, module), np.rint((stages[1] + stages[2]) / 2)]
            good = dark_good_pixels(settings, module)
            flags[module] = np.where(good, good_is, 1 - good_is)
            for cell in range(n_cells):
                pedestal, _ = simulate_detector.constants(settings, module, cell)
                bad = simulate_detector.bad_bits(settings, module, cell) != 0
                for stage in range(3):
                    offset[stage, cell, module] = turn(pedestal[stage])
                    level[stage, cell, module] = turn(edges[stage])
                    if badpixel == OLD:
                        old[stage, cell, module] = turn(np.where(bad, 1 - good_is, good_is))
        if badpixel == NEW:
            write_array(file, "Badpixel", flags.reshape(-1, MODULE_SHAPE[1]))
        offset.attrs["units"] = level.attrs["units"] = "ADU"


def expected_trains(settings, numbers, pulse_ids=None, faults=()):
    """Which trains should be exported.

    Parameters
    ----------
    settings : dict
    numbers : collection of int
        The chosen ePix.
    pulse_ids : list of int, optional
    faults : collection of str
        Of the ePix; those of AGIPD are in the settings.

    Returns
    -------
    kept : ndarray of int64
        Positions in the run.
    dropped : dict
        {position: list of the detectors that do not have the train}, AGIPD, EPIX-1, EPIX-2.
    """
    available = simulate_faults.expected_availability(settings)[settings["modules"]]
    whole = (available == simulate_faults.WHOLE).all(axis=0)
    if pulse_ids is not None and not set(pulse_ids) <= set(simulate_faults.pulse_ids(settings).tolist()):
        whole[:] = False
    lost = {number: set(range(LATE)) for number in numbers}
    for name, (number, trains) in FAULT_TRAINS.items():
        if name in faults and number in lost and name not in ("epix_duplicate_train_flagged", "epix_index_hole"):
            lost[number] |= set(trains)
    if "epix_truncated_file" in faults and 2 in lost:
        lost[2] |= set(epix_trains(settings, 1).tolist())
    if "epix_missing_file" in faults and 1 in lost:
        lost[1] |= set(epix_trains(settings, 1).tolist())
    dropped = {}
    for train in range(settings["trains"] + (1 if numbers else 0)):
        absent = [] if train < settings["trains"] and whole[train] else ["AGIPD"]
        absent += [f"EPIX-{number}" for number in sorted(numbers) if train in lost[number]]
        if absent:
            dropped[train] = absent
    kept = np.array([train for train in range(settings["trains"]) if train not in dropped], np.int64)
    return kept, dropped


def write_truth(path, settings, run, stream, numbers, pulse_ids, attributes=None):
    """Write which trains should be exported, and where the lines of the ePix are.

    ``expected/trainId`` (T,), ``expected/pulseId`` (P,); ``dropped/trainId``, ``dropped/detectors`` (D,): which do not
    have the train; ``EPIX-1/line_row`` (T,): row of the bright line.
    """
    kept, dropped = expected_trains(settings, numbers, pulse_ids)
    pulses = simulate_faults.pulse_ids(settings) if pulse_ids is None else np.sort(np.array(pulse_ids, np.uint64))
    about = {"run": run, "stream": stream, "seed": settings["seed"], "settings": json.dumps(settings, sort_keys=True)}
    with new_h5(path, {**(attributes or {}), **about}) as file:
        write_array(file, "expected/trainId", (settings["first_train"] + kept).astype(np.uint64))
        write_array(file, "expected/pulseId", pulses)
        write_array(file, "dropped/trainId", (settings["first_train"] + np.array(sorted(dropped))).astype(np.uint64))
        names = [", ".join(dropped[train]) for train in sorted(dropped)]
        file.create_dataset("dropped/detectors", data=names, shape=(len(names),), dtype=h5py.string_dtype())
        for number in numbers:
            write_array(
                file, f"EPIX-{number}/line_row", np.array([line_row(number, train) for train in kept], np.int64)
            )
