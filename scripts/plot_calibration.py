"""Draw constants and mask of a calibration on the assembled detector, and the histograms of its quantities (PNG).

Outputs ``plots/calibration/{calibration}_{name}.png``: the maps of ``calibration_maps.MAPS``, mask_map, histograms and
mask_causes.
"""

from pulsetrain.calibration_maps import MAPS, draw_histograms, draw_map, draw_mask_causes, draw_mask_map
from pulsetrain.calibration_summary import read_summary
from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    geometry, title = checkout_path(job.params.geometry), f"calibration {job.params.calibration}"
    masks, modules = list(job.input.masks), list(job.params.modules)
    summaries = [read_summary(path) for path in job.input.summaries]
    for name in MAPS:
        save_figure(draw_map(geometry, name, summaries, title), job.output[name], attributes)
    save_figure(draw_mask_map(geometry, masks, modules, title), job.output.mask_map, attributes)
    save_figure(draw_histograms(masks, modules, title), job.output.histograms, attributes)
    save_figure(draw_mask_causes(masks, modules, title), job.output.mask_causes, attributes)
