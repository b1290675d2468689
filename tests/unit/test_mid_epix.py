"""Each ePix frame is found by INDEX of its own file, and each documented fault has its outcome."""

import functools
import re

import h5py
import numpy as np
import pytest
from extra_data import RunDirectory
from hypothesis import given
from hypothesis import strategies as st
from mid_runs import RUN, check, export, settings_of, write_agipd, write_epix

from pulsetrain import mid_epix, simulate_mid
from pulsetrain.mid_virtual import find_stripes, unite_stripes

SOURCE = "MID_EXP_EPIX-{}/DET/RECEIVER:daqOutput"


@pytest.fixture(scope="module")
def agipd(tmp_path_factory):
    """AGIPD files of 24 trains with one pulse, checked: (place, settings, frame table)."""
    place = tmp_path_factory.mktemp("agipd")
    settings = settings_of(cells=1, modules=[13], bright_ring=False)
    return place, settings, check(place, settings, write_agipd(place, settings))


@functools.cache
def image_of(number, train):
    return simulate_mid.epix_image(settings_of(), RUN, number, train)


OUTCOME = {
    "epix_lacks_trains": ("no frame", ""),
    "epix_count_zero": ("no frame", ""),
    "epix_two_frames": ("several frames", ""),
    "epix_train_id_zero": ("no frame", "trainId 0 in 1 entries of INDEX (1)"),
    "epix_duplicate_train": ("appears twice", ""),
    "epix_duplicate_train_flagged": ("", ""),
    "epix_index_hole": ("", ""),
    "epix_index_off_by_one": ("no frame", "INDEX and data disagree in 1 entries"),
    "epix_truncated_file": ("no frame", "truncated or still being copied"),
    "epix_missing_file": ("no frame", ""),
}


@pytest.mark.parametrize("fault", OUTCOME)
def test_faults(agipd, tmp_path, fault, caplog):
    place, settings, frames = agipd
    epix = write_epix(tmp_path, settings, faults=[fault])
    path = export(place, settings, frames, epix, name=f"mid/{fault}.h5")
    kept, dropped = simulate_mid.expected_trains(settings, [1, 2], faults=[fault])
    with h5py.File(path) as file:
        train_id = file["index/trainId"][()] - 10001
        np.testing.assert_array_equal(train_id, kept)
        for number in (1, 2):
            data = file[f"data/EPIX-{number}/data"]
            for place_of, train in enumerate(train_id):
                np.testing.assert_array_equal(data[place_of], image_of(number, int(train)))
        reasons = dict(
            zip(file["index/dropped/trainId"][()] - 10001, file["index/dropped/reason"].asstr(), strict=True)
        )
    struck = {train: reason for train, reason in reasons.items() if train in dropped and 0 < train < 24}
    word, warning = OUTCOME[fault]
    assert bool(struck) == bool(word)
    assert all(reason.endswith(f": {word}") or fault == "epix_index_off_by_one" for reason in struck.values())
    assert {train for train in dropped if 0 < train < 24} == set(struck)
    assert warning in caplog.text


def test_it_equals_what_extra_data_reads(agipd, tmp_path):
    _, settings, _ = agipd
    files = write_epix(tmp_path, settings, numbers=[2])
    found = mid_epix.find_epix_trains(files, 2, RUN, {})
    run = RunDirectory(tmp_path / "data/raw/r0110")
    assert run.train_ids == found.train_id.tolist() == list(range(10002, 10026))
    expected = run[SOURCE.format(2), "data.image.pixels"].ndarray()
    for image, file, row in zip(expected, found.file, found.row, strict=True):
        with h5py.File(found.files.path[file]) as held:
            np.testing.assert_array_equal(held[f"INSTRUMENT/{SOURCE.format(2)}/data/image/pixels"][row], image)


def test_a_train_in_two_files(agipd, tmp_path):
    _, settings, _ = agipd
    files = write_epix(tmp_path, settings, numbers=[1])
    with h5py.File(files[2], "r+") as file:
        file["INDEX/trainId"][0] = 10010  # the last but six of the file before
        file[f"INSTRUMENT/{SOURCE.format(1)}/data/trainId"][0] = 10010
    found = mid_epix.find_epix_trains(files[::-1], 1, RUN, {})
    assert found.train_id[found.problem != ""].tolist() == [10010]
    assert set(found.problem) == {"", "appears twice"}
    assert (found.file < 0).tolist() == (found.problem != "").tolist()


def spoil(change):
    def spoiled(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return spoiled


def wrong_pixels(shape, dtype):
    def change(file):
        name = f"INSTRUMENT/{SOURCE.format(1)}/data/image/pixels"
        del file[name]
        file.create_dataset(name, shape, dtype)

    return spoil(change)


def other_run(file):
    file["METADATA/runNumber"][...] = 111


def without_pixels(file):
    del file[f"INSTRUMENT/{SOURCE.format(1)}/data/image/pixels"]


def without_count(file):
    del file[f"INDEX/{SOURCE.format(1)}/data/count"]
    del file[f"INDEX/{SOURCE.format(1)}/data/first"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (spoil(other_run), "METADATA/runNumber: found 111; expected 110"),
        (spoil(without_pixels), "data/image/pixels is missing"),
        (spoil(without_count), "first is missing"),
        (wrong_pixels((8, 704, 768), "u2"), r"found uint16 \(8, 704, 768\); expected uint16 \(frames, 708, 768\)"),
        (wrong_pixels((8, 708, 768), "f4"), "found float32"),
        (wrong_pixels((8, 708, 768), "i2"), "left out, its pixels are int16"),
    ],
)
def test_broken_files(agipd, tmp_path, change, message):
    _, settings, _ = agipd
    files = [tmp_path / f"RAW-R0110-EPIX01-S0000{sequence}.h5" for sequence in range(3)]
    for sequence, path in enumerate(files):
        simulate_mid.write_epix_file(path, settings, RUN, 1, sequence)
    change(files[1])
    found = mid_epix.find_epix_trains(files, 1, RUN, {})
    assert len(found.faults) == 1
    assert re.search(message, found.faults[0])
    assert files[1].name in found.faults[0]
    assert found.train_id.tolist() == [*range(10002, 10010), *range(10018, 10026)]
    np.testing.assert_array_equal(found.row, np.tile(range(8), 2))


def test_a_sequence_that_is_missing_is_named(agipd, tmp_path):
    _, settings, _ = agipd
    files = write_epix(tmp_path, settings)
    found = mid_epix.find_epix_trains([files[0], files[2]], 1, RUN, {})
    (fault,) = found.faults
    assert fault.startswith("there is no file of sequence 1, but there are files up to sequence 2")


def test_files_that_grow_and_files_of_another_camera(agipd, tmp_path):
    _, settings, _ = agipd
    files = write_epix(tmp_path, settings)
    name = files[0].rsplit("/", 1)[1]
    found = mid_epix.find_epix_trains(files[:3], 1, RUN, {name: 5})
    assert found.faults[0].startswith(f"{name}: still being copied")
    with pytest.raises(
        ValueError, match=r"no file of EPIX-1 can be used:(.|\n)*expected MID_EXP_EPIX-1(.|\n)*leave 1 out"
    ):
        mid_epix.find_epix_trains(files[3:], 1, RUN, {})


@given(st.data())
def test_stripes_hold_each_frame_once(data):
    """Whatever rows of whatever files are chosen: unrolled, the stripes give back each of them."""
    n_frames = data.draw(st.integers(1, 40))
    period = data.draw(st.integers(1, 4))
    kind = st.sampled_from([1, 1, 1, 2, 5])
    steps = data.draw(st.lists(kind, min_size=n_frames, max_size=n_frames))
    cut = data.draw(st.integers(0, n_frames))
    file = np.where(np.arange(n_frames) < cut, 0, 1)
    row = np.concatenate([np.cumsum(steps[:cut], dtype=int), np.cumsum(steps[cut:], dtype=int)])
    if data.draw(st.booleans()):
        row = np.concatenate([row[:cut][::-1], row[cut:]])
    gaps = data.draw(st.lists(st.integers(1, 2), min_size=n_frames, max_size=n_frames))
    frame = np.cumsum(gaps)
    expected = {int(f): (int(a), int(b)) for f, a, b in zip(frame, file, row, strict=True)}
    assert unrolled(find_stripes(file, row, frame, period)) == expected
    united = unite_stripes(file, row, frame, period)
    assert unrolled(united) == expected
    for _, piece in united.groupby("piece"):
        held = sorted(unrolled(piece).items())
        assert len({number for _, (number, _) in held}) == 1, "a piece is of one file"
        assert all(np.diff([place for _, (_, place) in held]) > 0), "HDF5 pairs its frames and rows in ascending order"
    if not np.any(np.diff(row[:cut]) < 0):
        assert united["piece"].nunique() == len(np.unique(file))


def unrolled(stripes):
    """{frame: (file, row)} of stripes."""
    found = {}
    for stripe in stripes.itertuples():
        assert stripe.count == 1 or stripe.row_stride >= stripe.block
        for i in range(stripe.count):
            for j in range(stripe.block):
                place = stripe.frame + i * stripe.frame_stride + j
                assert place not in found
                found[place] = (stripe.file, stripe.row + i * stripe.row_stride + j)
    return found


def test_regular_pulses_are_one_stripe_per_pulse():
    trains, pulses = np.arange(250)[:, None], np.array([[0, 5, 6, 30]])
    row = (trains * 64 + pulses).reshape(-1)
    stripes = find_stripes(np.zeros(len(row), int), row, np.arange(len(row)), 4)
    assert sorted(stripes.drop(columns=["piece", "file"]).to_numpy().tolist()) == [
        [0, 64, 0, 4, 250, 1],
        [5, 64, 1, 4, 250, 2],
        [30, 64, 3, 4, 250, 1],
    ]


def test_evenly_spaced_pulses_are_one_stripe_per_file():
    """Not one per pulse and gap between trains: of 88 pulses in 16 modules HDF5 could not hold so many."""
    kept = np.flatnonzero(np.arange(500) % 50 != 7)
    row = (kept[:, None] % 250 * 352 + np.arange(0, 352, 4)).reshape(-1)
    file = np.repeat(kept // 250, 88)
    assert len(find_stripes(file, row, np.arange(len(row)), 88)) == 2 + 10
