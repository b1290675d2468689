"""Sum the misses of a run: the background per shot.

Writes ``powder/r{run}_misses.h5``: sum u8 [photons], counts u4 (frames in which the pixel was good and there), mean f4
[photons per frame] (NaN where counts is 0), all (16, 512, 128); attribute n_misses.
"""

from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

from pulsetrain.detector import MODULE_SHAPE, N_MODULES, PIXELS
from pulsetrain.kernels import add_frames
from pulsetrain.output import new_h5, write_array
from pulsetrain.photon_frames import photon_blocks
from pulsetrain.progress import progress
from pulsetrain.provenance import begin_job


def sum_misses(vds, events, output, attributes, *, modules, masks, outliers, constants, threads, **conversion):
    """Sum the photons of the frames that the events file marks as misses, and write the result.

    Parameters
    ----------
    vds, events, output : str or Path
    attributes : dict
        Provenance.
    modules : list of int
    masks, outliers, constants : list of str or Path
        Files of `modules`, in their order; `constants` is empty for corrected data.
    threads : int
    **conversion
        photon_threshold, common_mode, baseline_shift, per_frame_mask; see
        :func:`pulsetrain.photon_frames.photon_blocks`.
    """
    with h5py.File(events) as file:
        misses = np.flatnonzero(file["is_miss"][()])
    total = np.zeros((N_MODULES, PIXELS), np.uint64)
    counts = np.zeros((N_MODULES, PIXELS), np.uint32)
    advance = progress(len(misses))
    blocks = photon_blocks(vds, misses, modules, masks, outliers, constants or None, threads=threads, **conversion)
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:

            def add(module, block=block):
                photons = block.photons.reshape(len(block.frames), N_MODULES, PIXELS)
                add_frames(photons, module, total)
                good = block.mask[module].reshape(-1) == 0
                counts[module] += np.uint32(block.present[:, module].sum()) * good
                if block.flagged is not None:
                    flagged = block.flagged[:, module].reshape(len(block.frames), PIXELS)
                    counts[module] -= (flagged.sum(axis=0) * good).astype(np.uint32)

            for _ in pool.map(add, modules):
                pass
            advance(len(block.frames))
    write_misses(output, attributes, total, counts, len(misses))


def write_misses(output, attributes, total, counts, n_misses):
    """Write sum, counts and mean; (16, 65536) each."""
    shape = (N_MODULES, *MODULE_SHAPE)
    mean = np.full(total.shape, np.nan, np.float32)
    np.divide(total, counts, out=mean, where=counts > 0, casting="unsafe")
    with new_h5(output, attributes | {"n_misses": n_misses}) as file:
        write_array(file, "sum", total.reshape(shape), "photons")
        write_array(file, "counts", counts.reshape(shape), "frames")
        write_array(file, "mean", mean.reshape(shape), "photons/frame")


if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    sum_misses(
        job.input.vds,
        job.input.events,
        job.output.misses,
        attributes,
        modules=job.params.modules,
        masks=list(job.input.masks),
        outliers=list(job.input.outliers),
        constants=list(job.input.constants),
        threads=job.threads,
        photon_threshold=job.params.photon_threshold,
        common_mode=job.params.common_mode,
        baseline_shift=job.params.baseline_shift,
        per_frame_mask=job.params.per_frame_mask,
    )
