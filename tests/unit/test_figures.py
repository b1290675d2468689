"""Pictures are drawn for whole, partial and empty runs, and show what they should."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from pulsetrain.figures import save_figure
from pulsetrain.run_figures import (
    draw_coverage,
    draw_guards,
    draw_hit_rate,
    draw_hitscore,
    draw_hitscore_histogram,
    draw_integrity,
    draw_pulse_energy,
)


def made_events(n_trains, n_cells, with_energy=True):
    random = np.random.default_rng(1)
    n_frames = n_trains * n_cells
    hit = random.random(n_frames) < 0.05
    score = random.poisson(1500, n_frames) + hit * 5000
    frames = {
        "trainId": np.repeat(np.arange(10000, 10000 + n_trains, dtype=np.uint64), n_cells),
        "hitscore": score.astype(np.uint64),
        "photons": score.astype(np.uint64),
        "is_hit": hit,
        "hit_sigma": ((score - 1500) / 40).astype(np.float32),
        "threshold": np.full(n_frames, 1660, dtype=np.float32),
        "pulse_energy": random.gamma(30, 5e-5, n_frames) if with_energy else np.full(n_frames, np.nan),
    }
    trains = {
        "trainId": np.unique(frames["trainId"]),
        "threshold": np.full(n_trains, 1660.0),
        "guard": np.array(["", "min_score"] * n_trains)[:n_trains],
    }
    correlation = np.where(np.arange(-4, 5) == 0, 0.9, 0.0) if with_energy else np.full(9, np.nan)
    self_test = {"shift": np.arange(-4, 5), "correlation": correlation}
    attributes = {
        "reason": "" if n_trains else "the run has no trains",
        "params": json.dumps({"threshold_sigma": 4.0}),
        "self_test": {"verdict": "ok" if with_energy else "undecided", "reason": "no XGM"},
    }
    return frames, trains, self_test, attributes


@pytest.mark.parametrize(("n_trains", "n_cells", "with_energy"), [(20, 16, True), (1, 1, False), (0, 0, False)])
def test_pictures_of_events_are_drawn(tmp_path, n_trains, n_cells, with_energy):
    frames, trains, self_test, attributes = made_events(n_trains, n_cells, with_energy)
    figures = [
        draw_hitscore(frames, trains, attributes),
        draw_hitscore_histogram(frames, attributes),
        draw_guards(trains),
        draw_hit_rate(frames, attributes),
        draw_pulse_energy(frames, self_test, attributes),
    ]
    for number, figure in enumerate(figures):
        save_figure(figure, tmp_path / f"{number}.png", {"rule": "plot"})
        with Image.open(tmp_path / f"{number}.png") as image:
            assert image.info["rule"] == "plot"
            assert min(image.size) > 200
            assert len(set(image.convert("L").resize((50, 50)).tobytes())) > 1


def test_every_hit_is_drawn_above_the_line(tmp_path):
    frames, trains, _, attributes = made_events(20, 16)
    energy = frames["pulse_energy"] / frames["pulse_energy"].mean()
    frames["threshold"] = (1660 * energy).astype(np.float32)
    frames["is_hit"] = frames["hitscore"] > frames["threshold"]
    figure = draw_hitscore(frames, trains, attributes)
    grey, orange = figure.axes[0].lines[:2]
    assert orange.get_ydata().min() >= 1660 - 0.5
    assert grey.get_ydata().max() <= 1660 + 0.5
    save_figure(figure, tmp_path / "a.png", {"rule": "plot"})


def test_coverage_shows_missing_modules_and_dropped_trains(tmp_path):
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        coverage = np.zeros((16, 5), dtype=np.uint8)
        coverage[3, 2] = 1
        coverage[5:, 4] = 1
        file["trains/coverage"] = coverage
        file["trains/trainId"] = np.arange(10000, 10005, dtype=np.uint64)
        file["trains/kept"] = np.array([1, 1, 1, 1, 0], dtype=bool)
    figure = draw_coverage(tmp_path / "frames.h5", ["whole", "absent"])
    assert figure.axes[0].get_title() == "4 of 5 trains kept"
    shown = figure.axes[0].images[0].get_array()
    assert shown[3, 2] == 1
    assert shown[0].sum() == 0
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["whole", "absent", "train dropped"]
    save_figure(figure, tmp_path / "a.png", {"rule": "plot"})


def test_integrity_table_names_reasons(tmp_path):
    module = {"files": 2, "rows": 64, "used": 56, "excluded": {"zero train id": 8, "unindexed rows": 0}}
    report = {
        "run": 50,
        "stream": "proc",
        "verdict": "accepted",
        "summary": "run 50 accepted: 56 of 64 frames kept",
        "modules": {"00": module},
    }
    figure = draw_integrity(report)
    cells = [cell.get_text().get_text() for cell in figure.axes[0].tables[0].get_celld().values()]
    assert "zero train id 8" in cells
    save_figure(figure, tmp_path / "a.png", {"rule": "plot"})
