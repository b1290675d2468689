"""Simulate a DSSC run of the SCS instrument: settings, truth of every train and frame, images.

Images are u2: pedestal + noise, and for frames with an X-ray pulse a response that is linear in the pulse energy. In
frames named ``pumped`` the response of the ring depends on the scan variable. An image depends only on (settings, run,
module, frame): any file can be made alone, in any order.
"""

import functools
import json

import numpy as np

from pulsetrain import simulate_faults
from pulsetrain.detector import DSSC_SHAPE

PATTERN = ("pumped", "pumped_dark", "unpumped", "unpumped_dark")
PROFILES = {
    "tiny": {"trains": 16, "cells": 6, "sequences": 2},
    "small": {"trains": 60, "cells": 12, "sequences": 2},
    "full": {"trains": 2000, "cells": 75, "sequences": 4},
}
DEFAULTS = {
    "seed": 1,
    "faults": [],
    "pulse_step": 4,
    "cell_order": "ascending",
    "format_version": "1.2",
    "first_train": 10001,
    "detector": "SCS_DET_DSSC1M-1",
    "modules": list(range(16)),
}
STEPS = 4  # positions of the scan in a run; the runs with odd numbers begin two steps later
STEP_PS = 0.5
JITTER = 0.35  # of a step: rounding must take it off
T0_PS = 0.2  # from here on the pumped response falls,
DECAY_PS = 0.6  # with this time constant,
DEPTH = 0.4  # by this much
PULSE_ENERGY_UJ = 80.0
PULSE_GAMMA_SHAPE = 16.0
PEDESTAL_ADU = 40.0
NOISE_ADU = 2.5
RING_ADU = 30.0  # at the mean pulse energy
FLAT_ADU = 4.0
NOISE_IMAGES = 16
WITHOUT_SCAN = 5  # every so many trains has no scan value, the first at 3
NOT_A_NUMBER = 7  # position of a train whose scan value is NaN
REJECTED = 0.15  # share of frames that the mask rejects
OUTSIDE_MASK = 2  # the last trains are not in the mask

# First words of the seeds, one per kind of random number.
SEED_TRUTH, SEED_PIXELS, SEED_NOISE = 21, 22, 23


def settings(profile="tiny", **overrides):
    """All settings of a simulated DSSC run.

    Parameters
    ----------
    profile : str
        ``tiny``, ``small`` or ``full``.
    **overrides
        Values other than the default; None keeps the default, names that do not concern DSSC are ignored.

    Returns
    -------
    dict
        JSON-able, sorted by key.

    Raises
    ------
    ValueError
        On faults that are not known or cannot be seen.
    """
    chosen = {**DEFAULTS, **PROFILES[profile]}
    chosen |= {name: value for name, value in overrides.items() if name in chosen and value is not None}
    chosen["modules"] = sorted(chosen["modules"])
    chosen["faults"] = sorted(set(chosen["faults"]))
    simulate_faults.check_faults(chosen["faults"], chosen["trains"], chosen["modules"])
    return dict(sorted(chosen.items()))


def of_run(settings, run):
    """The settings with the trains of a run: train ids never come twice in a proposal."""
    return settings | {"first_train": settings["first_train"] + 10_000 * run}


def truth(settings, run):
    """What is in every train and frame of the run.

    Returns
    -------
    dict of ndarray
        Per train (T,): ``trainId`` u8, ``delay`` f8 [ps] the position of the scan, ``measured`` f8 [ps] with jitter and
        NaN in one train, ``has_scan`` bool, ``in_mask`` bool. Per frame (T, F): ``energy`` f4 [uJ] of the X-ray pulse,
        NaN in dark frames; ``mask`` bool, False = rejected.
    """
    return dict(_truth(json.dumps(settings, sort_keys=True), run))


@functools.lru_cache(maxsize=4)
def _truth(key, run):
    chosen = of_run(json.loads(key), run)
    n_trains, n_frames = chosen["trains"], chosen["cells"]
    random = np.random.default_rng([SEED_TRUTH, chosen["seed"], run])
    position = np.arange(n_trains) * STEPS // max(n_trains, 1) - 2 + 2 * (run % 2)
    delay = position * STEP_PS
    measured = delay + random.uniform(-JITTER, JITTER, n_trains) * STEP_PS
    measured[NOT_A_NUMBER : NOT_A_NUMBER + 1] = np.nan
    energy = random.gamma(PULSE_GAMMA_SHAPE, PULSE_ENERGY_UJ / PULSE_GAMMA_SHAPE, (n_trains, n_frames)).astype("f4")
    is_dark = np.array(["dark" in PATTERN[frame % len(PATTERN)] for frame in range(n_frames)])
    energy[:, is_dark] = np.nan
    found = {
        "trainId": chosen["first_train"] + np.arange(n_trains, dtype=np.uint64),
        "delay": delay,
        "measured": measured,
        "has_scan": np.arange(n_trains) % WITHOUT_SCAN != 3,
        "in_mask": np.arange(n_trains) < n_trains - OUTSIDE_MASK,
        "energy": energy,
        "mask": random.random((n_trains, n_frames)) >= REJECTED,
    }
    for values in found.values():
        values.setflags(write=False)
    return found


def images(settings, run, module, frames):
    """Images of one module.

    Parameters
    ----------
    settings : dict
    run, module : int
    frames : sequence of int, (n,)
        train * frames per train + frame.

    Returns
    -------
    ndarray of uint16, (n, 128, 512)
        (frame, slow_scan, fast_scan) [ADU].
    """
    of_run_ = truth(settings, run)
    pedestal, flat, ring, noise = _pixels(settings["seed"], module)
    result = np.empty((len(frames), *DSSC_SHAPE), np.uint16)
    for image, number in zip(result, frames, strict=True):
        train, frame = divmod(int(number), settings["cells"])
        # The number of the frame decides which noise it gets, and by how far that is turned round.
        drawn = np.random.default_rng([SEED_NOISE, settings["seed"], run, module, int(number)])
        value = pedestal + np.roll(noise[drawn.integers(NOISE_IMAGES)], drawn.integers(512), axis=1)
        energy = of_run_["energy"][train, frame]
        if not np.isnan(energy):
            name = PATTERN[frame % len(PATTERN)]
            factor = pumped_factor(of_run_["delay"][train]) if name == "pumped" else 1.0
            value = value + (flat + factor * ring) * np.float32(energy / PULSE_ENERGY_UJ)
        image[:] = np.rint(np.clip(value, 0, 65535))
    return result


def pumped_factor(delay_ps):
    """What is left of the ring at a delay [ps] after the pump pulse."""
    after = np.maximum(np.asarray(delay_ps, float) - T0_PS, 0)
    return 1 - DEPTH * (1 - np.exp(-after / DECAY_PS))


@functools.lru_cache(maxsize=16)
def _pixels(seed, module):
    """Pedestal, flat and ring response [ADU] of each pixel, (128, 512) f4, and images of noise (16, 128, 512) f4."""
    from extra_geom import DSSC_1MGeometry  # slow to import, needed once per job

    random = np.random.default_rng([SEED_PIXELS, seed, module])
    pedestal = random.normal(PEDESTAL_ADU, 3, DSSC_SHAPE)
    gain = random.normal(1, 0.02, DSSC_SHAPE)
    # The geometry's positions are the same for all; a job draws few modules, so that no file holds them.
    radius = np.hypot(*np.moveaxis(DSSC_1MGeometry.example().get_pixel_positions()[module, ..., :2], -1, 0))
    ring = RING_ADU * gain * np.exp(-(((radius - 0.045) / 0.012) ** 2) / 2)
    noise = random.normal(0, NOISE_ADU, (NOISE_IMAGES, *DSSC_SHAPE))
    return tuple(np.asarray(values, np.float32) for values in (pedestal, FLAT_ADU * gain, ring, noise))
