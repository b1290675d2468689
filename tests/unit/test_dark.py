import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pulsetrain import dark
from pulsetrain.detector import LAB_SHAPE, PIXELS

MODULE = 5


def write_dark(path, analog, present=None, **options):
    """A gathered dark file; absent memory cells hold zeros."""
    with h5py.File(path, "w") as file:
        file.create_dataset("analog", data=analog, **options)
        file.create_dataset("digital", shape=analog.shape, dtype="i2")
        file["cellPresent"] = np.ones(analog.shape[1], bool) if present is None else present
        file.attrs.update(module=MODULE, kind="dark", layout="nxs", orientation="lab")
    return path


def dark_frames(n_bursts, n_cells, seed=1):
    rng = np.random.default_rng(seed)
    level = rng.normal(5000, 300, (n_cells, *LAB_SHAPE))
    return np.rint(level + rng.normal(0, 9, (n_bursts, n_cells, *LAB_SHAPE))).astype("i2")


def plain(analog):
    """Mean and standard deviation as the document's program has them, but not truncated."""
    values = analog.astype("f8")
    return np.mean(values, axis=0), np.std(values, axis=0)


def sums(values, block):
    """Sums of (n, pixels) values by the kernel, `block` bursts at a time."""
    total, squares = np.zeros(values.shape[1], "i8"), np.zeros(values.shape[1], "i8")
    for first in range(0, len(values), block):
        part = values[first : first + block]
        dark.add_block(part.reshape(-1), len(part), values.shape[1], total, squares)
    return total, squares


def kernel_levels(values, block=dark.MOST_BLOCK_BURSTS):
    mean, deviation = np.empty((2, values.shape[1]), "f4")
    dark.mean_and_deviation(len(values), *sums(values, block), mean, deviation)
    return mean, deviation


@settings(max_examples=150)
@given(hnp.arrays("i2", st.tuples(st.integers(1, 40), st.integers(1, 40))), st.integers(1, 50))
@example(np.full((7, 3), -32768, "i2"), 3)
@example(np.full((2, 1030), 32767, "i2"), 1)
def test_sums_are_exact(values, block):
    total, squares = sums(values, block)
    np.testing.assert_array_equal(total, values.astype("i8").sum(axis=0))
    np.testing.assert_array_equal(squares, (values.astype("i8") ** 2).sum(axis=0))


@pytest.mark.parametrize("values", [(-32768,), (32767,), (-32768, 32767), (-1, 181), (32767, 32766)])
def test_the_largest_block_does_not_overflow(values):
    n = dark.MOST_BLOCK_BURSTS
    held = np.resize(np.array(values, "i2"), (n, 1))
    total, squares = sums(np.repeat(held, 2, axis=1), n)
    np.testing.assert_array_equal(total, [held.astype("i8").sum()] * 2)
    np.testing.assert_array_equal(squares, [(held.astype("i8") ** 2).sum()] * 2)


@settings(max_examples=150)
@given(hnp.arrays("i2", st.tuples(st.integers(2, 60), st.integers(1, 5))))
def test_levels_are_those_of_numpy_in_double_precision(values):
    mean, deviation = kernel_levels(values)
    expected = plain(values)
    # float32 keeps 24 bits: half a unit in the last place is 6e-8 of the value.
    np.testing.assert_allclose(mean, expected[0], rtol=6.1e-8, atol=0)
    np.testing.assert_allclose(deviation, expected[1], rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("level", [-32768, -1, 0, 5000, 32767])
def test_small_deviations_at_large_levels(level):
    values = np.full((100_001, 3), level, "i2")
    values[0, 1] = level + (1 if level < 0 else -1)
    values[::2, 2] = level + (1 if level < 0 else -1)
    mean, deviation = kernel_levels(values)
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype="f8"), rtol=6.1e-8)
    n = len(values)
    assert deviation[0] == 0
    np.testing.assert_allclose(deviation[1], np.sqrt(n - 1) / n, rtol=1e-7)
    np.testing.assert_allclose(deviation[2], np.sqrt((n // 2 + 1) * (n // 2)) / n, rtol=1e-7)


@settings(max_examples=50)
@given(hnp.arrays("i2", st.tuples(st.integers(2, 30), st.just(4)), elements=st.integers(-9000, 9000)), st.randoms())
def test_order_and_constants_added(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    mean, deviation = kernel_levels(values)
    again = kernel_levels(values[order])
    np.testing.assert_array_equal(again, (mean, deviation))
    shifted = kernel_levels(values + np.int16(12_345))
    np.testing.assert_array_equal(shifted[1], deviation)
    # The mean is rounded to float32 in both cases.
    np.testing.assert_allclose(shifted[0] - 12_345, mean, atol=0.001)


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    analog = dark_frames(7, 5)
    present = np.array([True, True, False, True, True])
    analog[:, ~present] = 0
    path = write_dark(tmp_path_factory.mktemp("dark") / "m05_dark.h5", analog, present)
    return path, analog, present


def read(path):
    with h5py.File(path) as file:
        return {name: held[()] for name, held in file.items()}, dict(file.attrs)


def test_file(gathered, tmp_path):
    path, analog, present = gathered
    output = tmp_path / "m05_dark.h5"
    dark.process_dark(path, output, {"rule": "process_dark"}, module=MODULE, threads=2)
    found, attributes = read(output)
    mean, deviation = plain(analog)
    assert set(found) == {"darkOffset", "darkStandardDeviation"}
    assert all(held.dtype == np.float32 for held in found.values())
    np.testing.assert_array_equal(found["darkOffset"][present], mean[present].astype("f4"))
    np.testing.assert_allclose(found["darkStandardDeviation"][present], deviation[present], rtol=1e-7)
    assert all(np.isnan(held[~present]).all() for held in found.values())
    assert attributes == {"rule": "process_dark", "module": MODULE, "orientation": "lab", "bursts": 7}
    with h5py.File(output) as file:
        assert {held.attrs["units"] for held in file.values()} == {"ADU"}


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 9))
def test_threads_and_block_sizes_do_not_matter(gathered, threads, group_cells, block_bursts):
    path = gathered[0]
    found = dark.dark_levels(path, threads=threads, group_cells=group_cells, block_bursts=block_bursts)
    for one, other in zip(found, dark.dark_levels(path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_way_of_storing_does_not_matter(gathered, tmp_path):
    path, analog, present = gathered
    expected = dark.dark_levels(path)
    for options in ({"chunks": (3, 1, 64, 64)}, {"chunks": (1, 2, 128, 512), "compression": "gzip"}):
        stored = write_dark(tmp_path / "other.h5", analog, present, **options)
        np.testing.assert_array_equal(dark.dark_levels(stored, threads=2), expected)


def test_all_cells_present_are_read_in_one_go(tmp_path):
    analog = dark_frames(5, 2)
    path = write_dark(tmp_path / "dark.h5", analog)
    np.testing.assert_array_equal(dark.dark_levels(path).offset, plain(analog)[0].astype("f4"))


def test_no_cell_present(tmp_path):
    path = write_dark(tmp_path / "dark.h5", np.zeros((2, 3, *LAB_SHAPE), "i2"), np.zeros(3, bool))
    levels = dark.dark_levels(path)
    assert levels.offset.shape == (3, *LAB_SHAPE)
    assert np.isnan(levels).all()


def process(path, tmp_path, module=MODULE):
    output = tmp_path / "out.h5"
    try:
        dark.process_dark(path, output, {}, module=module, threads=1)
    finally:
        assert not output.exists()


def test_errors_say_what_is_wrong(tmp_path):
    path = write_dark(tmp_path / "m05_dark.h5", np.zeros((1, 2, *LAB_SHAPE), "i2"))
    with pytest.raises(ValueError, match=r"m05_dark\.h5: analog has 1 bursts; at least 2 are needed\. Gather the dark"):
        process(path, tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["kind"] = "xray"
        file.attrs["orientation"] = "xfel"
        del file["analog"], file["cellPresent"]
        file["analog"] = np.zeros((3, 2, 512, 128), "u2")
    with pytest.raises(ValueError, match="attribute module is 5; expected 6") as error:
        process(path, tmp_path, module=6)
    for part in (
        "xray; expected dark",
        "xfel; expected lab",
        "(3, 2, 512, 128)",
        "<u2",
        "cellPresent is missing",
    ):
        assert part in str(error.value)
    with h5py.File(path, "r+") as file:
        del file["analog"]
    with pytest.raises(ValueError, match="analog is missing"):
        process(path, tmp_path)


def test_damaged_files(gathered, tmp_path):
    whole = gathered[0].read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5: it cannot be read .*cut off"):
        process(path, tmp_path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="not HDF5"):
        process(path, tmp_path)


def test_a_file_that_is_cut_off_while_it_is_read(gathered):
    path, analog, _ = gathered
    source, _ = dark._open(path)
    beyond = source._replace(begin=path.stat().st_size - 3 * PIXELS * 2)
    with path.open("rb") as file, pytest.raises(ValueError, match="the file ends at byte"):
        dark._read_bursts(beyond, file.fileno(), slice(0, 7), slice(0, 5), np.empty(7 * 5 * PIXELS, "i2"))


def test_blocks_beyond_the_bound_are_refused(gathered):
    with pytest.raises(ValueError, match="1 to 65536"):
        dark.dark_levels(gathered[0], block_bursts=65_537)
