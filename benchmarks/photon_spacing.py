"""Photon spacing of X-ray-tube series on one core against a plain numpy/SciPy version of the document's method.

20000 frames, drift 60 ADU, noise 10 ADU, 0.25 photons per frame, spacing 60 to 120 ADU. `photon_spacing_vs_scipy`:
series in memory; the share of divided charge is found from a sixteenth of the pixels. `..._file_...`: a whole
module from its gathered file (2.6 GB in the directory for temporary files, in the page cache) with writing the result;
the plain version still has its series in memory. It runs on a sample of pixels.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
from common import interleaved, report

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]

from xray_reference import plain_spacing, simulate_series, spacing_bound  # noqa: E402

from pulsetrain import photon_spacing  # noqa: E402
from pulsetrain.detector import LAB_SHAPE, PIXELS  # noqa: E402

N_FRAMES = 20_000
N_PIXELS = 1024
N_PLAIN = 60
ROUNDS = 9


def ours(series):
    histograms = photon_spacing.series_histograms(series)
    group = np.zeros(len(series), int)
    sample = np.arange(photon_spacing.SHARED_FIRST, len(series), photon_spacing.SHARED_STRIDE)
    shared = photon_spacing.shared_fractions(histograms, group, sample)
    return photon_spacing.fit_combs(histograms, shared[group])


def plain(series):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a division by 0 within find_peaks_cwt
        return [plain_spacing(one) for one in series]


def write(path, series):
    """The same series all over the module."""
    with h5py.File(path, "w") as file:
        shape = (series.shape[1], *LAB_SHAPE)
        analog = file.create_dataset("analog", shape, "i2", chunks=(128, 8, 512))
        file.attrs.update(module=0, kind="xray", orientation="lab", cell=175)
        for first in range(0, len(analog), 128):
            frames = series[:, first : first + 128].T
            analog[first : first + 128] = np.tile(frames, (1, PIXELS // len(series))).reshape(-1, *LAB_SHAPE)


def process(path, threads=1):
    output = path.with_name("out.h5")
    photon_spacing.process_xray(path, output, {}, module=0, cell=175, threads=threads)


def peak_mb(path, threads):
    """Peak memory above the start, in a process of its own."""
    command = [sys.executable, __file__, str(path), str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def run_alone(path, threads):
    before = peak_kb()
    process(Path(path), int(threads))
    print((peak_kb() - before) / 1024)


def main():
    simulated = simulate_series(N_PIXELS, N_FRAMES)
    error = ours(simulated.values).values[:, 0] - simulated.spacing
    bound = np.mean([spacing_bound(N_FRAMES, 0.25, 10, g) for g in (60, 75, 90, 105, 120)])
    print(f"photon_spacing_bias_adu = {error.mean():.3f}")
    print(f"photon_spacing_scatter_vs_bound = {error.std() / bound:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xray.h5"
        write(path, simulated.values)
        candidates = {
            "ours": lambda: ours(simulated.values),
            "plain": lambda: plain(simulated.values[:N_PLAIN]),
            "file": lambda: process(path),
        }
        best = interleaved(candidates, ROUNDS)
        per_pixel = best["plain"] / N_PLAIN
        report("photon_spacing_vs_scipy", per_pixel / (best["ours"] / N_PIXELS), ">= 200")
        report("photon_spacing_file_vs_scipy", per_pixel / (best["file"] / PIXELS), "> 100")
        print(f"photon_spacing_us_per_pixel = {best['ours'] / N_PIXELS * 1e6:.1f}")
        print(f"plain_ms_per_pixel = {per_pixel * 1e3:.2f}")
        for threads in (1, 2):
            print(f"photon_spacing_peak_mb_{threads}_threads = {peak_mb(path, threads):.0f}")


if __name__ == "__main__":
    run_alone(*sys.argv[1:]) if len(sys.argv) > 1 else main()
