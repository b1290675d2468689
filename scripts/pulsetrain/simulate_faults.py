"""Which rows a simulated module file holds, with and without the faults that real runs have.

Each fault sits in fixed modules and trains (`FAULT_MODULES`, `FAULT_TRAINS`), so that tests can name them.
"""

import difflib
from typing import NamedTuple

import numpy as np

FAULTS = {
    "module_lacks_trains": "the module's files do not have two of the trains",
    "module_count_zero": "a train of the module has count 0 in INDEX and no data rows",
    "first_file_without_trains": "sequence 0 of the module holds no trains",
    "train_id_zero": "INDEX/trainId is 0 for one train in the middle of a file; its data rows remain",
    "duplicate_train_flagged": "a train stands twice in the module's file; INDEX/flag is 0 on the second copy",
    "duplicate_train": "a train stands twice in the module's file; INDEX/flag is 1 on both copies",
    "bit_flipped_train": "one train ID of the module has bit 40 flipped, in INDEX and in image/trainId",
    "index_off_by_one": "INDEX/trainId of the module is one more than image/trainId, in all its trains",
    "short_train": "a train of the module lacks its last two frames",
    "pulse_id_differs": "the last frame of a train has another pulseId in this module than in the others",
    "pulse_ids_start_at_4": "pulseId starts at 4 instead of 0, in all modules (harmless)",
    "cell_id_shifted": "cellId of the module is one too large in one train",
    "missing_sequence_file": "the last sequence file of the module does not exist",
    "truncated_file": "sequence file 0 of the module is cut off at 60 % of its size",
    "missing_module": "no file of the module exists",
    "half_detector_starts_late": "modules 8-15 lack the first train of the run",
    "index_hole": "between two trains the module's file holds two rows that INDEX does not point to",
    "no_mask": "the corrected files of all modules have no image/mask",
    "xgm_missing_trains": "the XGM has count 0 for two trains",
    "out_of_order_trains": "two trains stand in the wrong order in the module's file",
    "image_train_id_zero": "image/trainId is 0 in all frames of one train of the module; INDEX is right",
    "still_being_copied": "the last sequence file of the module is cut off at 60 % of its size",
}

# Faults that are not in this table are in all modules or in none.
FAULT_MODULES = {
    "module_lacks_trains": (5,),
    "module_count_zero": (6,),
    "first_file_without_trains": (9,),
    "train_id_zero": (3,),
    "duplicate_train_flagged": (10,),
    "duplicate_train": (11,),
    "bit_flipped_train": (12,),
    "index_off_by_one": (13,),
    "short_train": (4,),
    "pulse_id_differs": (1,),
    "cell_id_shifted": (14,),
    "missing_sequence_file": (8,),
    "truncated_file": (15,),
    "missing_module": (2,),
    "half_detector_starts_late": tuple(range(8, 16)),
    "index_hole": (7,),
    "out_of_order_trains": (6,),
    "image_train_id_zero": (5,),
    "still_being_copied": (0,),
}

# Positions of the trains in the run. out_of_order_trains exchanges the first two trains of the last sequence;
# faults that are not in this table are in all trains or in those of one file.
FAULT_TRAINS = {
    "module_lacks_trains": (1, 4),
    "module_count_zero": (2,),
    "train_id_zero": (1,),
    "duplicate_train_flagged": (1,),
    "duplicate_train": (1,),
    "bit_flipped_train": (4,),
    "short_train": (2,),
    "pulse_id_differs": (3,),
    "cell_id_shifted": (2,),
    "half_detector_starts_late": (0,),
    "index_hole": (1,),
    "xgm_missing_trains": (1, 3),
    "image_train_id_zero": (1,),
}
MIN_TRAINS_FOR_FAULTS = 6
FLIPPED_BIT = 1 << 40
HOLE_ROWS = 2
SHORT_BY = 2

ABSENT, WHOLE, UNTRUSTED = 0, 1, 2  # codes of /expected/module_availability in the truth file
FAULT_CODES = {  # what becomes of a module's train; faults that are not in this table make it UNTRUSTED
    "module_lacks_trains": ABSENT,
    "module_count_zero": ABSENT,
    "first_file_without_trains": ABSENT,
    "missing_sequence_file": ABSENT,
    "truncated_file": ABSENT,
    "missing_module": ABSENT,
    "half_detector_starts_late": ABSENT,
    "still_being_copied": ABSENT,
    "duplicate_train_flagged": WHOLE,
    "index_hole": WHOLE,
    "out_of_order_trains": WHOLE,
}


class FilePlan(NamedTuple):
    """The contents of one module file but for the pixels.

    Attributes
    ----------
    index_train_id, first, count : ndarray of uint64, (T,)
    flag : ndarray of int32, (T,)
        1 = good (the writer turns it into the sense of the format version).
    frame : ndarray of int64, (N,)
        Frame of the run whose pixels the row holds; -1 = a row that belongs to no train.
    train_id, pulse_id : ndarray of uint64, (N,)
    cell_id : ndarray of uint16, (N,)
    """

    index_train_id: np.ndarray
    flag: np.ndarray
    first: np.ndarray
    count: np.ndarray
    frame: np.ndarray
    train_id: np.ndarray
    pulse_id: np.ndarray
    cell_id: np.ndarray


def check_faults(names, trains, modules):
    """Raise ValueError for faults that do not exist or cannot be seen in a run of this size."""
    for name in names:
        if name not in FAULTS:
            near = difflib.get_close_matches(name, FAULTS, n=3)
            raise ValueError(f"fault {name!r} is not known; nearest: {', '.join(near) or ', '.join(FAULTS)}")
        absent = sorted(set(FAULT_MODULES.get(name, ())) - set(modules))
        if absent and len(absent) == len(FAULT_MODULES[name]):
            raise ValueError(f"fault {name!r} is in module {absent[0]}, which `modules` {list(modules)} does not have")
    if names and trains < MIN_TRAINS_FOR_FAULTS:
        raise ValueError(f"faults need at least {MIN_TRAINS_FOR_FAULTS} trains; `trains` is {trains}")


def sequence_trains(settings, sequence):
    """Positions in the run of the trains of one sequence file, (T,)."""
    return np.array_split(np.arange(settings["trains"]), settings["sequences"])[sequence]


def pulse_ids(settings):
    """Pulse IDs of a train, (cells,) uint64."""
    start = 4 if "pulse_ids_start_at_4" in settings["faults"] else 0
    return np.arange(settings["cells"], dtype=np.uint64) * np.uint64(settings["pulse_step"]) + np.uint64(start)


def cell_ids(settings):
    """Memory cells of a train in the order of the pulses, (cells,) uint16, the same in all trains and modules."""
    cells = np.arange(settings["cells"], dtype=np.uint16)
    if settings["cell_order"] == "shuffled":
        return np.random.default_rng([settings["seed"], 7]).permutation(cells)
    return cells


def hits_module(settings, fault, module):
    """Whether a fault is in the settings and in this module."""
    return fault in settings["faults"] and module in FAULT_MODULES.get(fault, range(16))


def is_cut(settings, module, sequence):
    """Whether this file is cut off before its end."""
    last = settings["sequences"] - 1
    return (hits_module(settings, "truncated_file", module) and sequence == 0) or (
        hits_module(settings, "still_being_copied", module) and sequence == last
    )


def has_file(settings, module, sequence):
    """Whether the run has this file at all."""
    if hits_module(settings, "missing_module", module):
        return False
    return not (hits_module(settings, "missing_sequence_file", module) and sequence == settings["sequences"] - 1)


def plan_file(settings, module, sequence):
    """Lay out one module file.

    Parameters
    ----------
    settings : dict
        :func:`pulsetrain.simulate.settings`.
    module, sequence : int

    Returns
    -------
    FilePlan
    """

    def struck(fault):
        return FAULT_TRAINS[fault] if hits_module(settings, fault, module) else ()

    trains = list(sequence_trains(settings, sequence))
    if hits_module(settings, "first_file_without_trains", module) and sequence == 0:
        trains = []
    gone = {*struck("module_lacks_trains"), *struck("half_detector_starts_late")}
    trains = [train for train in trains if train not in gone]
    if hits_module(settings, "out_of_order_trains", module) and sequence == settings["sequences"] - 1:
        trains[:2] = trains[1::-1]
    twice = {*struck("duplicate_train_flagged"), *struck("duplicate_train")}
    trains = [train for train in trains for _ in range(2 if train in twice else 1)]

    index, flags, counts, blocks, holes = [], [], [], [], []
    for position, train in enumerate(trains):
        is_copy = position > 0 and trains[position - 1] == train
        index_id, block = _plan_train(settings, struck, train)
        if hits_module(settings, "index_off_by_one", module):
            index_id += 1
        index.append(index_id)
        flags.append(0 if is_copy and struck("duplicate_train_flagged") else 1)
        counts.append(len(block[0]))
        blocks.append(block)
        holes.append(HOLE_ROWS if train in struck("index_hole") else 0)
        if holes[-1]:
            blocks.append((np.full(HOLE_ROWS, -1), *(np.zeros(HOLE_ROWS, dtype=np.uint64) for _ in range(3))))
    starts = np.concatenate([[0], np.cumsum(np.add(counts, holes))[:-1]]) if counts else np.zeros(0)
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)] if blocks else [np.zeros(0)] * 4
    frame, train_id, pulse_id, cell_id = columns
    return FilePlan(
        np.array(index, dtype=np.uint64),
        np.array(flags, dtype=np.int32),
        starts.astype(np.uint64),
        np.array(counts, dtype=np.uint64),
        frame.astype(np.int64),
        train_id.astype(np.uint64),
        pulse_id.astype(np.uint64),
        cell_id.astype(np.uint16),
    )


def _plan_train(settings, struck, train):
    """Train ID for INDEX, and the rows of one train as (frame, train_id, pulse_id, cell_id)."""
    n_cells = settings["cells"]
    true_id = settings["first_train"] + int(train)
    index_id, image_id = true_id, true_id
    if train in struck("bit_flipped_train"):
        index_id = image_id = true_id ^ FLIPPED_BIT
    if train in struck("train_id_zero"):
        index_id = 0
    if train in struck("image_train_id_zero"):
        image_id = 0
    n_rows = n_cells
    if train in struck("short_train"):
        n_rows = max(0, n_cells - SHORT_BY)
    if train in struck("module_count_zero"):
        n_rows = 0
    pulses = pulse_ids(settings)[:n_rows].copy()
    cells = cell_ids(settings)[:n_rows].copy()
    if train in struck("pulse_id_differs"):
        pulses[-1] += np.uint64(2)
    if train in struck("cell_id_shifted"):
        cells += np.uint16(1)
    frames = int(train) * n_cells + np.arange(n_rows)
    return index_id, (frames, np.full(n_rows, image_id, dtype=np.uint64), pulses, cells)


def expected_availability(settings):
    """What each module really has of each train.

    Returns
    -------
    ndarray of uint8, (16, T)
        ABSENT, WHOLE, or UNTRUSTED (there, but not to be used as it stands). A train that stands twice with one
        copy flagged is WHOLE: the good copy can be told.
    """
    table = np.zeros((16, settings["trains"]), dtype=np.uint8)
    table[settings["modules"]] = WHOLE
    for fault in settings["faults"]:
        for module in sorted(set(FAULT_MODULES.get(fault, ())) & set(settings["modules"])):
            affected = np.zeros(settings["trains"], dtype=bool)
            affected[affected_trains(settings, fault)] = True
            table[module, affected & (table[module] != ABSENT)] = FAULT_CODES.get(fault, UNTRUSTED)
    return table


def affected_trains(settings, fault):
    """Positions in the run of the trains that a fault touches, list of int; all trains for faults of a whole run."""
    if fault in FAULT_TRAINS:
        return list(FAULT_TRAINS[fault])
    last = sequence_trains(settings, settings["sequences"] - 1)
    if fault in ("first_file_without_trains", "truncated_file"):
        return sequence_trains(settings, 0).tolist()
    if fault in ("missing_sequence_file", "still_being_copied"):
        return last.tolist()
    if fault == "out_of_order_trains":
        return last[:2].tolist()
    return list(range(settings["trains"]))


def file_name(run, stream, module, sequence):
    """Name of a module file, such as ``CORR-R0050-AGIPD07-S00001.h5``."""
    kind = {"proc": "CORR", "raw": "RAW"}[stream]
    return f"{kind}-R{run:04d}-AGIPD{module:02d}-S{sequence:05d}.h5"
