"""The simulated ePix: any file can be made alone, the truth tells which trains are exported."""

import h5py
import numpy as np
import pytest
from mid_runs import RUN, settings_of

from pulsetrain import simulate_mid


def test_truth_of_a_run(tmp_path):
    settings = settings_of(faults=["module_count_zero"], modules=[6, 13])
    simulate_mid.write_truth(tmp_path / "truth.h5", settings, RUN, "raw", [1, 2], [8, 0])
    with h5py.File(tmp_path / "truth.h5") as file:
        np.testing.assert_array_equal(file["expected/trainId"], [10002, *range(10004, 10025)])
        assert file["expected/pulseId"][()].tolist() == [0, 8]
        assert file["dropped/trainId"][()].tolist() == [10001, 10003, 10025]
        assert file["dropped/detectors"].asstr()[()].tolist() == ["EPIX-1, EPIX-2", "AGIPD", "AGIPD"]
        assert len(set(file["EPIX-1/line_row"][()].tolist())) == 22
        assert file["EPIX-2/line_row"][0] == simulate_mid.line_row(2, 1)


def test_pulses_that_the_run_does_not_have():
    kept, dropped = simulate_mid.expected_trains(settings_of(), [], [0, 5])
    assert len(kept) == 0
    assert dropped == {train: ["AGIPD"] for train in range(24)}


def test_files_do_not_depend_on_each_other(tmp_path):
    settings = settings_of()
    names = tmp_path / "a.h5", tmp_path / "b.h5"
    for path in names:
        simulate_mid.write_epix_file(path, settings, RUN, 2, 1)
        simulate_mid.write_epix_file(tmp_path / "other.h5", settings, RUN, 1, 0)
    assert names[0].read_bytes() == names[1].read_bytes()
    borders = [simulate_mid.epix_trains(settings, sequence)[0] for sequence in range(simulate_mid.SEQUENCES)]
    assert 12 not in borders, "AGIPD's second file begins with train 12"


def test_faults_that_cannot_be():
    with pytest.raises(ValueError, match="fault 'epix_lack_trains' is not known; nearest: epix_lacks_trains"):
        simulate_mid.check_faults(settings_of(), ["epix_lack_trains"])
    with pytest.raises(ValueError, match="faults need at least 24 trains; `trains` is 6"):
        simulate_mid.check_faults(settings_of(trains=6), ["epix_lacks_trains"])
    assert set(simulate_mid.FAULT_TRAINS) < set(simulate_mid.FAULTS)
