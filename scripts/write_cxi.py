"""Save the hits of a run for faster reading: one CXI file, and the CrystFEL geometry that reads it.

Inputs: VDS, events, masks and powder outliers of the modules, mean of the misses, constants (raw data only), geometry.

Output ``cxi``, below /entry_1 (H hits in the order (train, pulse); all names: docs/file-formats.md):

=============================================  ====================  =======  ==============================
trainId, pulseId, cellId, vds_index            (H,)                  u8 u2
experiment_identifier                          (H,)                  string   "train:pulse"
instrument_1/detector_1/data                   (H, 16, 512, 128)     u1, u2   photons, 0 where the mask is bad
instrument_1/detector_1/mask                   (H, 16, 512, 128)     u4       CXI bits, 0 = good (virtual)
instrument_1/detector_1/mask_table, mask_row   (K, 16, 512, 128)     u4       the masks in use
instrument_1/detector_1/good_pixels            (16, 512, 128)        bool     good in the mask of every hit
instrument_1/detector_1/powder, background     (16, 512, 128)        u8, f4   sum of hits, mean of misses
instrument_1/detector_1/xyz_map                (3, 16, 512, 128)     f4       m
instrument_1/source_1/photon_wavelength        (H,)                  f4       m
instrument_1/source_1/photon_energy            (H,)                  f4       J
instrument_1/source_1/pulse_energy             (H,)                  f4       J
=============================================  ====================  =======  ==============================

Output ``geom``: CrystFEL geometry, panels, wavelength and mask as in the CXI file.
"""

import logging

import h5py
import numpy as np

from pulsetrain import crystfel, cxi
from pulsetrain.geometry import read_geometry, xyz_map
from pulsetrain.output import new_h5, whole_file
from pulsetrain.photon_frames import photon_blocks
from pulsetrain.progress import progress
from pulsetrain.provenance import as_text, begin_job, checkout_path

log = logging.getLogger(__name__)


def read_hits(events, modules):
    """Collect what the events file says of the hits.

    Parameters
    ----------
    events : str or Path
    modules : list of int
        Modules in use.

    Returns
    -------
    pulsetrain.cxi.Hits
    """
    configured = np.uint32(sum(1 << module for module in modules))
    with h5py.File(events) as file:
        frames = np.flatnonzero(file["is_hit"][()])
        column = {name: file[name][()][frames] for name in ("trainId", "pulseId", "cellId", "modules")}
        energy, wavelength = (file[name][()][frames] for name in ("pulse_energy", "wavelength"))
    return cxi.Hits(
        frames.astype(np.uint64),
        column["trainId"],
        column["pulseId"],
        column["cellId"],
        column["modules"] & configured,
        energy,
        wavelength,
    )


def write_cxi(
    vds,
    events,
    masks,
    outliers,
    misses,
    constants,
    geometry,
    cxi_path,
    geom_path,
    *,
    run,
    sample,
    dtype,
    distance_m,
    modules,
    photon_threshold,
    common_mode,
    baseline_shift,
    per_frame_mask,
    threads,
    attributes,
):
    """Write the two outputs; parameters as the rule names them (see the module's text)."""
    hits = read_hits(events, modules)
    panels = read_geometry(geometry)
    with h5py.File(misses) as file:
        background, n_misses = file["mean"][()], int(file.attrs["n_misses"])
    with h5py.File(vds) as file:
        detector_name = str(file["pulsetrain"].attrs["detector"])
    with h5py.File(events) as file:
        status, reason = str(file.attrs["status"]), str(file.attrs["reason"])
    n_hits = len(hits.vds_index)
    blocks = []
    if n_hits:
        blocks = photon_blocks(
            vds,
            hits.vds_index.astype(np.int64),
            modules,
            masks,
            outliers,
            constants or None,
            photon_threshold=photon_threshold,
            common_mode=common_mode,
            baseline_shift=baseline_shift,
            per_frame_mask=per_frame_mask,
            threads=threads,
        )
    else:
        status, reason = "empty", reason or "the run has no hits"
    with (
        whole_file(geom_path) as geom_part,
        new_h5(cxi_path, attributes | {"status": status, "reason": reason}) as file,
    ):
        text = as_text(attributes, ";") + crystfel.geometry_text(panels, distance_m)
        geom_part.write_text(text, encoding="utf-8")
        cxi.write_experiment(
            file, xyz_map(panels, distance_m), distance_m, background, n_misses, detector_name, sample, run
        )
        cxi.write_events(file, hits)
        cxi.write_hits(file, hits, blocks, dtype, per_frame_mask, threads, progress(n_hits, "hits"))
    log.info("%d hits of run %d written", n_hits, run)


if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_cxi(
        job.input.vds,
        job.input.events,
        list(job.input.masks),
        list(job.input.outliers),
        job.input.misses,
        list(job.input.constants),
        checkout_path(job.params.geometry),
        job.output.cxi,
        job.output.geom,
        run=job.params.run,
        sample=job.params.sample,
        dtype=job.params.dtype,
        distance_m=job.params.distance_m,
        modules=list(job.params.modules),
        photon_threshold=job.params.photon_threshold,
        common_mode=job.params.common_mode,
        baseline_shift=job.params.baseline_shift,
        per_frame_mask=job.params.per_frame_mask,
        threads=job.threads,
        attributes=attributes,
    )
