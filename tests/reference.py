"""What the chain should give, computed plainly with numpy from the simulator's truth."""

import h5py
import numpy as np

from pulsetrain import simulate, simulate_detector
from pulsetrain.detector import asic_edges, xfel_from_lab
from pulsetrain.layout import is_present

COMMON_MODE_PIXELS = 1024
FIXED_POINT = 4096
IMAGE = "INSTRUMENT/SPB_DET_AGIPD1M-1/DET/image"
CXI_DETECTOR = "entry_1/instrument_1/detector_1"


def source_images(settings, run, stream, module, frames):
    """Stored values of some frames of the truth: (n, 512, 128), or (n, 2, 512, 128) for raw."""
    cells = simulate.frame_truth(settings, run)["cellId"][frames]
    photons = simulate.module_photons(settings, run, module, frames)
    render = simulate_detector.raw_images if stream == "raw" else simulate_detector.corrected_images
    return render(settings, run, module, frames, cells, photons)


def good_pixels(settings, module, cells):
    """Pixels without defect and not at the edge of an ASIC, (n, 512, 128) bool, for each of `cells`."""
    table = {cell: _good_pixels(settings, module, cell) for cell in np.unique(cells)}
    return np.array([table[cell] for cell in cells], dtype=bool).reshape(len(cells), 512, 128)


def _good_pixels(settings, module, cell):
    if "no_mask" in settings["faults"]:
        return ~asic_edges()
    return (simulate_detector.bad_bits(settings, module, int(cell)) == 0) & ~asic_edges()


def frames_in_truth(settings, run, train_id, pulse_id):
    """Frame number of each (train, pulse) in the truth; fails for one that is not in it."""
    truth = simulate.frame_truth(settings, run)
    place = {pair: frame for frame, pair in enumerate(zip(truth["trainId"], truth["pulseId"], strict=True))}
    return np.array([place[pair] for pair in zip(train_id, pulse_id, strict=True)], dtype=np.int64)


def read_constants(path, module):
    """Offsets [ADU], gains [keV/ADU] (3, cells, 512, 128) and thresholds (2, cells, 512, 128)."""
    with h5py.File(path) as file:
        names = ("darkOffsets", "analogGains_keV", "digitalThresholds")
        return [xfel_from_lab(file[name][()], module) for name in names]


def count(
    images,
    photon_energy_kev,
    cells,
    good,
    *,
    units,
    constants=None,
    threshold=0.5,
    common_mode=True,
    baseline_shift=False,
):
    """Photons of images (n, ...), 0 where not good: (n, 512, 128) uint16.

    `units` is photons, keV or ADU; `constants` (for ADU) as :func:`read_constants` gives them.
    """
    bias = np.float32(1 - threshold)
    found = np.zeros(good.shape, np.uint16)
    for k, image in enumerate(images):
        if images.dtype.kind == "f":
            scale = np.float32(1 / photon_energy_kev) if units == "keV" else np.float32(1)
            photons = np.floor(np.nan_to_num(image * scale) + bias)
        elif units == "ADU":
            offset, gain, limits = (values[:, cells[k]] for values in constants)
            photons = _count_raw(
                image, offset, gain, limits, photon_energy_kev, good[k], bias, common_mode, baseline_shift
            )
        else:
            photons = image
        found[k] = np.where(good[k], np.clip(photons, 0, 65535), 0)
    return found


def _count_raw(image, offset, gain, limits, photon_energy_kev, good, bias, common_mode, baseline_shift):
    analog, digital = image[0].astype(np.float32), image[1].astype(np.int32)
    stage = (digital > limits[0]).astype(int) + (digital > limits[1])
    gain = (gain / np.float32(photon_energy_kev)).astype(np.float32)
    signal = (analog - np.choose(stage, offset)) * np.choose(stage, gain)
    level = dark_level(signal[(stage == 0) & good]) if baseline_shift else np.float32(0)
    shift = np.full(signal.shape, level)
    if common_mode:
        dark = (stage == 0) & good & (np.abs(signal - level) < 0.5)
        fixed = np.where(dark, ((signal - level) * np.float32(FIXED_POINT)).astype(np.int64), 0)
        total, n_dark = (values.reshape(8, 64, 2, 64).sum(axis=(1, 3)) for values in (fixed, dark))
        shift = np.where(n_dark >= COMMON_MODE_PIXELS, total / (FIXED_POINT * np.maximum(n_dark, 1)), 0)
        shift = level + np.repeat(np.repeat(shift.astype(np.float32), 64, axis=0), 64, axis=1)
    return np.floor(np.where(stage == 0, signal - shift, signal) + bias)


def dark_level(values):
    """Level of the dark pixels among the stage-0 values [photons, float32] of a module's frame; 0 if there is none."""
    place = np.clip(values * np.float32(64) + np.float32(513), 0, 1025).astype(int) - 1  # bins of 1/64 photon
    counts = np.bincount(place[(place >= 0) & (place < 1024)], minlength=1024)
    window = np.convolve(counts, np.ones(32, int), "valid")  # half a photon
    enough = np.flatnonzero(10 * window >= len(values))
    if len(values) < COMMON_MODE_PIXELS or not len(enough):
        return np.float32(0)
    first = enough[0]
    middle = first + np.argmax(window[first : first + 33]) + 16
    if 48 * (place < max(middle - 32, 0)).sum() > len(values):
        return np.float32(0)
    for _ in range(3):
        dark = np.sort(place[(place >= max(middle - 32, 0)) & (place <= middle + 32) & (place < 1024)])
        middle = dark[(len(dark) - 1) // 2]
    within = (0.5 * len(dark) - (dark < middle).sum()) / (dark == middle).sum()
    return np.float32((middle + within) / 64 - 8)


def read_emc(path):
    """Frames of a Dragonfly photon file as (frames, pixels) int32, read as its wiki page describes the format."""
    words = np.fromfile(path, "<i4")
    n_frames, n_pixels, kind = words[:3]
    assert kind == 0
    ones, multi = words[256 : 256 + n_frames], words[256 + n_frames : 256 + 2 * n_frames]
    lists = words[256 + 2 * n_frames :]
    assert len(lists) == ones.sum() + 2 * multi.sum()
    place_ones, place_multi, counts = np.split(lists, np.cumsum([ones.sum(), multi.sum()]))
    frames = np.zeros((n_frames, n_pixels), np.int32)
    frames[np.repeat(np.arange(n_frames), ones), place_ones] = 1
    frames[np.repeat(np.arange(n_frames), multi), place_multi] = counts
    assert (counts > 1).all()
    return frames


def read_all(path, group="/", names=None):
    """Datasets of a group as {name: array}."""
    with h5py.File(path) as file:
        held = file[group]
        chosen = names or [name for name, item in held.items() if isinstance(item, h5py.Dataset)]
        return {name: held[name][()] for name in chosen}


def require_every_frame_its_own(paths, settings, run, stream, config):
    """Every frame of every output carries the ids and pixels of one and the same frame of the truth.

    Returns the frames of the truth that were kept, and which modules they have, (N, 16) bool.
    """
    truth = simulate.frame_truth(settings, run)
    with h5py.File(paths["vds"]) as vds:
        ids = {name: vds[IMAGE][name][()] for name in ("trainId", "pulseId", "cellId")}
        attributes = dict(vds["pulsetrain"].attrs)
        modules = vds["pulsetrain/modules"][()]
    frames = frames_in_truth(settings, run, ids["trainId"], ids["pulseId"])
    assert (np.diff(frames) > 0).all()
    np.testing.assert_array_equal(ids["cellId"], truth["cellId"][frames])
    events = read_all(paths["events"])
    for held in (read_all(paths["frames"]), events):
        for name, values in {**ids, "modules": modules}.items():
            np.testing.assert_array_equal(held[name], values)
    cxi = _require_hits(paths, truth, frames, events)
    sums = {name: np.zeros(len(frames), np.uint64) for name in ("litpixels", "photons")}
    conversion = {
        "units": attributes["units"],
        "threshold": config["hits"]["photon_threshold"],
        "common_mode": config["calibration"]["common_mode"],
        "baseline_shift": config["calibration"]["baseline_shift"],
    }
    present = np.array([is_present(modules, module) for module in range(16)]).T
    for module in settings["modules"]:
        held = np.flatnonzero(present[:, module])
        images = source_images(settings, run, stream, module, frames[held])
        with h5py.File(paths["vds"]) as vds:
            data = vds[IMAGE]["data"]
            np.testing.assert_array_equal(data[module][held], images)
            absent = data[module][np.flatnonzero(~present[:, module])]
            assert (np.isnan(absent) if absent.dtype.kind == "f" else absent == data.fillvalue).all()
        good = good_pixels(settings, module, ids["cellId"][held])
        if stream == "raw":
            conversion["constants"] = read_constants(paths["constants"][module], module)
        energy = attributes["photon_energy_kev"]
        photons = count(images, energy, ids["cellId"][held], good, **conversion)
        counted = read_all(paths["litpixels"][module])
        np.testing.assert_array_equal(counted["present"], present[:, module])
        for name, values in (("photons", photons.sum(axis=(1, 2))), ("litpixels", (photons > 0).sum(axis=(1, 2)))):
            expected = np.zeros(len(frames), np.uint64)
            expected[held] = values
            np.testing.assert_array_equal(counted[name], expected)
            sums[name] += expected
        # The photons of the hits, with the mask that the CXI file itself has for each.
        hits = np.flatnonzero(np.isin(cxi["vds_index"], held))
        rows = np.searchsorted(held, cxi["vds_index"][hits])
        good = np.zeros((len(hits), 512, 128), bool)
        with h5py.File(paths["cxi"]) as file:
            group = file[CXI_DETECTOR]
            for k, hit in enumerate(hits):
                good[k] = group["mask"][hit, module] == 0
            assert not good[~good_pixels(settings, module, cxi["cellId"][hits])].any()
            photons = count(images[rows], energy, cxi["cellId"][hits], good, **conversion)
            for k, hit in enumerate(hits):
                np.testing.assert_array_equal(group["data"][hit, module], np.minimum(photons[k], 255))
            for hit in np.setdiff1d(np.arange(len(cxi["vds_index"])), hits):
                assert (group["mask"][hit, module] != 0).all()
                assert not group["data"][hit, module].any()
    for name, total in sums.items():
        np.testing.assert_array_equal(events[name], total)
    _require_pulse_energies(settings, truth, frames, ids, events, cxi)
    _require_emc_equals_cxi(paths)
    return frames, present


def _require_hits(paths, truth, frames, events):
    """The CXI file's hits are those of the events file, with their ids."""
    cxi = read_all(paths["cxi"], "entry_1", ["trainId", "pulseId", "cellId", "vds_index"])
    np.testing.assert_array_equal(cxi["vds_index"], np.flatnonzero(events["is_hit"]))
    for name in ("trainId", "pulseId", "cellId"):
        np.testing.assert_array_equal(cxi[name], truth[name][frames][cxi["vds_index"].astype(int)])
    return cxi | read_all(
        paths["cxi"], "entry_1/instrument_1/source_1", ["pulse_energy", "photon_wavelength", "photon_energy"]
    )


def _require_pulse_energies(settings, truth, frames, ids, events, cxi):
    expected = truth["pulse_energy_J"][frames].copy()
    if "xgm_missing_trains" in settings["faults"]:
        expected[np.isin(ids["trainId"], settings["first_train"] + np.array([1, 3]))] = np.nan
    if settings["xgm"] == "none":
        expected[:] = np.nan
    np.testing.assert_allclose(events["pulse_energy"], expected, rtol=1e-6)
    hits = cxi["vds_index"].astype(int)
    np.testing.assert_allclose(cxi["pulse_energy"], expected[hits], rtol=1e-6)
    wavelength = 12.3984198433e-10 / settings["photon_energy_kev"]
    np.testing.assert_allclose(events["wavelength"], wavelength, rtol=1e-6)
    np.testing.assert_allclose(cxi["photon_wavelength"], wavelength, rtol=1e-6)
    energy = settings["photon_energy_kev"] * 1e3 * 1.602176634e-19
    np.testing.assert_allclose(cxi["photon_energy"], energy, rtol=1e-6)


def _require_emc_equals_cxi(paths):
    written = read_emc(paths["emc"])
    with h5py.File(paths["det"]) as file:
        used = file["mask"][()].ravel() == 0
    with h5py.File(paths["cxi"]) as file:
        data = file[CXI_DETECTOR]["data"]
        assert len(written) == len(data)
        for frame, photons in zip(written, data, strict=True):
            np.testing.assert_array_equal(frame, np.where(used, photons.ravel(), 0))
