"""What planned jobs cost, and why they are planned."""

import pytest

from pulsetrain import job_costs

GB = 1e9


def test_nothing_measured_is_unknown():
    assert job_costs.expected_seconds([], [GB]) is None


def test_time_that_follows_the_data_is_scaled():
    low, middle, high = job_costs.expected_seconds([(size * GB, 10 + 5 * size) for size in (1, 2, 8)], [4 * GB, 4 * GB])
    assert middle == pytest.approx(60)
    assert (low, high) == (pytest.approx(60), pytest.approx(60))


def test_time_that_does_not_follow_the_data_is_not_scaled():
    _, middle, _ = job_costs.expected_seconds([(1 * GB, 10), (8 * GB, 10), (4 * GB, 10)], [100 * GB])
    assert middle == pytest.approx(10)


def test_one_measured_size_bounds_another_one():
    assert job_costs.expected_seconds([(GB, 10), (GB, 10)], [3 * GB]) == pytest.approx((10, 20, 30))
    assert job_costs.expected_seconds([(GB, 10), (GB, 10)], [1.02 * GB]) == pytest.approx((10, 10, 10))


def test_spread_is_that_of_the_earlier_jobs():
    low, middle, high = job_costs.expected_seconds([(None, seconds) for seconds in range(50, 151)], [None] * 10)
    assert (low, middle, high) == pytest.approx((600, 1000, 1400))


def test_benchmark_files(tmp_path):
    for name, text in {
        "count_litpixels/r0050_m05.tsv": "s\th:m:s\n3.5\t0:00:03\n",
        "make_vds/r0050_proc.tsv": "s\th:m:s\n1.0\t0:00:01\n",
        "combine_constants/may24_m05.tsv": "s\th:m:s\n7\t0:00:07\n",
        "write_cxi/r0050.tsv": "s\th:m:s\n-\t-\n",
    }.items():
        path = tmp_path / "benchmarks" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert job_costs.read_benchmarks(tmp_path) == {
        "count_litpixels": [("0050", 5, 3.5)],
        "make_vds": [("0050", None, 1.0)],
        "combine_constants": [(None, None, 7.0)],
    }


CHANGED = "Params have changed since last execution: Union of exclusive params before and now across all output: "


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("Missing output files: a.h5; Input files updated by another job: b.h5", ["not made yet"]),
        ("Input files updated by another job: b.h5", [job_costs.FOLLOWS]),
        ("Updated input files: masks/r0050_m05.h5", ["an input is newer"]),
        (f"{CHANGED}before: 4.0 now: 5.5 ", ["a parameter is now 5.5, was 4.0"]),
        (f"{CHANGED}before: <nothing exclusive> now: 2 ", ["a parameter is now 2"]),
        (
            f"{CHANGED}before: {{'find_hits.py': 'a', 'pulsetrain/hits.py': 'b'}} "
            "now: {'find_hits.py': 'a', 'pulsetrain/hits.py': 'c'} ",
            ["code changed: pulsetrain/hits.py"],
        ),
        (
            f"Set of input files has changed since last execution; {CHANGED}before: {{'CORR-S00000.h5': 1}} "
            "now: {'CORR-S00000.h5': 1, 'CORR-S00001.h5': 1} ",
            ["other input files", "files changed: CORR-S00001.h5"],
        ),
        ("Something new in snakemake", ["unknown reason: Something new in snakemake"]),
    ],
)
def test_reasons_in_few_words(reason, short):
    assert job_costs.short_reasons(reason) == short


def test_people_read_spans_and_sizes():
    assert [job_costs.duration(seconds) for seconds in (40, 720, 12600)] == ["40 s", "12 min", "3.5 h"]
    assert [job_costs.amount(size) for size in (5, 1.2e6, 830e9, 4e15)] == ["5 B", "1.2 MB", "830 GB", "4000 TB"]
