"""Draw the constants of a Jungfrau and their change against those in force (PNG).

Outputs ``plots/jungfrau_{jungfrau}_{name}.png``: gain_map, offset_map, histograms, changes.
"""

import numpy as np

from pulsetrain.figures import save_figure
from pulsetrain.jungfrau import TYPES, Detector, dataset_name
from pulsetrain.jungfrau_figures import draw_changes, draw_histograms, draw_map
from pulsetrain.jungfrau_gate import Limits
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    detector = Detector(**job.params.detector)
    limits = Limits(*(job.params[name] for name in Limits._fields))
    title = f"{detector.source}, {dataset_name(detector)}"
    constants = {kind: np.load(job.input[f"{kind.removeprefix('pixel_')}_npy"], mmap_mode="r") for kind in TYPES}
    deployed = dict(zip(job.params.deployed, job.input.deployed, strict=True))
    for kind, name in (("pixel_gain", "gain_map"), ("pixel_offset", "offset_map")):
        save_figure(draw_map(kind, constants[kind], detector.panel_ids, title), job.output[name], attributes)
    save_figure(draw_histograms(constants, detector.panel_ids, title), job.output.histograms, attributes)
    changes = draw_changes(constants, deployed, detector.panel_ids, limits, title)
    save_figure(changes, job.output.changes, attributes)
