"""Merge the constants of a Jungfrau's panels into those of the detector.

Outputs ``..._pixel_gain.npy`` [ADU/keV] and ``..._pixel_offset.npy`` [ADU], float32 (3, panels, 512, 1024), and the
same numbers as ``.txt`` in the form of psana's calibration store.
"""

from pulsetrain.jungfrau import TYPES, Detector
from pulsetrain.jungfrau_files import write_constants
from pulsetrain.jungfrau_panels import PanelDirectory, merge_panels
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    detector = Detector(**job.params.detector)
    directories = [PanelDirectory(**each) for each in job.params.directories]
    constants = merge_panels(detector.panel_ids, list(job.input.panels))
    names = {kind: kind.removeprefix("pixel_") for kind in TYPES}
    paths = {kind: (job.output[f"{name}_npy"], job.output[f"{name}_txt"]) for kind, name in names.items()}
    write_constants(paths, constants, directories, detector, attributes)
