# Which frames are hits?


rule count_litpixels:
    """
    The pass over all pixels of one module: lit pixels and photons per frame, summed photons per memory cell.
    Pixels are read from the source files, by the segments that the VDS holds. Wildcards: run, module.
    """
    input:
        vds=vds_of,
        mask="masks/r{run}_m{module}.h5",
        constants=constants_of("constants"),
    output:
        litpixels="litpixels/r{run}_m{module}.h5",
    log:
        "logs/count_litpixels/r{run}_m{module}.log",
    benchmark:
        "benchmarks/count_litpixels/r{run}_m{module}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=litpixels_memory,
        runtime=module_minutes(per_gb=0.2),
    params:
        **named(
            photon_threshold=config["hits"]["photon_threshold"],
            common_mode=config["calibration"]["common_mode"],
            baseline_shift=config["calibration"]["baseline_shift"],
            per_frame_mask=config["masks"]["per_frame"],
        ),
        code=code_of("count_litpixels.py"),
        run=lambda wildcards: int(wildcards.run),
        module=lambda wildcards: int(wildcards.module),
        stream=stream_of,
        hit_modules=HIT_MODULES,
        region=contents(REGION),
        constants=constants_sizes,
    message:
        "run {wildcards.run} module {wildcards.module}: counting lit pixels"
    script:
        "../scripts/count_litpixels.py"


rule find_hits:
    """Sum the modules and decide, train by train, which frames are hits; draw the misses. Wildcard: run."""
    input:
        frames="frames/r{run}.h5",
        pulses="pulses/r{run}.h5",
        litpixels=per_module("litpixels/r{run}_m{module}.h5"),
    output:
        events="events/r{run}_events.h5",
    log:
        "logs/find_hits/r{run}.log",
    benchmark:
        "benchmarks/find_hits/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        **named(
            threshold_sigma=config["hits"]["threshold_sigma"],
            scale_by_pulse_energy=config["hits"]["scale_by_pulse_energy"],
            min_frames=config["hits"]["min_frames"],
            min_score=config["hits"]["min_score"],
            min_spread=config["hits"]["min_spread"],
            min_pulse_energy_mj=config["hits"]["min_pulse_energy_mj"],
            seed=config["hits"]["seed"],
        ),
        code=code_of("find_hits.py"),
    message:
        "run {wildcards.run}: finding hits"
    script:
        "../scripts/find_hits.py"
