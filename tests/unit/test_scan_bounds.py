"""The loops of the current-source fit stay within their arrays, whatever the data: compiled with checked indices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from pulsetrain import scan_fit
from pulsetrain.provenance import SCRIPTS

# Around multiples of 4, 64 and 128 points, by which the loops are cut; the last is longer than one run of 16 bits.
LENGTHS = (40, 41, 43, 63, 64, 65, 127, 128, 129, 255, 256, 257, scan_fit.COUNTED + 3)
PIXELS = 120


def digital_values(random, n):
    """Values of one pixel: levels that begin and end anywhere, among them in the first and last points; or anything."""
    levels = np.sort(random.integers(-32768, 32768, 3)) if random.random() < 0.4 else np.array([6100, 6800, 7500])
    switches = np.sort(random.integers(0, n + 1, 2))
    switches = np.where(random.random(2) < 0.3, random.integers(0, 6, 2), switches)
    switches = np.sort(np.where(random.random(2) < 0.3, n - random.integers(0, 6, 2), switches))
    values = levels[np.searchsorted(switches, np.arange(n), side="right")].astype(float)
    kind = random.integers(0, 8)
    if kind == 0:
        values[:] = random.choice([-32768, 0, 32767])
    elif kind == 1:
        values = random.integers(-32768, 32768, n)
    elif kind == 2:  # one level where it is looked for, others between
        stride = max(scan_fit.WIDEST_SPIKE + 1, n // scan_fit.PROBES)
        values[stride // 2 :: stride] = levels[0]
    elif kind == 3:
        values = values[::-1]
    return values + random.normal(0, random.choice([0, 30, 300]), n)


def analog_values(random, digital):
    """Values of one pixel: lines as steep as the digital values say, one line, nothing, or the ends of the range."""
    n = len(digital)
    kind = random.integers(0, 8)
    if kind == 0:
        return np.full(n, random.choice([-32768, 0, 32767]))
    if kind == 1:
        return random.choice([-32768, 32767], n)
    steps = np.full(n, random.choice([-50.0, 0.0, 1.0, 40.0]))
    if kind > 2:
        steps = np.array([60.0, 4.0, 0.8])[np.searchsorted([6450, 7150], digital)]
    return 5000 + steps * np.arange(n) + random.normal(0, 3, n)


def fit_random_pixels(seed):
    """Fit pixels of scans of all lengths, and mark the points that the lines use; give the statuses of each length."""
    random = np.random.default_rng(seed)
    found = []
    for n in LENGTHS:
        n_pixels = PIXELS if n < 1000 else 8
        digital = [digital_values(random, n) for _ in range(n_pixels)]
        analog = [analog_values(random, values) for values in digital]
        analog, digital = (np.clip(values, -32768, 32767).astype(np.int16) for values in (analog, digital))
        scan = scan_fit.prepare_scan(np.arange(n) * 1.5, 300, random.choice([0, 0.15, 0.3]))
        results = np.empty((scan_fit.RESULTS, n_pixels), np.float32)
        status, stage = np.empty(n_pixels, np.uint8), np.empty(n, np.int8)
        columns = [np.ascontiguousarray(values.T) for values in (analog, digital)]
        scan_fit.fit_columns(*columns, scan, 0, n_pixels, results, status)
        work = scan_fit.new_work(n)
        padded = [np.pad(values, ((0, 0), (0, scan_fit.PADDING))) for values in (analog, digital)]
        for pixel in range(n_pixels):
            scan_fit.mark_points(padded[0][pixel], padded[1][pixel], scan, work, stage)
        found.append(sorted(set(status.tolist())))
    return found


def test_no_index_leaves_its_array(tmp_path):
    # Unchecked, an index beyond an array would change memory that belongs to something else.
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(
        [sys.executable, "-c", "import test_scan_bounds; print(test_scan_bounds.fit_random_pixels(1))"],
        cwd=Path(__file__).parent,
        env={**os.environ, **checked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(LENGTHS)
    assert {code for codes in found for code in codes} == set(scan_fit.CODES) - {scan_fit.NO_DATA}
