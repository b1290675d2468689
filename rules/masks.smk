# Which pixels are good?


rule make_run_mask:
    """
    Static mask of each module, per memory cell: the facility's mask (proc) or the constants' (raw), ASIC borders and
    the user's masks. One job, since a module takes seconds. Wildcard: run.
    """
    input:
        vds=vds_of,
        constants_mask=constants_of("mask"),
        constants=constants_of("constants"),
        # Whatever uses the constants needs this mask, so that nothing runs with constants that were refused.
        accepted=accepted_constants,
    output:
        masks=expand("masks/r{{run}}_m{module}.h5", module=MODULES),
    log:
        "logs/make_run_mask/r{run}.log",
    benchmark:
        "benchmarks/make_run_mask/r{run}.tsv"
    conda:
        CONDA
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        **named(
            sample_trains=config["masks"]["sample_trains"],
            asic_edges=config["masks"]["asic_edges"],
        ),
        code=code_of("make_run_mask.py"),
        modules=sorted(DETECTOR["modules"]),
        stream=stream_of,
        user=contents(USER_MASKS),
        constants=constants_sizes,
    message:
        "run {wildcards.run}: making the static masks"
    script:
        "../scripts/make_run_mask.py"


rule find_powder_outliers:
    """Find hot, dead and noisy pixels and cells in the summed photons of each module. Wildcard: run."""
    input:
        litpixels=per_module("litpixels/r{run}_m{module}.h5"),
        masks=per_module("masks/r{run}_m{module}.h5"),
    output:
        masks=expand("masks/r{{run}}_outliers_m{module}.h5", module=MODULES),
    log:
        "logs/find_powder_outliers/r{run}.log",
    benchmark:
        "benchmarks/find_powder_outliers/r{run}.tsv"
    conda:
        CONDA
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        **named(
            hot_sigma=config["masks"]["hot_sigma"],
            spread_sigma=config["masks"]["spread_sigma"],
        ),
        code=code_of("find_powder_outliers.py"),
        modules=sorted(DETECTOR["modules"]),
    message:
        "run {wildcards.run}: looking for outliers in the powder"
    script:
        "../scripts/find_powder_outliers.py"
