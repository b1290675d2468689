import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_runs import (
    float_reference,
    integer_reference,
    random_constants,
    raw_reference,
    raw_signal,
    raw_values,
    xfel_constants,
)
from reference import dark_level

from pulsetrain import decode, kernels, raw_kernels
from pulsetrain.constants import prepare_constants
from pulsetrain.detector import LAB_SHAPE, PIXELS

HALF = np.float32(0.5)


def planes_of(values):
    """Bytes of values as HDF5's shuffle filter orders them."""
    return np.ascontiguousarray(values.view("u1").reshape(-1, values.itemsize).T).reshape(-1)


def frames_of_bytes(rng):
    return {
        "zeros": np.zeros(PIXELS, "u1"),
        "saturated": np.full(PIXELS, 255, "u1"),
        "random": rng.integers(0, 256, PIXELS).astype("u1"),
        "sparse": rng.poisson(0.03, PIXELS).astype("u1"),
        "dense": np.minimum(rng.poisson(40, PIXELS), 255).astype("u1"),
    }


def random_mask(rng, bad=0.3):
    return np.where(rng.random(PIXELS) < bad, 0, 255).astype("u1")


def expected_row(photons, mask, region, full):
    seen = photons.astype("u8") * (mask > 0)
    return [(seen > 0).sum(), seen.sum(), (seen * (region > 0)).sum(), (seen == full).sum()]


@pytest.mark.parametrize("kind", ["zeros", "saturated", "random", "sparse", "dense"])
def test_bytes_are_counted_as_numpy_counts(kind):
    rng = np.random.default_rng(1)
    photons = frames_of_bytes(rng)[kind]
    good = np.stack([random_mask(rng), random_mask(rng, 0), random_mask(rng, 1)])
    region = random_mask(rng, 0.2)
    for cell in range(3):
        staging, counts = np.zeros(PIXELS, "u2"), np.zeros((2, 4), "u4")
        kernels.count_bytes(photons, good, cell, region, bool(region.all()), staging, counts, 1)
        assert counts[1].tolist() == expected_row(photons, good[cell], region, 255)
        assert not counts[0].any()
        np.testing.assert_array_equal(staging, photons * (good[cell] > 0))


@pytest.mark.parametrize("kind", ["zeros", "saturated", "random", "sparse"])
def test_photons_are_counted_as_numpy_counts(kind):
    rng = np.random.default_rng(2)
    photons = {
        "zeros": np.zeros(PIXELS, "u2"),
        "saturated": np.full(PIXELS, 65535, "u2"),  # the largest sum that there is: 65536 * 65535
        "random": rng.integers(0, 65536, PIXELS).astype("u2"),
        "sparse": rng.poisson(0.03, PIXELS).astype("u2"),
    }[kind]
    region = random_mask(rng, 0.2)
    for mask in (random_mask(rng), random_mask(rng, 0), random_mask(rng, 1)):
        powder, counts = rng.integers(0, 2**31, PIXELS).astype("u4"), np.zeros((1, 4), "u4")
        expected = powder + photons.astype("u4") * (mask > 0)
        kernels.count_photons(photons, mask, region, powder, counts, 0)
        assert counts[0].tolist() == expected_row(photons, mask, region, 65535)
        np.testing.assert_array_equal(powder, expected)


def test_staging_holds_as_many_frames_as_it_says():
    photons, all_good = np.full(PIXELS, 255, "u1"), np.full((1, PIXELS), 255, "u1")
    staging, powder = np.zeros(PIXELS, "u2"), np.full(PIXELS, 7, "u4")
    counts = np.zeros((1, 4), "u4")
    for _ in range(kernels.STAGING_FRAMES):
        kernels.count_bytes(photons, all_good, 0, all_good[0], True, staging, counts, 0)
    assert (staging == 65535).all()
    kernels.add_staging(staging, powder)
    assert (powder == 65535 + 7).all()
    assert not staging.any()


def test_every_upper_half_of_a_float_is_told_apart():
    """Brute force: all 65536 combinations of sign, exponent and upper fraction, each among zeros."""
    upper = np.arange(65536, dtype="u4")
    with np.errstate(invalid="ignore"):
        value = (upper << 16).view("f4")
        known = (value >= 0) & (value <= 255) & (value == np.floor(value)) & (upper != 0x8000)
    frame, photons = np.zeros(PIXELS, "f4"), np.empty(PIXELS, "u1")
    planes = planes_of(frame).reshape(4, PIXELS)
    for k in range(65536):
        place = (k * 257) % PIXELS
        planes[2, place], planes[3, place] = k & 255, k >> 8
        assert kernels.planes_to_bytes(planes.reshape(-1), photons) == known[k]
        if known[k]:
            assert photons[place] == value[k]
        planes[:, place] = 0


@pytest.mark.parametrize("value", [0.5, 1 + 2**-8, 255.5, 256, 1e-40, -1, -0.0, np.nan, np.inf, 3 + 2**-21])
def test_other_floats_are_noticed(value):
    frame = np.random.default_rng(3).integers(0, 256, PIXELS).astype("f4")
    photons = np.empty(PIXELS, "u1")
    assert kernels.planes_to_bytes(planes_of(frame), photons)
    np.testing.assert_array_equal(photons, frame)
    frame[40_000] = value
    assert not kernels.planes_to_bytes(planes_of(frame), photons)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_integers_keep_their_value(dtype):
    info = np.iinfo(dtype)
    values = np.random.default_rng(4).integers(info.min, info.max, PIXELS, endpoint=True).astype(dtype)
    values[:6] = [info.min, info.max, 0, 1, min(info.max, 65535), min(info.max, 65536)]
    photons = np.empty(PIXELS, "u2")
    kernels.integer_photons(values, photons)
    np.testing.assert_array_equal(photons, integer_reference(values))


@pytest.mark.parametrize("scale", [1, 1 / 9.3, 0.3])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 1, 0.01])
def test_floats_are_rounded_as_numpy_rounds(scale, threshold):
    rng = np.random.default_rng(5)
    values = rng.normal(1, 5, PIXELS).astype("f4")
    values[:1000] = np.arange(1000) * np.float32(1 / scale) * HALF
    values[1000:1012] = [np.nan, np.inf, -np.inf, 1e38, -1e38, -0.0, 65534.5, 65535, 65535.5, 65536, 1e-40, -1e-40]
    bias = kernels.threshold_bias(threshold)
    photons = np.empty(PIXELS, "u2")
    kernels.float_photons(values, np.float32(scale), bias, photons)
    np.testing.assert_array_equal(photons, float_reference(values, scale, bias))


def raw_case(seed, bad=0.03):
    rng = np.random.default_rng(seed)
    values = raw_values(rng, 3)
    given = random_constants(rng, 3)
    given["digitalThresholds"][:, :, :2, :200] = [[[[-5]]], [[[-32768]]]]
    given["digitalThresholds"][:, :, :2, 200:300] = 32767
    given["digitalThresholds"][:, :, 2:4, :200] = [[[[7000]]], [[[6500]]]]  # the wrong way round
    given["darkOffsets"][1, :, 5, :50] = np.nan
    given["analogGains_keV"][2, :, 6, :50] = np.inf
    given["analogGains_keV"][:, :, 7, :50] = 1e9
    given["analogGains_keV"][:, :, 7, 50:90] *= -1
    values[1, 0] = rng.integers(0, 16384, (512, 128))
    values[1, 1] = rng.integers(0, 16384, (512, 128))
    values[2] = rng.integers(0, 65536, (2, 512, 128))
    return values, given, random_mask(rng, bad)


def constants_of(given, module, energy=9.3):
    offset, gain, threshold, finite = xfel_constants(given, module, energy)
    flat = [np.array(a).reshape(*a.shape[:2], PIXELS) for a in (offset, gain * np.float32(1), threshold)]
    gain_kev = np.array(xfel_constants(given, module, 1)[1]).reshape(flat[1].shape)
    return prepare_constants(flat[0].copy(), gain_kev, flat[2], energy), (offset, gain, threshold, finite)


def recipe_for(calibration, common_mode, baseline_shift):
    arrays = calibration.offset, calibration.gain, calibration.limit
    return kernels.Recipe(kernels.RAW, np.float32(1), HALF, common_mode, baseline_shift, *arrays)


@pytest.mark.parametrize("baseline_shift", [False, True])
@pytest.mark.parametrize("common_mode", [False, True])
@pytest.mark.parametrize("bad", [0.03, 0.7, 0.8, 1])
@pytest.mark.parametrize("module", [3, 12])
def test_raw_frames_become_photons_as_in_numpy(common_mode, baseline_shift, bad, module):
    values, given, mask = raw_case(6, bad)
    calibration, (offset, gain, threshold, finite) = constants_of(given, module)
    near = np.random.default_rng(13).normal(90, 8, (512, 128))  # a shift of 1.4 photons in frame 0 and cell 0
    values[0, 0] = np.where(values[0, 1] < 6600, np.rint(offset[0, 0] + near), values[0, 0])
    np.testing.assert_array_equal(calibration.finite, finite.reshape(3, PIXELS))
    photons, shifts = np.empty(PIXELS, "u2"), np.zeros((8, 128), "f4")
    for frame in range(3):
        for cell in (0, 2):
            good = (mask > 0) & finite[cell].reshape(-1)
            mask_ = np.where(good, 255, 0).astype("u1")
            flat = values[frame].reshape(-1)
            arrays = (calibration.offset, calibration.gain, calibration.limit, cell, mask_)
            kernels.frame_shifts(flat, cell, mask_, recipe_for(calibration, common_mode, baseline_shift), shifts)
            full = raw_kernels.raw_photons(flat, *arrays, shifts, HALF, photons)
            expected = raw_reference(
                values[frame],
                offset[:, cell],
                gain[:, cell],
                threshold[:, cell],
                good.reshape(512, 128),
                HALF,
                common_mode,
                baseline_shift,
            )
            np.testing.assert_array_equal(photons[good], expected.reshape(-1)[good])
            assert full == ((flat[:PIXELS] >= 16383) & good).sum()


def test_the_common_mode_is_taken_off():
    """A frame whose ASICs are shifted gives the photons of the frame without shifts."""
    rng = np.random.default_rng(7)
    truth = rng.poisson(0.02, (512, 128))
    given = random_constants(rng, 1)
    given["digitalThresholds"][0], given["digitalThresholds"][1] = 7000, 8000
    calibration, (offset, gain, _, _) = constants_of(given, 0)
    shift = np.kron(rng.normal(0, 25, (8, 2)), np.ones((64, 64)))
    assert abs(shift).max() > 32
    clean = offset[0, 0] + truth / gain[0, 0]
    values = np.empty((2, 512, 128), "u2")
    values[0], values[1] = np.rint(clean + np.clip(shift, -28, 28)), 6000
    photons, shifts = np.empty(PIXELS, "u2"), np.zeros((8, 128), "f4")
    arrays = (calibration.offset, calibration.gain, calibration.limit, 0, np.full(PIXELS, 255, "u1"))
    raw_kernels.common_modes(values.reshape(-1), *arrays, np.float32(0), shifts)
    raw_kernels.raw_photons(values.reshape(-1), *arrays, shifts, HALF, photons)
    np.testing.assert_array_equal(photons.reshape(512, 128), truth)


FLAT = {
    "darkOffsets": np.full((3, 1, *LAB_SHAPE), 5000, "f4"),
    "analogGains_keV": np.full((3, 1, *LAB_SHAPE), 1 / 64, "f4"),
    "digitalThresholds": np.stack([np.full((1, *LAB_SHAPE), level, "i2") for level in (7000, 8000)]),
}


def shifted_frame(rng, mean, shift, noise, module_shifts=0.0):
    """A frame of 64 ADU per photon, of which every part is shifted."""
    asics = np.kron(rng.normal(0, module_shifts, (8, 2)), np.ones((64, 64)))
    truth = rng.poisson(mean, (512, 128))
    signal = truth + shift + asics + rng.normal(0, noise, (512, 128))
    return np.stack([np.rint(5000 + 64 * signal), np.full((512, 128), 6000)]).astype("u2").reshape(-1), truth


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 0.02, 0.3, 0.7, 1.2, 1.6, 1.9]),
    st.floats(-7, 7),
    st.floats(0.05, 0.18),
    st.floats(0, 0.5),
)
def test_the_baseline_is_found_up_to_two_photons_per_pixel(seed, mean, shift, noise, bad):
    """Whatever the shift, and although most pixels are lit at 0.7 photons and more; to 1/50 photon, 0.003 typically."""
    rng = np.random.default_rng(seed)
    calibration, _ = constants_of(FLAT, 0, 1)
    frame, _ = shifted_frame(rng, mean, shift, noise)
    mask = random_mask(rng, bad)
    level = raw_kernels.baseline_level(frame, calibration.offset, calibration.gain, calibration.limit, 0, mask)
    assert level == dark_level(((frame[:PIXELS] - np.float32(5000)) / np.float32(64))[mask > 0])
    assert level == pytest.approx(shift, abs=0.02)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(1.5, 8), st.floats(-1, 1), st.floats(0.1, 0.5))
def test_bright_frames_lose_no_photons_to_the_baseline(seed, mean, shift, bad):
    """With hardly any dark pixel left, the baseline is the right one or nothing; never off by a photon."""
    rng = np.random.default_rng(seed)
    calibration, _ = constants_of(FLAT, 0, 1)
    frame, _ = shifted_frame(rng, mean, shift, 0.12)
    mask = random_mask(rng, bad)
    level = raw_kernels.baseline_level(frame, calibration.offset, calibration.gain, calibration.limit, 0, mask)
    assert level == dark_level(((frame[:PIXELS] - np.float32(5000)) / np.float32(64))[mask > 0])
    assert level == 0 or level == pytest.approx(shift, abs=0.02)


@pytest.mark.parametrize("shift", [-1.7, 0.8, 3.2])
def test_shifts_larger_than_half_a_photon_need_the_baseline(shift):
    """The common mode alone cannot tell such a shift from photons; with the baseline all photons are right."""
    rng = np.random.default_rng(12)
    calibration, _ = constants_of(FLAT, 0, 1)
    frame, truth = shifted_frame(rng, 0.05, shift, 0.08, module_shifts=0.1)
    mask = np.full(PIXELS, 255, "u1")
    arrays = (calibration.offset, calibration.gain, calibration.limit, 0, mask)
    wrong = {}
    for baseline_shift in (False, True):
        photons, shifts = np.empty(PIXELS, "u2"), np.zeros((8, 128), "f4")
        kernels.frame_shifts(frame, 0, mask, recipe_for(calibration, True, baseline_shift), shifts)
        raw_kernels.raw_photons(frame, *arrays, shifts, HALF, photons)
        wrong[baseline_shift] = (photons != truth.reshape(-1)).mean()
    assert wrong[True] < 1e-4  # 0.5 photon is 6 sigma
    assert wrong[False] > 0.04


@pytest.mark.parametrize(("common_mode", "baseline_shift"), [(False, False), (True, True)])
@pytest.mark.parametrize("module", [3, 12])
def test_energies_are_those_of_the_photons(common_mode, baseline_shift, module):
    """floor(energy / E + 1 - threshold) is the photons in all stages.

    The energy is the float32 value in photons times E. Dividing by E again may miss that value by two units in the
    last place, which matters where it lies so near the edge between two numbers of photons.
    """
    energy = np.float32(9.3)
    values, given, mask = raw_case(6)
    calibration, (offset, gain, threshold, finite) = constants_of(given, module)
    recipe = recipe_for(calibration, common_mode, baseline_shift)
    shifts = np.zeros((8, 128), "f4")
    seen = np.zeros(4, int)
    for frame in range(3):
        flat = values[frame].reshape(-1)
        good = (mask > 0) & finite[1].reshape(-1)
        mask_ = np.where(good, 255, 0).astype("u1")
        arrays = (calibration.offset, calibration.gain, calibration.limit, 1, mask_)
        photons, kev, stage = np.empty(PIXELS, "u2"), np.empty(PIXELS, "f4"), np.empty(PIXELS, "i1")
        kernels.frame_shifts(flat, 1, mask_, recipe, shifts)
        raw_kernels.raw_photons(flat, *arrays, shifts, HALF, photons)
        raw_kernels.raw_energies(flat, *arrays, shifts, energy, kev, stage)

        digital = values[frame, 1].astype("i4")
        stage_ = (digital > threshold[0, 1]).astype(int) + (digital > threshold[1, 1])
        np.testing.assert_array_equal(stage, np.where(good, stage_.reshape(-1), -1))
        with np.errstate(invalid="ignore", over="ignore"):
            signal = (values[frame, 0].astype("f4") - np.choose(stage_, offset[:, 1])) * np.choose(stage_, gain[:, 1])
            signal = raw_signal(signal, stage_, good.reshape(512, 128), common_mode, baseline_shift).reshape(-1)
            np.testing.assert_array_equal(kev, np.where(good, signal * energy, np.float32(0)))
        back = kev[good].astype("f8") / energy + 0.5
        again = np.clip(np.floor(back), 0, 65535)
        near = np.abs(back - np.rint(back)) <= 2 * np.spacing(np.abs(back).astype("f4"))
        assert ((again == photons[good]) | near).all()
        assert (again != photons[good]).mean() < 1e-3
        seen += np.bincount(stage + 1, minlength=4)
    assert (seen > 500).all()


def test_flags_take_pixels_off_the_mask():
    rng = np.random.default_rng(8)
    mask, flags = random_mask(rng), (rng.random(PIXELS) < 0.2).astype("u4") << 31
    left, counts = np.empty(PIXELS, "u1"), np.full(PIXELS, 5, "u4")
    kernels.drop_flagged(flags, mask, left)
    np.testing.assert_array_equal(left, np.where((mask > 0) & (flags == 0), 255, 0))
    kernels.add_good(left, counts)
    np.testing.assert_array_equal(counts, 5 + (left > 0))
    photons = rng.integers(0, 65536, PIXELS).astype("u2")
    expected = np.where(left > 0, photons, 0)
    kernels.apply_mask(photons, left)
    np.testing.assert_array_equal(photons, expected)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, np.nan, 1e-9])
def test_a_senseless_threshold_is_an_error(threshold):
    with pytest.raises(ValueError, match="photon_threshold"):
        kernels.threshold_bias(threshold)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
def test_unshuffle_undoes_shuffle(dtype):
    values = np.random.default_rng(9).integers(0, 256, 1001 * np.dtype(dtype).itemsize).astype("u1").view(dtype)
    found = decode.unshuffle(planes_of(values), dtype)
    assert found.dtype == np.dtype(dtype)
    assert found.tobytes() == values.tobytes()


@settings(max_examples=50)
@given(st.binary(min_size=5, max_size=5000), st.sampled_from([-3, -1, 0, 1, 3]), st.sampled_from([0, 1, 4, 40]))
def test_inflate_gives_the_bytes_or_an_error(content, longer, cut):
    packed = zlib.compress(content, 1)
    size = len(content) + longer
    if longer == 0 and cut == 0:
        assert decode.inflate(packed, size).tobytes() == content
        return
    with pytest.raises(ValueError, match="compressed bytes"):
        decode.inflate(packed[: max(0, len(packed) - cut)], size)


def test_compiled_inflate_tells_what_is_wrong():
    content = np.random.default_rng(10).integers(0, 9, 3000).astype("u1")
    packed = np.frombuffer(b"abc" + zlib.compress(content.tobytes(), 1) + b"xyz", "u1")
    size = packed.size - 6
    broken = packed.copy()
    broken[20:40] ^= 255
    decompressor = decode.open_decompressor()
    target = np.empty(3000, "u1")
    assert decode.inflate_into(decompressor, packed, 3, size, target) == 0
    np.testing.assert_array_equal(target, content)
    assert decode.inflate_into(decompressor, broken, 3, size, target) == 1
    assert decode.inflate_into(decompressor, packed, 3, size, np.empty(3001, "u1")) == 2
    assert decode.inflate_into(decompressor, packed, 3, size, np.empty(2999, "u1")) == 3
    assert decode.inflate_into(0, packed, 3, size, target) == 4
    decode.close_decompressor(decompressor)
    assert set(decode.DAMAGES) == {1, 2, 3, 4}
