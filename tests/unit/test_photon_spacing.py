import json
import warnings

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from xray_reference import plain_spacing, simulate_series, spacing_bound

from pulsetrain import photon_comb as comb
from pulsetrain import photon_spacing
from pulsetrain.detector import LAB_SHAPE, PIXELS

MODULE, CELL = 3, 175
CONSTANT = 700  # pixels of the file tests with faults, in ASIC 0 and 1
NOISY = 40
DARK = 41


def spacings(values, **options):
    """Fits of series in memory, and their common share of divided charge."""
    histograms = photon_spacing.series_histograms(values)
    group = np.zeros(len(values), int)
    shared = photon_spacing.shared_fractions(histograms, group, np.arange(len(values)), **options)
    return photon_spacing.fit_combs(histograms, shared[group], **options), shared[0]


ACCURACY = [
    {},
    {"mean": 0.5},
    {"mean": 0.02},
    {"mean": 0.02, "spacing": 60},
    {"spacing": 60},
    {"spacing": 75},
    {"spacing": 120},
    {"drift": 200, "spacing": 60},
    {"drift": 200, "mean": 0.5},
    {"shared": 0.15},
    {"shared": 0.15, "spacing": 60},
    {"shared": 0.3},
]


@pytest.mark.parametrize("case", ACCURACY, ids=str)
def test_bias_scatter_and_stated_error(case):
    n_pixels, n_frames = 250, 20_000
    simulated = simulate_series(n_pixels, n_frames, **case)
    fits, shared = spacings(simulated.values)
    assert (fits.status == comb.FITTED).all()
    error = fits.values[:, comb.SPACING] - simulated.spacing
    bounds = [
        spacing_bound(n_frames, case.get("mean", 0.25), 10, g) for g in np.quantile(simulated.spacing, [0.1, 0.5, 0.9])
    ]
    bound = np.mean(bounds)
    # Statistical error of the mean of 250 pixels: 0.063 bounds; of their scatter: 4.5 %. Both three times.
    limit = 0.3 if case.get("shared") else 0.1
    assert abs(error.mean()) < min(limit, 0.02 + 3 * 0.063 * error.std())
    assert abs(shared - case.get("shared", 0)) < 0.02
    if not case.get("shared"):
        assert error.std() < 1.1 * 1.06 * bound
    pull = error / fits.values[:, comb.ERROR]
    assert 0.86 < pull.std() < 1.14
    assert np.abs(pull).max() < 5


@pytest.mark.parametrize(("n_frames", "mean"), [(1000, 0.3), (2000, 0.1)])
def test_few_frames(n_frames, mean):
    simulated = simulate_series(600, n_frames, mean=mean, sigma=8, spacing=60, drift=30)
    fits, shared = spacings(simulated.values)
    good = fits.status == comb.FITTED
    assert good.mean() > 0.995
    error = fits.values[good, comb.SPACING] - 60
    assert abs(error.mean()) < 0.1
    assert error.std() < 1.15 * spacing_bound(n_frames, mean, 8, 60)
    assert shared < 0.02


def test_better_than_the_plain_version():
    simulated = simulate_series(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = np.array([plain_spacing(values) for values in simulated.values])
    fits, _ = spacings(simulated.values)
    # Peaks of a histogram of 1 ADU, each found to about a bin: the two agree to some ADU, ours is nearer to the truth.
    difference = plain[:, 0] - fits.values[:, comb.SPACING]
    assert np.abs(difference).max() < 6
    plain_error = (plain[:, 0] - simulated.spacing).std()
    assert (fits.values[:, comb.SPACING] - simulated.spacing).std() < 0.5 * plain_error
    # The same height above the valley; smoothed by 11 ADU there, by about 10 ADU here.
    np.testing.assert_allclose(fits.values[:, comb.QUALITY], plain[:, 1], rtol=0.15)


def test_k_beta_light_shifts_by_about_half_its_mean():
    simulated = simulate_series(200, k_beta=0.15)
    fits, _ = spacings(simulated.values)
    shift = (fits.values[:, comb.SPACING] / simulated.spacing - 1).mean()
    # The mean energy is 1.8 % higher; the width of the peak takes a part of it.
    assert 0.008 < shift < 0.018


def series_of(case, n=3000, seed=5):
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 10, n)
    photons = rng.poisson(0.25, n)
    shapes = {
        "stuck": np.full(n, 5123.0),
        "full": np.full(n, 16383.0),
        "no photons": 5000 + noise,
        "noisy": 5000 + 5 * noise + 90 * photons,
        "no pedestal": rng.uniform(0, 16000, n),
        "weak": 5000 + noise + 90 * (np.arange(n) % 1000 == 7),
        "good": 5000 + noise + 90 * photons,
    }
    return np.rint(shapes[case]).astype("i2")[None]


@pytest.mark.parametrize(
    ("case", "codes"),
    [
        ("stuck", {comb.CONSTANT}),
        ("full", {comb.CONSTANT}),
        ("no photons", {comb.NO_PHOTONS}),
        ("noisy", {comb.UNRESOLVED, comb.UNCERTAIN, comb.NOT_CONVERGED, comb.NO_PHOTONS}),
        ("no pedestal", {comb.LOST}),
        ("weak", {comb.NO_PHOTONS}),
        ("good", {comb.FITTED}),
    ],
)
def test_status(case, codes):
    for seed in range(20):
        assert spacings(series_of(case, seed=seed))[0].status[0] in codes


def test_the_first_frame_does_not_matter():
    values = series_of("good")
    other = values.copy()
    other[:, 0] = 16000
    np.testing.assert_array_equal(spacings(values)[0].values, spacings(other)[0].values)


@settings(max_examples=25)
@given(st.integers(-4000, 11_000), st.integers(0, 10))
def test_a_constant_added_shifts_nothing(constant, seed):
    values = simulate_series(2, 1500, seed=seed, spacing=80).values
    values[:, 0] = 5000
    one, other = (photon_spacing.series_histograms(v) for v in (values, (values + constant).astype("i2")))
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.status, other.status)
    np.testing.assert_allclose(other.drift, one.drift + constant, atol=0.01)


@settings(max_examples=10)
@given(st.sampled_from([1.5, 2.0, 2.5]), st.integers(0, 5))
def test_scaled_data_give_a_scaled_spacing(factor, seed):
    simulated = simulate_series(20, 4000, seed=seed, sigma=6, spacing=60, drift=20)
    scaled = np.rint(simulated.values * factor).astype("i2")
    one, other = spacings(simulated.values)[0].values, spacings(scaled)[0].values
    # Rounding, and bins of 2 ADU: some percent of the error, which is 0.2 ADU.
    np.testing.assert_allclose(other[:, comb.SPACING], factor * one[:, comb.SPACING], atol=0.15 * factor)
    np.testing.assert_allclose(other[:, comb.ERROR], factor * one[:, comb.ERROR], rtol=0.1)


def test_extreme_values():
    values = np.resize(np.array([-32768, 32767], "i2"), (1, 1000))
    assert spacings(values)[0].status[0] == comb.LOST
    values = series_of("good")
    values[0, 100:110], values[0, 200:210] = -9000, 16383
    fits, _ = spacings(values)
    assert fits.status[0] == comb.FITTED
    assert abs(fits.values[0, comb.SPACING] - 90) < 5 * fits.values[0, comb.ERROR]


def model(parameters, v):
    """The model of the docstring, with numpy and SciPy."""
    mu, g, s, *areas, floor, shared = parameters
    total = np.full(len(v), floor)
    for k, area in enumerate(areas):
        peak = stats.norm.pdf(v, mu + k * g, s)
        shelf = (special.ndtr((v - mu - (k - 1) * g) / s) - special.ndtr((v - mu - k * g) / s)) / g
        total += area * (peak if k == 0 else (1 - shared) * peak + shared * shelf)
    return total


PARAMETERS = np.array([0.3, 40.0, 5.0, 800.0, 180.0, 25.0, 3.0, 0.02, 0.1])


@pytest.mark.parametrize("shared", [0.0, 0.1, 0.4])
def test_model_and_derivatives(shared):
    parameters = np.append(PARAMETERS[:-1], shared)
    first, last = 20, 300
    v = np.arange(first, last) - comb.ZERO_BIN
    rows = np.empty((comb.N_ROWS, comb.BINS), "f4")
    comb.model_rows(parameters, first, last, True, rows)
    n = last - first
    # float32: 1e-6 of the largest value; beyond 6.5 sigma a peak is left out, 1e-9 of its height.
    largest = model(parameters, v).max()
    np.testing.assert_allclose(rows[comb.N_PARAMETERS, :n], model(parameters, v), atol=2e-6 * largest)
    for a in range(comb.N_PARAMETERS):
        step = np.zeros(comb.N_PARAMETERS)
        step[a] = 1e-4
        slope = (model(parameters + step, v) - model(parameters - step, v)) / 2e-4
        np.testing.assert_allclose(rows[a, :n], slope, atol=1e-5 * max(np.abs(slope).max(), 1e-3), err_msg=str(a))


def test_the_fit_is_where_the_likelihood_is_largest():
    simulated = simulate_series(3, 8000, shared=0.1)
    histograms = photon_spacing.series_histograms(simulated.values)
    fits = photon_spacing.fit_combs(histograms, np.full(3, 0.1))
    for counts, values in zip(histograms.counts, fits.values, strict=True):
        found = values[comb.FIRST_PARAMETER :]
        first = int(comb.ZERO_BIN + found[comb.MU] - comb.REACH * found[comb.S])
        last = int(comb.ZERO_BIN + found[comb.MU] + comb.RANGE * found[comb.G])
        v = np.arange(first, last) - comb.ZERO_BIN

        def loss(x, v=v, counts=counts[first:last]):
            floor = max(np.exp(x[-1]), comb.LOWEST_FLOOR)
            m = np.maximum(model([*x[:3], *np.exp(x[3:-1]), floor, 0.1], v), 1e-9)
            return (m - counts * np.log(m)).sum()

        start = np.concatenate([found[:3], np.log(found[3:-1])])
        best = optimize.minimize(
            loss, start, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-7, "xatol": 1e-5}
        )
        # The fit stops when a step is below a tenth of the error; the likelihood is flat there to 0.01.
        assert loss(start) - best.fun < 0.02
        assert abs(best.x[1] - found[1]) * comb.BIN < 0.1 * values[comb.ERROR]


def test_groups_have_shares_of_their_own():
    parts = [simulate_series(60, 8000, seed=k, shared=share).values for k, share in enumerate((0, 0.2))]
    few = simulate_series(5, 8000, seed=9).values
    histograms = photon_spacing.series_histograms(np.concatenate([*parts, few]))
    group = np.repeat([0, 1, 2], [60, 60, 5])
    shared = photon_spacing.shared_fractions(histograms, group, np.arange(125))
    np.testing.assert_allclose(shared[:2], [0, 0.2], atol=0.02)
    assert shared[2] == np.median(shared[:2])  # too few pixels: that of the others


def test_odd_pixels_do_not_change_the_share():
    good = simulate_series(100, 8000, shared=0.1).values
    odd = (
        np.random.default_rng(3).integers(0, 2, (5, 8000)) * 45
        + simulate_series(5, 8000, shared=0.8, spacing=90).values
    )
    _, alone = spacings(good)
    _, both = spacings(np.concatenate([good, odd.astype("i2")]))
    assert abs(alone - both) < 0.01


def test_no_pixel_with_photons():
    values = np.concatenate([series_of("stuck"), series_of("no photons")])
    fits, shared = spacings(values)
    assert shared == 0
    assert fits.status.tolist() == [comb.CONSTANT, comb.NO_PHOTONS]


def write_xray(path, frames, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("analog", data=frames, **options)
        file.create_dataset("digital", shape=frames.shape, dtype="i2")
        file.attrs.update(module=MODULE, kind="xray", layout="nxs", orientation="lab", cell=CELL)
    return path


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """A module of 64 different pixels over and over, some of them bad; 300 frames: two chunks and a part."""
    simulated = simulate_series(64, 300, mean=0.4, sigma=8, spacing=(80, 110), drift=10)
    values = np.tile(simulated.values, (PIXELS // 64, 1))
    values[CONSTANT] = 5000
    rng = np.random.default_rng(1)
    values[NOISY] = np.rint(rng.normal(5000, 60, 300))
    values[DARK] = np.rint(rng.normal(5000, 8, 300))
    frames = np.ascontiguousarray(values.T).reshape(-1, *LAB_SHAPE)
    path = write_xray(tmp_path_factory.mktemp("xray") / "m03_xray.h5", frames, chunks=(128, 8, 512))
    return path, values, np.tile(simulated.spacing, PIXELS // 64)


@pytest.fixture(scope="module")
def expected(gathered):
    return photon_spacing.series_histograms(gathered[1])


def read(path):
    with h5py.File(path) as file:
        found = {name: held[()] for name, held in file.items() if isinstance(held, h5py.Dataset)}
        found["samples"] = {name: held[()] for name, held in file["samples"].items()}
        return found, dict(file.attrs), json.loads(file["fitStatus"].attrs["codes"])


def test_file(gathered, tmp_path):
    path, values, spacing = gathered
    output = tmp_path / "out.h5"
    photon_spacing.process_xray(path, output, {"rule": "process_xray"}, module=MODULE, cell=CELL, threads=2)
    found, attributes, codes = read(output)
    expected = {"rule": "process_xray", "module": MODULE, "orientation": "lab", "cell": CELL, "frames": 300}
    assert attributes == expected | {"min_spacing": 40.0}
    assert {int(code) for code in codes} == set(range(7))
    for name in ("photonSpacing", "quality", "spacingError"):
        assert (found[name].shape, found[name].dtype) == (LAB_SHAPE, np.float32)
        np.testing.assert_array_equal(np.isnan(found[name]), found["fitStatus"] != 0)
    assert found["fitStatus"].dtype == np.uint8
    status = found["fitStatus"].reshape(-1)
    assert status[CONSTANT] == comb.CONSTANT
    assert status[DARK] == comb.NO_PHOTONS
    assert status[NOISY] != comb.FITTED
    # 300 frames: the failures are those of a few of the 64 series, again and again.
    good = status == comb.FITTED
    assert good.mean() > 0.9
    error = found["photonSpacing"].reshape(-1) - spacing
    assert np.nanstd(error / found["spacingError"].reshape(-1)) < 1.4
    assert found["sharedFraction"].shape == (2, 8)
    assert (found["quality"][found["fitStatus"] == 0] > 0).all()
    check_samples(found, values)


def check_samples(found, values):
    samples = found["samples"]
    pixel = samples["row"].astype(int) * LAB_SHAPE[1] + samples["column"]
    status = found["fitStatus"].reshape(-1)[pixel]
    assert (status == 0).sum() == 8
    assert 1 <= (status != 0).sum() <= 4
    k, m = len(pixel), len(samples["frame"])
    assert samples["edges"].shape == (comb.BINS + 1,)
    assert samples["histogram"].shape == samples["model"].shape == (k, comb.BINS)
    assert samples["series"].shape == samples["drift"].shape == (k, m)
    np.testing.assert_array_equal(samples["series"], values[pixel][:, samples["frame"]])
    good = status == 0
    assert (samples["histogram"][good].sum(axis=1) == 299).all()
    np.testing.assert_allclose(samples["model"][good].sum(axis=1), 299, rtol=0.1)
    middle = (samples["edges"][1:] + samples["edges"][:-1]) / 2
    assert middle[comb.ZERO_BIN] == 0
    # The pedestal of the simulation is about 5000 ADU, its track follows the zero-photon frames.
    assert (np.abs(np.median(samples["series"][good] - samples["drift"][good], axis=1)) < 15).all()


@pytest.mark.parametrize(("threads", "series_bytes"), [(1, 1 << 29), (2, 1 << 29), (3, 1 << 21), (2, 1 << 18)])
def test_threads_and_memory_do_not_matter(gathered, expected, threads, series_bytes):
    found = photon_spacing.read_histograms(gathered[0], threads=threads, series_bytes=series_bytes)
    for name in found._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_threads_do_not_matter_for_the_fits(expected):
    asic = photon_spacing.asic_of_pixel()
    sample = photon_spacing.asic_sample(asic)
    results = []
    for threads in (1, 3):
        shared = photon_spacing.shared_fractions(expected, asic, sample, threads=threads)
        results.append((shared, *photon_spacing.fit_combs(expected, shared[asic], threads=threads)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("series_bytes", [1, 600 * 2 * 5, 512 * 600, 4096 * 600 * 3])
def test_pieces_cover_each_pixel_once(series_bytes):
    seen = np.zeros(LAB_SHAPE, int)
    for rows, columns in photon_spacing._pieces(300, series_bytes):
        assert rows.start // 8 == (rows.stop - 1) // 8
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        assert pixels * 600 <= max(series_bytes, 600)
        seen[rows, columns] += 1
        if series_bytes == 1 and rows.start > 1:
            return
    assert (seen == 1).all()


@pytest.mark.parametrize("options", [{}, {"chunks": (50, 8, 512)}, {"chunks": (64, 64, 64), "compression": "gzip"}])
def test_the_way_of_storing_does_not_matter(gathered, tmp_path, options):
    frames = gathered[1].T.reshape(-1, *LAB_SHAPE)
    path = write_xray(tmp_path / "other.h5", np.ascontiguousarray(frames[:220]), **options)
    found = photon_spacing.read_histograms(path, threads=2)
    np.testing.assert_array_equal(found.counts, photon_spacing.series_histograms(gathered[1][:, :220]).counts)


def test_chunks_never_written_are_zeros(tmp_path):
    with h5py.File(write_xray(tmp_path / "m.h5", np.zeros((1, *LAB_SHAPE), "i2")), "r+") as file:
        del file["analog"]
        file.create_dataset("analog", (256, *LAB_SHAPE), "i2", chunks=(128, 8, 512))
    histograms = photon_spacing.read_histograms(tmp_path / "m.h5")
    assert (histograms.status == comb.CONSTANT).all()


def process(path, tmp_path, **changed):
    output = tmp_path / "out.h5"
    try:
        photon_spacing.process_xray(path, output, {}, **({"module": MODULE, "cell": CELL} | changed))
    finally:
        assert not output.exists()


def test_errors_say_what_is_wrong(tmp_path):
    path = write_xray(tmp_path / "m03_xray.h5", np.zeros((199, *LAB_SHAPE), "i2"))
    with pytest.raises(
        ValueError, match=r"m03_xray\.h5: analog has 199 frames; at least 200 are needed\. Gather the xray"
    ):
        process(path, tmp_path)
    with pytest.raises(ValueError, match=r"module is 3; expected 4; .*cell is 175; expected 32"):
        process(path, tmp_path, module=4, cell=32)
    with h5py.File(path, "r+") as file:
        del file["analog"]
        file["analog"] = np.zeros((300, 512, 128), "f4")
    with pytest.raises(ValueError, match=r"shape \(300, 512, 128\); expected \(frames, 128, 512\).*<f4"):
        process(path, tmp_path)


def test_damaged_files(gathered, tmp_path):
    whole = gathered[0].read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5: it cannot be read .*cut off"):
        process(path, tmp_path)
