# Which pixels are good?


rule make_run_mask:
    """
    Static mask of one module, per memory cell: the facility's mask (proc) or the constants' (raw), ASIC borders and
    the user's masks. Wildcards: run, module.
    """
    input:
        vds=vds_of,
        constants_mask=constants_of("mask", "one"),
    output:
        mask="masks/r{run}_m{module}.h5",
    log:
        "logs/make_run_mask/r{run}_m{module}.log",
    benchmark:
        "benchmarks/make_run_mask/r{run}_m{module}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("make_run_mask.py"),
        run=lambda wildcards: int(wildcards.run),
        module=lambda wildcards: int(wildcards.module),
        stream=stream_of,
        sample_trains=config["masks"]["sample_trains"],
        asic_edges=config["masks"]["asic_edges"],
        user=contents(USER_MASKS),
    message:
        "run {wildcards.run} module {wildcards.module}: making the static mask"
    script:
        "../scripts/make_run_mask.py"


rule find_powder_outliers:
    """Find hot, dead and noisy pixels and cells in the summed photons of one module. Wildcards: run, module."""
    input:
        litpixels="litpixels/r{run}_m{module}.h5",
        mask="masks/r{run}_m{module}.h5",
    output:
        mask="masks/r{run}_outliers_m{module}.h5",
    log:
        "logs/find_powder_outliers/r{run}_m{module}.log",
    benchmark:
        "benchmarks/find_powder_outliers/r{run}_m{module}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("find_powder_outliers.py"),
        module=lambda wildcards: int(wildcards.module),
        hot_sigma=config["masks"]["hot_sigma"],
        spread_sigma=config["masks"]["spread_sigma"],
    message:
        "run {wildcards.run} module {wildcards.module}: looking for outliers in the powder"
    script:
        "../scripts/find_powder_outliers.py"
