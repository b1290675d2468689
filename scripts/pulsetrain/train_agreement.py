"""Compare the trains of all modules: which are kept, and who disagrees."""

import numpy as np

from pulsetrain.detector import N_MODULES
from pulsetrain.module_index import COVERAGE, MODULES_KEY, expand, finding

# Why a train is not kept. The numbers are used within one job only; files hold the text.
TRAIN_REASONS = (
    "",
    "appears twice",
    "frame counts differ",
    "pulseIds differ",
    "cellIds differ",
    "too few modules",
    "no frames",
)

# More trains than these that one module alone has are no flipped bits: files of the other modules are missing.
MOST_PHANTOMS = 3
PHANTOM_SHARE = 0.01


def compare_modules(tables, min_modules, modules_key=MODULES_KEY):
    """Compare the trains of all modules.

    Parameters
    ----------
    tables : dict
        {module: ModuleTable}.
    min_modules : int
    modules_key : str
        Key of the configuration that says which modules are in use; for advice.

    Returns
    -------
    trains : dict
        train_id (T,), n_frames (T,), reason (T,) index into TRAIN_REASONS (0 = kept), coverage (16, T) index into
        COVERAGE, pulse_id, cell_id (F,) and start (T,) of the frames by train, phantom {module: train ids}.
    findings : list of dict
    """
    train_id, phantom = _real_trains(tables)
    coverage = np.full((N_MODULES, len(train_id)), COVERAGE.index("absent"), dtype=np.uint8)
    reported_count = np.zeros(len(train_id), dtype=np.int64)
    for module, table in tables.items():
        trains, codes, counts = table.reported
        place, known = find_trains(train_id, trains)
        coverage[module, place[known]] = codes[known]
        np.maximum.at(reported_count, place[known], counts[known])
        place, known = find_trains(train_id, table.train_id)
        coverage[module, place[known]] = COVERAGE.index("whole")
    whole = coverage == COVERAGE.index("whole")
    reference = np.where(whole.any(axis=0), whole.argmax(axis=0), -1)
    n_frames, start, pulse_id, cell_id = _reference_frames(tables, train_id, reference)
    odd_trains = np.zeros(len(train_id), dtype=bool)
    for table in tables.values():
        odd_trains[_unequal(table, train_id, n_frames, start, pulse_id, cell_id)] = True
    reason = np.zeros(len(train_id), dtype=np.uint8)
    reason[whole.sum(axis=0) < min_modules] = TRAIN_REASONS.index("too few modules")
    findings = _vote(tables, train_id, whole, np.flatnonzero(odd_trains), n_frames, reason, modules_key)
    reason[(coverage == COVERAGE.index("appears_twice")).any(axis=0)] = TRAIN_REASONS.index("appears twice")
    n_frames = np.where(reference < 0, reported_count, n_frames)
    reason[n_frames == 0] = TRAIN_REASONS.index("no frames")
    findings += _tell_absences(tables, train_id, coverage, n_frames, reason, min_modules, modules_key)
    for module, trains in phantom.items():
        if len(trains):
            more = f" and {len(trains) - 1} more" if len(trains) > 1 else ""
            message = f"no other module has train {trains[0]}{more} (a flipped bit, or one module ran longer)"
            next_step = "nothing to do; the frames were left out"
            findings.append(finding("phantom_train", message, next_step, module, trains=trains))
    columns = {"train_id": train_id, "n_frames": n_frames, "reason": reason, "coverage": coverage}
    return columns | {"start": start, "pulse_id": pulse_id, "cell_id": cell_id, "phantom": phantom}, findings


def _real_trains(tables):
    """Trains that at least two modules have, and those of one module alone that are too many to be flipped bits.

    With less than three modules all of them.
    """
    seen = {
        module: np.unique(np.concatenate([table.train_id, table.reported[0][table.reported[0] > 0]]))
        for module, table in tables.items()
    }
    seen = {module: trains for module, trains in seen.items() if len(trains)}
    if not seen:
        return np.empty(0, "u8"), {}
    train_id, n_modules = np.unique(np.concatenate(list(seen.values())), return_counts=True)
    single = train_id[n_modules < 2] if len(seen) >= 3 else train_id[:0]
    few = max(MOST_PHANTOMS, PHANTOM_SHARE * len(train_id))
    alone = {module: np.intersect1d(trains, single) for module, trains in seen.items()}
    phantom = {module: trains for module, trains in alone.items() if len(trains) <= few}
    train_id = np.setdiff1d(train_id, np.concatenate([train_id[:0], *phantom.values()]))
    return train_id, {module: np.intersect1d(tables[module].train_id, trains) for module, trains in phantom.items()}


def find_trains(train_id, wanted):
    """Where `wanted` trains are in the sorted `train_id`, and which are there at all."""
    if len(train_id) == 0:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(train_id, wanted), len(train_id) - 1)
    return place, train_id[place] == wanted


def run_starts(count):
    """Place of the first of each run of `count` elements."""
    return np.cumsum(count) - count


def _reference_frames(tables, train_id, reference):
    """Pulses and cells of each train as its lowest whole module has them."""
    n_frames = np.zeros(len(train_id), dtype=np.int64)
    places = {}
    for module, table in tables.items():
        place, known = find_trains(train_id, table.train_id)
        known[known] = reference[place[known]] == module
        places[module] = place[known], known
        n_frames[place[known]] = table.n_frames[known]
    start = run_starts(n_frames)
    pulse_id, cell_id = np.empty(n_frames.sum(), "u8"), np.empty(n_frames.sum(), "u2")
    for module, table in tables.items():
        place, known = places[module]
        target, _ = expand(start[place], table.n_frames[known])
        held, _ = expand(run_starts(table.n_frames)[known], table.n_frames[known])
        pulse_id[target], cell_id[target] = table.pulse_id[held], table.cell_id[held]
    return n_frames, start, pulse_id, cell_id


def _unequal(table, train_id, n_frames, start, pulse_id, cell_id):
    """Places of the trains in which a module differs from the reference."""
    place, known = find_trains(train_id, table.train_id)
    short = known & (table.n_frames != n_frames[place])
    equal = np.flatnonzero(known & ~short)
    held, entry = expand(run_starts(table.n_frames)[equal], table.n_frames[equal])
    frame, _ = expand(start[place[equal]], table.n_frames[equal])
    differs = (table.pulse_id[held] != pulse_id[frame]) | (table.cell_id[held] != cell_id[frame])
    return np.concatenate([place[short], place[equal[np.unique(entry[differs])]]])


def _vote(tables, train_id, whole, disputed, n_frames, reason, modules_key):
    """Name the modules that disagree with most others in the disputed trains; set reason and frame count of those."""
    starts = {module: run_starts(table.n_frames) for module, table in tables.items()}
    odd = {}
    for place in disputed:
        camps = {}
        for module in np.flatnonzero(whole[:, place]):
            table = tables[module]
            number = np.searchsorted(table.train_id, train_id[place])
            held = slice(starts[module][number], starts[module][number] + table.n_frames[number])
            frames = table.pulse_id[held].tobytes(), table.cell_id[held].tobytes()
            camps.setdefault(frames, []).append(int(module))
        ordered = sorted(camps.items(), key=lambda camp: (-len(camp[1]), camp[1]))
        (pulses, cells), winners = ordered[0]
        n_frames[place] = len(cells) // 2
        for (other_pulses, other_cells), others in ordered[1:]:
            if len(other_cells) != len(cells):
                kind, text = "frame counts differ", f"{len(other_cells) // 2} frames against {len(cells) // 2}"
            elif other_pulses != pulses:
                kind, text = "pulseIds differ", _first_difference(other_pulses, pulses, "u8")
            else:
                kind, text = "cellIds differ", _first_difference(other_cells, cells, "u2")
            reason[place] = TRAIN_REASONS.index(kind)
            text += f" in {len(winners)} other module" + ("s" if len(winners) > 1 else "")
            if len(others) == len(winners):
                odd.setdefault((kind, tuple(others)), []).append((train_id[place], text))
                continue
            for module in others:
                odd.setdefault((kind, (module,)), []).append((train_id[place], text))
    findings = []
    for (kind, modules), told in sorted(odd.items()):
        trains = [train for train, _ in told]
        next_step = "these trains are left out in all modules"
        if 2 * len(trains) > len(train_id):
            next_step = " and ".join(without_module(module, modules_key) for module in modules)
        names = f"modules {', '.join(map(str, modules))}" if len(modules) > 1 else f"module {modules[0]}"
        message = f"train {trains[0]} has in {names} {told[0][1]}"
        name = kind.replace("Ids", "_ids").replace(" ", "_")
        module = modules[0] if len(modules) == 1 else None
        findings.append(finding(name, message, next_step, module, trains=trains))
    return findings


def _first_difference(found, expected, dtype):
    found, expected = np.frombuffer(found, dtype), np.frombuffer(expected, dtype)
    where = np.flatnonzero(found != expected)[0]
    return f"{found[where]} at frame {where} against {expected[where]}"


def without_module(module, modules_key):
    """Advice for a module that is bad throughout."""
    return f"leave module {module} out of {modules_key} if it stays so"


def _tell_absences(tables, train_id, coverage, n_frames, reason, min_modules, modules_key):
    findings = []
    for module in tables:
        absent = (coverage[module] == COVERAGE.index("absent")) & (n_frames > 0)
        empty = (coverage[module] == COVERAGE.index("no_frames")) & (n_frames > 0)
        for kind, held, text in (
            ("missing_trains", absent, "does not have"),
            ("no_frames", empty, "has a count of 0 for"),
        ):
            if held.any():
                trains = train_id[held]
                message = f"module {module} {text} {len(trains)} of {len(train_id)} trains that others have"
                message += f", the first is {trains[0]}"
                next_step = f"module {module} is filled with missing values for these trains"
                if 2 * len(trains) > len(train_id):
                    next_step = f"find its missing files, or {without_module(module, modules_key)}"
                findings.append(finding(kind, message, next_step, module, trains=trains))
    few = reason == TRAIN_REASONS.index("too few modules")
    if few.any():
        best = int((coverage[:, few] == 0).sum(axis=0).max())
        message = f"{few.sum()} trains are whole in less than {min_modules} modules (at most {best})"
        next_step = f"find the missing files, lower integrity.min_modules, or leave modules out of {modules_key}"
        if min_modules == 1:
            next_step = "find the missing files, or copy them again"
        findings.append(finding("too_few_modules", message, next_step, trains=train_id[few]))
    empty = n_frames == 0
    if empty.any():
        message = f"{empty.sum()} trains have no frame in any module"
        findings.append(finding("empty_trains", message, "", trains=train_id[empty], fault=False))
    return findings
