"""Jungfrau constants through snakemake: the truth bit for bit, what runs again, and what is refused."""

import re
import shutil

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, planned, snakemake
from PIL import Image

from pulsetrain import simulate_jungfrau
from pulsetrain.jungfrau_files import panel_lines, read_text_array
from pulsetrain.origin import origin_of

SEED = 5
B0, F7 = "170505-149520170815-3d00b0", "170505-149520170815-3d00f7"
NAME = "simls3716-r0631_XcsEndstation.0-Jungfrau.0"
PAGE = f"report/jungfrau_{NAME}.html"
TRUTH = "../data/truth/jungfrau.h5"
KINDS = ("pixel_gain", "pixel_offset")
PICTURES = ("gain_map", "offset_map", "histograms", "changes")


def write_config(place, **changes):
    """Configuration of a repository under `place`, with relative paths from there."""
    paths = {"repository": "data/gains", "datasets": "data/datasets.yaml", "calib": "data/calib"}
    config = {
        "data_root": str(place / "data"),
        "scratch": str(place / "scratch"),
        "runs": str(REPOSITORY / "config" / "runs_jungfrau.csv"),
        "simulate": None,
        "jungfrau": {name: str(place / path) for name, path in paths.items()},
    }
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) and config.get(name) else value
    (place / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The page of a detector with two panels, from a repository that lies there as real data do."""
    place = tmp_path_factory.mktemp("jungfrau")
    simulate_jungfrau.write_repository(place / "data" / "gains", SEED)
    simulate_jungfrau.write_datasets(place / "data" / "datasets.yaml")
    write_config(place)
    snakemake(place, PAGE)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def own(finished, tmp_path):
    """A copy of it, to be changed."""
    place = tmp_path / "own"
    shutil.copytree(finished, place, copy_function=shutil.copy2, symlinks=True)
    write_config(place)
    return place


def files_of(place, panels=f"{F7}_{B0}"):
    return {kind: place / "scratch" / "jungfrau" / f"{NAME}_{panels}_{kind}.npy" for kind in KINDS}


def test_constants_are_those_of_the_valid_directories(finished):
    for kind, path in files_of(finished).items():
        wanted = simulate_jungfrau.detector_constants(SEED, ("M088", "M068"), kind)
        assert np.load(path).tobytes() == wanted.tobytes()
        assert read_text_array(path.with_suffix(".txt")).tobytes() == wanted.tobytes()
        assert origin_of(path.with_suffix(".txt"))["rule"] == "jungfrau_constants"
        assert panel_lines(path.with_suffix(".txt")) == [
            (F7, f"{F7}-20171025000000 -> M088", "20171025000000"),
            (B0, f"{B0}-20171025000000 -> M068", "20171025000000"),
        ]


def test_page_and_pictures(finished):
    page = (finished / "scratch" / PAGE).read_text()
    for text in (f"{F7}-20171025000000 -&gt; M088", "2017-12-05 16:14:00", "No pixel_gain is in force"):
        assert text in page
    assert page.count("data:image/png;base64,") == len(PICTURES)
    for name in PICTURES:
        with Image.open(finished / "scratch" / "plots" / f"jungfrau_{NAME}_{name}.png") as picture:
            assert len(picture.convert("RGB").resize((200, 100)).getcolors(20000)) > 50


def test_second_call_does_nothing(finished):
    assert "Nothing to be done" in snakemake(finished, PAGE).stdout


def plan(place):
    return set(planned(snakemake(place, "-n", PAGE).stdout))


def link_earlier(place):
    (place / "data" / "gains" / f"{B0}-20171101000000").symlink_to("M044")


def turn_link(place):
    link = place / "data" / "gains" / f"{B0}-20171025000000"
    link.unlink()
    link.symlink_to("M044")


def change_file(place):
    path = place / "data" / "gains" / "M068" / "g2_offset.npy"
    np.save(path, np.load(path) + np.float32(1))


def change_limit(place):
    write_config(place, jungfrau={"gate": {"max_changed": 0.1}})


def change_what_is_not_used(place):
    """A directory that is valid later, dates of files, a description of another detector."""
    (place / "data" / "gains" / f"{B0}-20180101000000").symlink_to("M044")
    (place / "data" / "gains" / "M068" / "g2_offset.npy").touch()
    path = place / "data" / "datasets.yaml"
    values = yaml.safe_load(path.read_text())
    values["datasets"].append({"exp": "another", "run": 1, "source": "XcsEndstation.0:Jungfrau.0", "id": B0})
    path.write_text(yaml.safe_dump(values))


def deploy(place):
    simulate_jungfrau.write_deployed(place / "data" / "calib", SEED)


ALL = {"jungfrau_constants", "plot_jungfrau", "report_jungfrau"}


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (link_earlier, ALL),
        (turn_link, ALL),
        (change_file, ALL),
        (change_what_is_not_used, set()),
        (change_limit, {"plot_jungfrau", "report_jungfrau"}),
        (deploy, {"plot_jungfrau", "report_jungfrau"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_runs_again(own, change, rules):
    change(own)
    assert plan(own) == rules


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("report/jungfrau_simls3716-r0632_XcsEndstation.0-Jungfrau.0.html", "no detector of run 632 of simls3716"),
        ("report/jungfrau_simls3716-r0631_dstation.0-Jungfrau.0.html", f"there is no Jungfrau .*; ask for {NAME}"),
        ("report/jungfrau_sim11116-r0018_XcsEndstation.0-Jungfrau.0.html", "ConfigV2 tells no panel ids"),
        (f"jungfrau/{NAME}_{B0}_{F7}_pixel_gain.npy", f"are {F7}_{B0}, not {B0}_{F7}"),
    ],
)
def test_wrong_target_is_refused_with_the_right_one(finished, target, message):
    done = snakemake(finished, "-n", target, check=False)
    assert done.returncode
    assert_in_words(message, done.stdout)


def assert_in_words(pattern, text):
    assert re.search(pattern, " ".join(text.split())), text[-3000:]


def test_fault_of_the_repository_is_told_before_anything_runs(own):
    (own / "data" / "gains" / "M088" / "g0_gain.npy").unlink()
    done = snakemake(own, "-n", PAGE, check=False)
    assert_in_words(rf"panel {F7}: \S+/M088/g0_gain.npy does not exist", done.stdout)


def test_simulated_constants_and_their_truth(tmp_path):
    """All that jungfrau.make lists, from a repository that the workflow simulates."""
    make = {"make": ["exp=simls3716:run=700 Jungfrau.0"]}
    write_config(tmp_path, simulate={"profile": "tiny", "seed": 9}, jungfrau=make)
    snakemake(tmp_path)
    wanted, directories = simulate_jungfrau.read_truth(tmp_path / "data/truth/jungfrau.h5", "exp=simls3716:run=700")
    for kind in KINDS:
        path = tmp_path / "scratch" / "jungfrau" / f"{NAME.replace('0631', '0700')}_{F7}_{B0}_{kind}.npy"
        assert np.load(path).tobytes() == wanted[kind].tobytes()
    assert directories == ["M088", "M068_2018"]
    page = (tmp_path / "scratch/report/jungfrau_simls3716-r0700_XcsEndstation.0-Jungfrau.0.html").read_text()
    assert "pixel_gain/1-end.data" in page
    assert "(refused)" not in page
    assert "Nothing to be done" in snakemake(tmp_path).stdout


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A place where the workflow simulated."""
    place = tmp_path_factory.mktemp("simulated")
    write_config(place, simulate={"profile": "tiny"})
    snakemake(place, TRUTH)
    yield place
    shutil.rmtree(place)


def another_repository(place):
    """The descriptions are simulated, the repository is another one."""
    simulate_jungfrau.write_repository(place / "data" / "real", SEED)
    return {"repository": str(place / "data" / "real")}, r"real/17\S+"


def no_repository(place):
    """The descriptions are real, and no repository is there."""
    simulate_jungfrau.write_datasets(place / "data" / "mine.yaml")
    return {"repository": str(place / "data" / "nowhere"), "datasets": str(place / "data" / "mine.yaml")}, "mine.yaml"


def real_deployed(place):
    """The constants in force are real."""
    simulate_jungfrau.write_deployed(place / "data" / "reg", SEED)
    return {"calib": str(place / "data" / "reg")}, "pixel_gain/1-end.data"


def real_truth(place):
    """Something else has the name of the truth."""
    (place / "data" / "truth" / "jungfrau.h5").write_text("mine")
    return {}, "truth/jungfrau.h5"


@pytest.mark.parametrize(
    ("change", "target"),
    [
        (another_repository, PAGE),
        (another_repository, TRUTH),
        (no_repository, PAGE),
        (real_deployed, TRUTH),
        (real_truth, PAGE),
    ],
)
def test_nothing_is_simulated_over_anything_real(simulated, tmp_path, change, target):
    shutil.copytree(simulated / "data", tmp_path / "data", symlinks=True)
    changes, named = change(tmp_path)
    write_config(tmp_path, simulate={"profile": "tiny"}, jungfrau=changes)
    done = snakemake(tmp_path, "-n", target, check=False)
    assert done.returncode
    assert_in_words(rf"`simulate` is set, but \S*({named}) is a real file", done.stdout)


def test_simulated_constants_may_be_simulated_again(simulated, tmp_path):
    shutil.copytree(simulated / "data", tmp_path / "data", symlinks=True)
    write_config(tmp_path, simulate={"profile": "tiny", "seed": 8})
    (tmp_path / "data" / "truth" / "jungfrau.h5").unlink()
    snakemake(tmp_path, TRUTH)
    wanted = simulate_jungfrau.panel_constants(8, "M068", "pixel_gain", 0)
    assert np.array_equal(np.load(tmp_path / "data" / "gains" / "M068" / "g0_gain.npy"), wanted)


def test_nothing_is_simulated_over_real_constants(finished, tmp_path):
    shutil.copytree(finished / "data", tmp_path / "data", symlinks=True)
    write_config(tmp_path, simulate={"profile": "tiny"})
    done = snakemake(tmp_path, "-n", PAGE, check=False)
    assert_in_words(r"`simulate` is set, but \S+/datasets.yaml is a real file", done.stdout)
    write_config(tmp_path, simulate={"profile": "tiny"}, jungfrau={"repository": "/reg/g/psdm/detector/gains/jungfrau"})
    done = snakemake(tmp_path, "-n", PAGE, check=False)
    assert_in_words("nothing is simulated anywhere else", done.stdout)
