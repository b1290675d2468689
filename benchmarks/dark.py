"""Mean and standard deviation of dark data on one core against numpy's, which loads all, on one file in the page cache.

48 bursts of 64 memory cells, 400 MB. Also each one's peak memory above the start [MB], with 24 and with 48 bursts.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from common import interleaved, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from pulsetrain.dark import dark_levels  # noqa: E402
from pulsetrain.detector import LAB_SHAPE  # noqa: E402

N_CELLS = 64
N_BURSTS = 48
ROUNDS = 7


def write(path, n_bursts):
    random = np.random.default_rng(1)
    level = random.normal(5000, 300, (N_CELLS, *LAB_SHAPE)).astype("f4")
    with h5py.File(path, "w") as file:
        analog = file.create_dataset("analog", (n_bursts, N_CELLS, *LAB_SHAPE), "i2")
        file["cellPresent"] = np.ones(N_CELLS, bool)
        for burst in range(n_bursts):
            analog[burst] = np.rint(level + 9 * random.standard_normal(level.shape, "f4"))


def load_all(path):
    with h5py.File(path) as file:
        analog = file["analog"][()]
    mean = np.mean(analog, axis=0)
    deviation = np.empty(mean.shape)
    for cell in range(N_CELLS):
        deviation[cell] = np.std(analog[:, cell].astype(float), axis=0)
    return mean, deviation


def peak_mb(name, path):
    """Peak memory above the start, in a process of its own."""
    command = [sys.executable, __file__, name, str(path)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def run_alone(name, path):
    before = peak_kb()
    {"ours": dark_levels, "numpy": load_all}[name](path)
    print((peak_kb() - before) / 1024)


def main():
    with tempfile.TemporaryDirectory() as folder:
        path, half = Path(folder) / "dark.h5", Path(folder) / "half.h5"
        write(path, N_BURSTS)
        write(half, N_BURSTS // 2)
        ours, plain = dark_levels(path), load_all(path)
        np.testing.assert_array_equal(ours.offset, plain[0].astype("f4"))
        np.testing.assert_allclose(ours.deviation, plain[1], rtol=1e-7)
        best = interleaved({"ours": lambda: dark_levels(path), "numpy": lambda: load_all(path)}, ROUNDS)
        report("dark_vs_numpy", best["numpy"] / best["ours"], ">= 8")
        for name in ("ours", "numpy"):
            for file, n in ((half, N_BURSTS // 2), (path, N_BURSTS)):
                print(f"dark_peak_mb_{name}_{n}_bursts = {peak_mb(name, file):.0f}")


if __name__ == "__main__":
    run_alone(*sys.argv[1:]) if len(sys.argv) > 1 else main()
