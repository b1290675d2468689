"""Write the dark file of the simulated AGIPD in the form of the older MID program.

Output ``dark``: AnalogOffset, DigitalGainLevel (3, cells, 16, 512, 128) float32 [ADU]; Badpixel (8192, 128), 1 = good.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_mid import write_dark

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_dark(job.output.dark, job.params.settings, attributes=attributes)
