"""Average the DSSC images of all modules, of one run or several.

Output ``dssc/..._by-....h5``: netCDF4, group ``data`` with the dimensions (scan_variable, module, x, y), per frame name
the mean f8 and its standard error f4 [ADU], sum_count i8, mean pulse energies f8 of all frames and of those of each
module; group ``account``.
"""

from pulsetrain.dssc_join import join_modules
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    n = len(job.params.modules)
    sums = list(job.input.sums)
    join_modules(
        list(job.input.selections),
        [sums[start : start + n] for start in range(0, len(sums), n)],
        job.output.joined,
        attributes,
        modules=job.params.modules,
    )
