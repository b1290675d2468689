"""Simulate a single-particle run of an AGIPD-1M: settings, ground truth of every frame, photons of every pixel.

A frame's photons depend only on (settings, run, module, frame): any file can be made alone, in any order.
"""

import difflib
import functools
import json
from pathlib import Path

import numpy as np

from pulsetrain import simulate_faults, simulate_particles
from pulsetrain.detector import MODULE_SHAPE, N_MODULES

GENERATOR_VERSION = 1
GEOMETRY = Path(__file__).resolve().parents[2] / "config" / "geometry" / "agipd_simulated.geom"
PROFILES = {
    "tiny": {"trains": 6, "cells": 8, "sequences": 2},
    "small": {"trains": 64, "cells": 64, "sequences": 4},
    "full": {"trains": 500, "cells": 352, "sequences": 2},
}
DEFAULTS = {
    "seed": 1,
    "hit_rate": 0.04,
    "particle": "spheroid",
    "proc_data": "uint8",
    "faults": [],
    "pulse_step": 4,  # pulseId counts the 4.5 MHz slots of the machine; 4 is one frame every 1.1 MHz
    "first_train": 10001,
    "xgm": "litfrm",
    "beam": True,
    "detector": "SPB_DET_AGIPD1M-1",
    "geometry": str(GEOMETRY),
    "photon_energy_kev": 9.2,
    "distance_m": 0.715,
    "old_names": False,
    "format_version": "1.2",
    "modules": list(range(N_MODULES)),
    "cell_order": "ascending",
    "bright_ring": False,
}
CHOICES = {
    "particle": ("spheroid", "blob"),
    "proc_data": ("uint8", "float32", "keV"),
    "xgm": ("litfrm", "xgm", "none"),
    "cell_order": ("ascending", "shuffled"),
}

HIT_PHOTONS = 6000.0  # mean over hits, whole detector, at the mean pulse energy
HIT_SIGMA = 0.6  # of ln(photons): how much of the beam's focus the particle meets
BACKGROUND_PHOTONS = 1450.0  # mean per frame, whole detector, at the mean pulse energy
PULSE_ENERGY_UJ = 1500.0
PULSE_GAMMA_SHAPE = 30.0  # SASE: relative spread 1 / sqrt(30)
SPHEROID_RADII_NM = ((20.0, 1.0), (25.0, 1.0))  # mean and sigma of equatorial and polar radius

# First words of the seeds, one per kind of random number.
SEED_TRUTH, SEED_PHOTONS, SEED_RING = 1, 2, 3


def settings(profile="tiny", **overrides):
    """All settings of a simulated run.

    Parameters
    ----------
    profile : str
        ``tiny``, ``small`` or ``full``.
    **overrides
        Values other than the default; None keeps the default.

    Returns
    -------
    dict
        JSON-able, sorted by key.

    Raises
    ------
    ValueError
        On unknown names or impossible values.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is not known; expected one of {', '.join(PROFILES)}")
    chosen = {**DEFAULTS, **PROFILES[profile], "profile": profile}
    for name, value in overrides.items():
        if name not in chosen:
            near = difflib.get_close_matches(name, chosen, n=3)
            raise ValueError(f"setting {name!r} is not known; nearest: {', '.join(near) or ', '.join(sorted(chosen))}")
        if value is not None:
            chosen[name] = value
    for name, allowed in CHOICES.items():
        if chosen[name] not in allowed:
            raise ValueError(f"setting {name} is {chosen[name]!r}; expected one of {', '.join(allowed)}")
    chosen["modules"] = sorted({int(module) for module in chosen["modules"]})
    chosen["faults"] = sorted(set(chosen["faults"]))
    chosen["geometry"] = str(chosen["geometry"])
    if not chosen["modules"] or not 0 <= chosen["modules"][0] <= chosen["modules"][-1] < N_MODULES:
        raise ValueError(f"setting modules is {chosen['modules']}; expected numbers from 0 to {N_MODULES - 1}")
    simulate_faults.check_faults(chosen["faults"], chosen["trains"], chosen["modules"])
    return dict(sorted(chosen.items()))


def frame_truth(settings, run):
    """What is in every frame of the run, in the order (train, pulse).

    Parameters
    ----------
    settings : dict
    run : int

    Returns
    -------
    dict of ndarray, each (N, ...), N = trains * cells
        ``trainId`` u8, ``pulseId`` u8, ``cellId`` u2, ``is_hit`` bool; ``n_photons``, ``n_bg`` i8: photons of the
        particle and of the background on all 16 modules (not of the bright ring); ``mean_photons`` f8: expected
        photons of the particle; ``pulse_energy_J`` f8: exactly the XGM's float32 [uJ] * 1e-6, NaN without beam;
        ``particle_a``, ``particle_c`` f8 [nm]: equatorial and polar radius of the spheroid (NaN for a blob);
        ``particle_theta``, ``particle_phi`` f8 [rad]: direction of its polar axis; ``quaternion`` f8 (N, 4):
        orientation as in :func:`pulsetrain.simulate_particles.rotation_matrices`; all NaN for frames without hit;
        ``module_photons``, ``module_bg`` i8 (N, 16): the photons by module.
    """
    return dict(_frame_truth(_key(settings), run))


def module_photons(settings, run, module, frames):
    """True photons of one module, background included.

    Parameters
    ----------
    settings : dict
    run, module : int
    frames : sequence of int, (n,)
        Positions in :func:`frame_truth`.

    Returns
    -------
    ndarray of uint16, (n, 512, 128)
        (frame, slow_scan, fast_scan).
    """
    truth = _frame_truth(_key(settings), run)
    pixels = _module_pixels(_key(settings), module)
    ring = bright_ring(settings, module) if settings["bright_ring"] else None
    images = np.zeros((len(frames), MODULE_SHAPE[0] * MODULE_SHAPE[1]), dtype=np.uint16)
    for image, frame in zip(images, frames, strict=True):
        rng = np.random.default_rng([SEED_PHOTONS, settings["seed"], run, module, int(frame)])
        n_background = truth["module_bg"][frame, module]
        lit = [np.searchsorted(pixels["background_cdf"], rng.random(n_background), side="right")]
        n_particle = truth["module_photons"][frame, module]
        if n_particle:
            cumulated = np.cumsum(_hit_intensity(settings, truth, frame, pixels), dtype=np.float64)
            lit.append(np.searchsorted(cumulated, rng.random(n_particle) * cumulated[-1], side="right"))
        np.add.at(image, np.concatenate(lit), np.uint16(1))
        if ring is not None and settings["beam"]:
            relative = truth["pulse_energy_J"][frame] / (PULSE_ENERGY_UJ * 1e-6)
            image[ring["pixel"]] += rng.poisson(ring["photons"] * relative).astype(np.uint16)
    return images.reshape(len(frames), *MODULE_SHAPE)


def bright_ring(settings, module):
    """Pixels that ``bright_ring`` makes bright, for all gain stages of raw data.

    Returns
    -------
    dict
        ``pixel`` i8 (P,): flat index in (512, 128), the pixels within one pixel of the module's median distance
        from the beam; ``photons`` f8 (P,): their mean photons at the mean pulse energy, from 10 to 8000.
    """
    pixels = _module_pixels(_key(settings), module)
    chosen = np.flatnonzero(np.abs(pixels["radius_m"] - np.median(pixels["radius_m"])) < 2e-4)
    rng = np.random.default_rng([SEED_RING, settings["seed"], module])
    return {"pixel": chosen, "photons": np.exp(rng.uniform(np.log(10.0), np.log(8000.0), len(chosen)))}


def blob_intensity(q_vectors):
    """Intensity of the blob particle; see :func:`pulsetrain.simulate_particles.blob_intensity`."""
    return simulate_particles.blob_intensity(q_vectors)


def _key(settings):
    return json.dumps(settings, sort_keys=True)


@functools.lru_cache(maxsize=4)
def _frame_truth(key, run):
    chosen = json.loads(key)
    trains, cells = chosen["trains"], chosen["cells"]
    n_frames = trains * cells
    rng = np.random.default_rng([SEED_TRUTH, chosen["seed"], run])
    energy_uj = rng.gamma(PULSE_GAMMA_SHAPE, PULSE_ENERGY_UJ / PULSE_GAMMA_SHAPE, n_frames).astype(np.float32)
    relative = energy_uj.astype(np.float64) / PULSE_ENERGY_UJ
    n_hits = round(chosen["hit_rate"] * n_frames)
    is_hit = np.zeros(n_frames, dtype=bool)
    is_hit[rng.choice(n_frames, n_hits, replace=False)] = True
    luck = np.exp(rng.normal(-(HIT_SIGMA**2) / 2, HIT_SIGMA, n_frames))
    quaternion = rng.normal(size=(n_frames, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    radii = [rng.normal(mean, sigma, n_frames) for mean, sigma in SPHEROID_RADII_NM]
    if not chosen["beam"]:
        is_hit[:] = False
        relative[:] = 0.0
    axis = simulate_particles.rotation_matrices(quaternion)[:, :, 2]
    of_particle = {
        "particle_a": radii[0],
        "particle_c": radii[1],
        "particle_theta": np.arccos(np.clip(axis[:, 2], -1, 1)),
        "particle_phi": np.arctan2(axis[:, 1], axis[:, 0]),
    }
    if chosen["particle"] == "blob":
        of_particle = {name: np.full(n_frames, np.nan) for name in of_particle}
    truth = {
        "trainId": np.repeat(chosen["first_train"] + np.arange(trains, dtype=np.uint64), cells).astype(np.uint64),
        "pulseId": np.tile(simulate_faults.pulse_ids(chosen), trains),
        "cellId": np.tile(simulate_faults.cell_ids(chosen), trains),
        "is_hit": is_hit,
        "mean_photons": np.where(is_hit, HIT_PHOTONS * luck * relative, 0.0),
        "pulse_energy_J": energy_uj.astype(np.float64) * 1e-6 if chosen["beam"] else np.full(n_frames, np.nan),
        **{name: np.where(is_hit, values, np.nan) for name, values in of_particle.items()},
        "quaternion": np.where(is_hit[:, None], quaternion, np.nan),
    }
    # Totals are drawn here and shared out among the modules, so that all jobs agree on them.
    background = rng.poisson(BACKGROUND_PHOTONS * relative)
    truth["module_bg"] = rng.multinomial(background, _background_weights(key))
    truth["module_photons"] = np.zeros((n_frames, N_MODULES), dtype=np.int64)
    particle = rng.poisson(truth["mean_photons"][is_hit])
    coarse = _coarse_pixels(key) if is_hit.any() else None
    for frame, total in zip(np.flatnonzero(is_hit), particle, strict=True):
        weight = _hit_intensity(chosen, truth, frame, coarse).astype(np.float64).reshape(N_MODULES, -1).sum(axis=1)
        truth["module_photons"][frame] = rng.multinomial(total, weight / weight.sum())
    truth["n_photons"] = truth["module_photons"].sum(axis=1)
    truth["n_bg"] = truth["module_bg"].sum(axis=1)
    for values in truth.values():
        values.setflags(write=False)
    return truth


def _hit_intensity(settings, truth, frame, pixels):
    """Relative intensity of the particle of one frame, (pixels,) float32, solid angle included."""
    rotation = simulate_particles.rotation_matrices(truth["quaternion"][frame][None])[0].astype(np.float32)
    q_body = pixels["q"] @ rotation
    if settings["particle"] == "blob":
        return simulate_particles.blob_intensity(q_body) * pixels["solid_angle"]
    radii = truth["particle_a"][frame], truth["particle_c"][frame]
    return simulate_particles.spheroid_intensity(q_body, *radii) * pixels["solid_angle"]


@functools.lru_cache(maxsize=2)
def _positions(geometry):
    """Pixel centres (16, 512, 128, 3) [m], z dropped by the caller."""
    from extra_geom import AGIPD_1MGeometry  # slow to import, needed once per job

    return AGIPD_1MGeometry.from_crystfel_geom(geometry).get_pixel_positions()


@functools.lru_cache(maxsize=N_MODULES)
def _module_pixels(key, module):
    chosen = json.loads(key)
    pixels = _pixels(chosen, _positions(chosen["geometry"])[module])
    cumulated = np.cumsum(_background(pixels))
    pixels["background_cdf"] = cumulated / cumulated[-1]
    return pixels


@functools.lru_cache(maxsize=2)
def _coarse_pixels(key):
    """A regular 1/32 of the pixels of all modules: speckles are about 15 pixels wide."""
    chosen = json.loads(key)
    return _pixels(chosen, _positions(chosen["geometry"])[:, 4::8, 2::4])


@functools.lru_cache(maxsize=2)
def _background_weights(key):
    chosen = json.loads(key)
    weight = [_background(_pixels(chosen, positions)).sum() for positions in _positions(chosen["geometry"])]
    return np.array(weight) / np.sum(weight)


def _pixels(settings, positions):
    """Scattering vectors and solid angles of pixel positions (..., 3) [m] at the distance of the settings."""
    x, y = positions[..., 0].ravel(), positions[..., 1].ravel()
    distance = settings["distance_m"]
    length = np.sqrt(x**2 + y**2 + distance**2)
    wavenumber = simulate_particles.wavenumber_per_nm(settings["photon_energy_kev"])
    q = wavenumber * np.stack([x / length, y / length, distance / length - 1], axis=-1)
    return {
        "q": q.astype(np.float32),
        "solid_angle": ((distance / length) ** 3).astype(np.float32),
        "radius_m": np.hypot(x, y),
    }


def _background(pixels):
    """Relative background: half flat, half a broad ring (scattering of water or helium), per pixel."""
    ring = np.exp(-(((pixels["radius_m"] - 0.04) / 0.02) ** 2) / 2)
    return (1 + 4 * ring) * pixels["solid_angle"].astype(np.float64)
