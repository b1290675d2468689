"""Write the hits as Dragonfly's input: photons, detector and a configuration that starts as it is.

Input: the CXI file of hits, and nothing else.
Outputs: ``emc``, sparse binary photon file of all hits, int32, one entry per lit pixel of the flat frame
(16, 512, 128); ``det``, HDF5 with qx, qy, qz [voxel], corr, mask (0 used, 2 ignored), detd [pixel], ewald_rad [voxel];
``config``, text. They get their names only after the photon file was read back and found equal to the CXI file.
"""

import logging
from pathlib import Path

import h5py
import numpy as np

from pulsetrain import cxi, dragonfly, emc
from pulsetrain.output import new_h5, whole_file
from pulsetrain.provenance import as_text, begin_job

log = logging.getLogger(__name__)


def write_emc(cxi_path, emc_path, det_path, config_path, bad_cell_fraction, model_size, num_div, threads, attributes):
    """Write the three outputs.

    Parameters
    ----------
    cxi_path, emc_path, det_path, config_path : str or Path
        The outputs lie in one directory: the configuration names the others relative to itself.
    bad_cell_fraction : float
        A pixel that is bad in a larger fraction of the hits is left out.
    model_size : int
        Side of the reconstructed model [voxel].
    num_div : int
        Dragonfly's fineness of orientations.
    threads : int
    attributes : dict
        Provenance for the detector file.
    """
    if len({Path(path).resolve().parent for path in (emc_path, det_path, config_path)}) > 1:
        raise ValueError(f"{emc_path}, {det_path} and {config_path} must be in one directory")
    with h5py.File(cxi_path) as hits:
        detector = hits[cxi.DETECTOR]
        n_hits = len(detector["data"])
        mask = dragonfly.bad_pixel_mask(cxi.count_good_hits(hits, threads), n_hits, bad_cell_fraction)
        good_pixels = mask == dragonfly.USE
        _tell_lost_modules(good_pixels, n_hits)
        model = dragonfly.detector_model(detector["xyz_map"][()], detector["x_pixel_size"][()], model_size)
        status = {"status": "complete" if n_hits else "empty", "reason": "" if n_hits else "the run has no hits"}
        with (
            whole_file(emc_path) as photons_part,
            new_h5(det_path, attributes | status) as det_file,
            whole_file(config_path) as config_part,
        ):
            emc.write_emc(photons_part, hits, good_pixels, threads)
            dragonfly.write_detector(det_file, model, mask)
            stem = Path(emc_path).stem
            text = as_text(attributes, "#") + dragonfly.config_text(emc_path, det_path, stem, num_div, n_hits)
            config_part.write_text(text, encoding="utf-8")
            n_photons = emc.verify_emc(photons_part, hits, good_pixels, threads)
    log.info("%d frames, %d photons in %d used pixels; read back equal", n_hits, n_photons, good_pixels.sum())


def _tell_lost_modules(good_pixels, n_hits):
    lost = np.flatnonzero(~good_pixels.any(axis=(1, 2)))
    if n_hits and len(lost):
        log.warning("modules %s are missing or bad in too many hits and left out of the EMC files", lost.tolist())


if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_emc(
        job.input.cxi,
        job.output.emc,
        job.output.det,
        job.output.config,
        job.params.bad_cell_fraction,
        job.params.model_size,
        job.params.num_div,
        job.threads,
        attributes,
    )
