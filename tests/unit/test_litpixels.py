import h5py
import numpy as np
import pytest
from pixel_runs import WAYS, photons_reference, random_constants, raw_values, write_run, xfel_constants

from pulsetrain import litpixels
from pulsetrain.detector import MASK_BAD, MODULE_SHAPE

MODULE = 9
CELLS = np.array([5, 2, 2, 7, 5, 2, 9, 5, 2, 7, 5])


def make_data(dtype, rng, n_frames=len(CELLS), units="photons"):
    if units == "ADU":
        return raw_values(rng, n_frames)
    if units == "keV":
        values = rng.normal(0.5, 3, (n_frames, *MODULE_SHAPE)).astype(dtype)
        values[rng.random(values.shape) < 0.01] = np.nan
        return values
    values = rng.poisson(0.03, (n_frames, *MODULE_SHAPE)).astype(dtype)
    top = np.iinfo(dtype).max if np.dtype(dtype).kind != "f" else 255
    lit = rng.random(values.shape) < 0.001
    values[lit] = rng.integers(0, min(top, 90_000) + 1, lit.sum()).astype(dtype)
    values[0, 0, :3] = top
    return values


def make_masks(rng, cells=CELLS):
    n_cells = len(np.unique(cells))
    return np.where(rng.random((n_cells, *MODULE_SHAPE)) < 0.03, MASK_BAD, 0).astype("u4")


def count(run, tmp_path, module=MODULE, **options):
    output = tmp_path / "litpixels.h5"
    k = 0
    litpixels.count_module(
        run.vds,
        run.masks[k],
        output,
        {"rule": "count_litpixels"},
        module=module,
        constants=run.constants[k] if run.constants else None,
        **options,
    )
    with h5py.File(output) as file:
        return {name: held[()] for name, held in file.items()} | {"attributes": dict(file.attrs)}


def expected_counts(photons, cells, present, region, full):
    n = len(cells)
    found = {
        "litpixels": (photons > 0).sum(axis=(1, 2)),
        "photons": photons.sum(axis=(1, 2), dtype="u8"),
        "hit_photons": photons.sum(axis=(1, 2), dtype="u8", where=np.broadcast_to(region, photons.shape)),
        "saturated": full.sum(axis=(1, 2)),
        "present": present,
    }
    for name in ("litpixels", "photons", "hit_photons", "saturated"):
        found[name] = np.where(present, found[name], 0)
    used = np.unique(cells)
    of_cell = (np.asarray(cells)[None] == used[:, None]) & present
    found["cellId"] = used
    found["frames_per_cell"] = of_cell.sum(axis=1)
    found["powder_per_cell"] = np.array(
        [photons[of_cell[k]].sum(axis=0, dtype="u8") if n else 0 for k in range(len(used))]
    )
    return found


def assert_counts(found, expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


CASES = [
    *[(way, "uint8", "photons") for way in WAYS],
    *[(way, "float32", "photons") for way in WAYS],
    *[(way, "float32", "keV") for way in ("contiguous", "gzip shuffle", "gzip shuffle of 3", "gzip")],
    *[(way, "uint16", "photons") for way in ("contiguous", "gzip", "gzip shuffle", "chunk of 3")],
    *[("gzip shuffle", dtype, "photons") for dtype in ("uint32", "int32", "int16")],
    *[(way, "uint16", "ADU") for way in WAYS],
]


@pytest.mark.parametrize(("way", "dtype", "units"), CASES)
def test_every_way_of_storing_gives_what_numpy_gives(tmp_path, way, dtype, units):
    rng = np.random.default_rng(3)
    data = {MODULE: make_data(dtype, rng, units=units)}
    masks = {MODULE: make_masks(rng)}
    absent = {(MODULE, 4), (MODULE, 6)}
    options = {}
    if units == "ADU":
        constants = {MODULE: random_constants(rng, 12)}
        constants[MODULE]["darkOffsets"][1, 5, 3, :40] = np.nan
        constants[MODULE]["analogGains_keV"][0, 2, 3, :40] = np.inf
        options["constants"] = constants
    run = write_run(tmp_path / "run", data, CELLS, way, units, absent=absent, masks=masks, **options)
    found = count(run, tmp_path, common_mode=units == "ADU", threads=2)

    present = np.array([(MODULE, frame) not in absent for frame in range(len(CELLS))])
    good = (masks[MODULE] == 0)[np.searchsorted(np.unique(CELLS), CELLS)]
    photons = photons_reference(run, data, MODULE, CELLS, good, options.get("constants"), common_mode=True)
    photons[~present] = 0
    if units == "ADU":
        good &= xfel_constants(options["constants"][MODULE], MODULE, 9.3)[3][CELLS]
        full = (data[MODULE][:, 0] >= 16383) & good
    else:
        full = (photons == (255 if dtype == "uint8" else 65535)) & good
    assert photons.any()
    assert_counts(found, expected_counts(photons, CELLS, present, np.ones(MODULE_SHAPE, bool), full))
    assert found["attributes"] == {"rule": "count_litpixels"}
    assert found["powder_per_cell"].dtype == np.uint32
    assert found["litpixels"].dtype == np.uint32
    assert found["photons"].dtype == np.uint64
