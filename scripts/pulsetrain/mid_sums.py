"""Means and histograms of an exported MID run, from a sample of its trains, for the pictures."""

from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.detector import MODULE_SHAPE, N_MODULES
from pulsetrain.mid_epix import EPIX_SHAPE
from pulsetrain.progress import progress

MOST_TRAINS = 300
MOST_IMAGES = 4000  # AGIPD images of one module: at most some 3 GB are read, whatever the length of the run
PHOTON_EDGES = np.linspace(-1.5, 6.5, 401)


class Sums(NamedTuple):
    """What the pictures show.

    Attributes
    ----------
    train_id : ndarray of uint64, (S,)
        The sampled trains, ascending.
    n_trains, n_images : int
        Trains of the file; AGIPD frames that were read.
    units : str
        Of the AGIPD values: ``photons`` (corrected), ``ADU`` (raw), or ``as in the source``.
    agipd_image : ndarray of float64, (16, 512, 128)
        Mean over the frames; NaN where there is no value.
    agipd_signal : ndarray of float64, (S, M)
        Mean over the pixels and frames of each train.
    modules : list of int
    epix_image, epix_signal : dict
        {number: mean image (708, 768), mean over the pixels of each train (S,)} [ADU].
    histogram : ndarray of int64, (400,), or None
        Good high-gain pixels by photons, between PHOTON_EDGES; None without correction.
    shares : ndarray of float64, (M, 2), or None
        Share of all pixels that are good and in high, in medium gain.
    """

    train_id: np.ndarray
    n_trains: int
    n_images: int
    units: str
    agipd_image: np.ndarray
    agipd_signal: np.ndarray
    modules: list
    epix_image: dict
    epix_signal: dict
    histogram: np.ndarray | None
    shares: np.ndarray | None


def gather_sums(path):
    """Read a sample of the trains of ``mid/r....h5``, evenly spread.

    Returns
    -------
    Sums
    """
    with h5py.File(path) as file:
        train_id = file["index/trainId"][()]
        modules = file["data/AGIPD/moduleId"][()].tolist()
        trains = np.unique(np.linspace(0, len(train_id) - 1, min(len(train_id), MOST_TRAINS)).astype(int))
        per_train = max(1, MOST_IMAGES // max(1, len(trains) * len(modules)))
        frame_train = file["data/AGIPD/index/trainId"][()]
        first = np.searchsorted(frame_train, train_id[trains])
        count = np.searchsorted(frame_train, train_id[trains], side="right") - first
        frames = [
            start + np.unique(np.linspace(0, n - 1, min(n, per_train)).astype(int))
            for start, n in zip(first.tolist(), count.tolist(), strict=True)
        ]
        cameras = {int(name[-1]): held["data"] for name, held in file["data"].items() if name.startswith("EPIX-")}
        advance = progress(len(trains), "trains")
        agipd = _Agipd(file, len(modules))
        signal = np.full((len(trains), len(modules)), np.nan)
        epix_image = {number: np.zeros(EPIX_SHAPE) for number in cameras}
        epix_signal = {number: np.full(len(trains), np.nan) for number in cameras}
        for place, train in enumerate(trains.tolist()):
            signal[place] = agipd.add(frames[place])
            for number, data in cameras.items():
                image = data[train]
                epix_image[number] += image
                epix_signal[number][place] = image.mean()
            advance(1)
        return Sums(
            train_id[trains],
            len(train_id),
            sum(map(len, frames)),
            agipd.units,
            agipd.mean_image(modules),
            signal,
            modules,
            {number: image / max(len(trains), 1) for number, image in epix_image.items()},
            epix_signal,
            agipd.histogram,
            agipd.shares(),
        )


class _Agipd:
    """Sums over AGIPD frames, corrected where the file has them, else as they are."""

    def __init__(self, file, n_modules):
        self.file = file
        self.corrected = "data/AGIPD_corrected" in file
        self.units = "photons" if self.corrected else file["data/AGIPD/index/data"].attrs["units"]
        self.total = np.zeros((n_modules, *MODULE_SHAPE))
        self.count = np.zeros((n_modules, *MODULE_SHAPE), np.int64)
        self.histogram = np.zeros(len(PHOTON_EDGES) - 1, np.int64) if self.corrected else None
        self.pixels = np.zeros((n_modules, 2), np.int64)
        self.n_images = 0

    def add(self, frames):
        """Add some frames of a train; give the mean of each module."""
        total, count = np.zeros(len(self.total)), np.zeros(len(self.total), np.int64)
        for frame in frames.tolist():
            values, known = self._read(frame)
            self.total += values
            self.count += known
            total += values.sum(axis=(1, 2))
            count += known.sum(axis=(1, 2))
        self.n_images += len(frames)
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    def _read(self, frame):
        """Values, 0 where not known, and which are known, both (M, 512, 128)."""
        if not self.corrected:
            values = self.file["data/AGIPD/index/data"][frame].astype(float)
            known = np.isfinite(values)
            return np.where(known, values, 0), known
        group = self.file["data/AGIPD_corrected"]
        photons, mask = group["data"][:, frame], group["mask"][:, frame]
        self.histogram += np.histogram(photons[0][mask[0]], PHOTON_EDGES)[0]
        self.pixels += np.count_nonzero(mask, axis=(2, 3)).T
        return photons.sum(axis=0, dtype=float), mask.any(axis=0)

    def mean_image(self, modules):
        image = np.full((N_MODULES, *MODULE_SHAPE), np.nan)
        image[modules] = np.divide(self.total, self.count, out=np.full(self.total.shape, np.nan), where=self.count > 0)
        return image

    def shares(self):
        if not self.corrected:
            return None
        return self.pixels / max(1, self.n_images * MODULE_SHAPE[0] * MODULE_SHAPE[1])
