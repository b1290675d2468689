# The photons of hits and misses.


rule sum_misses:
    """Mean photons per shot of the misses: the background. Wildcard: run."""
    input:
        vds=vds_of,
        events="events/r{run}_events.h5",
        masks=per_module("masks/r{run}_m{module}.h5"),
        outliers=per_module("masks/r{run}_outliers_m{module}.h5"),
        constants=constants_of("constants"),
    output:
        misses="powder/r{run}_misses.h5",
    log:
        "logs/sum_misses/r{run}.log",
    benchmark:
        "benchmarks/sum_misses/r{run}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=minutes(per_gb=0.1),
    params:
        **named(
            photon_threshold=config["hits"]["photon_threshold"],
            common_mode=config["calibration"]["common_mode"],
            baseline_shift=config["calibration"]["baseline_shift"],
            per_frame_mask=config["masks"]["per_frame"],
        ),
        code=code_of("sum_misses.py"),
        modules=sorted(DETECTOR["modules"]),
        stream=stream_of,
        constants=constants_sizes,
    message:
        "run {wildcards.run}: summing the misses"
    script:
        "../scripts/sum_misses.py"


rule write_cxi:
    """Write the photons of the hits, with masks, beam and geometry, as CXI and CrystFEL geometry. Wildcard: run."""
    input:
        vds=vds_of,
        events="events/r{run}_events.h5",
        masks=per_module("masks/r{run}_m{module}.h5"),
        outliers=per_module("masks/r{run}_outliers_m{module}.h5"),
        misses="powder/r{run}_misses.h5",
        constants=constants_of("constants"),
    output:
        cxi="saved_hits/r{run}_hits.cxi",
        geom="geom/r{run}.geom",
    log:
        "logs/write_cxi/r{run}.log",
    benchmark:
        "benchmarks/write_cxi/r{run}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=minutes(per_gb=0.1),
    params:
        **named(
            dtype=config["cxi"]["dtype"],
            distance_m=DETECTOR["distance_m"],
            photon_threshold=config["hits"]["photon_threshold"],
            common_mode=config["calibration"]["common_mode"],
            baseline_shift=config["calibration"]["baseline_shift"],
            per_frame_mask=config["masks"]["per_frame"],
        ),
        code=code_of("write_cxi.py"),
        run=lambda wildcards: int(wildcards.run),
        sample=lambda wildcards: run_row(wildcards.run)["sample"],
        detector=DETECTOR["name"],
        geometry=geometry_of,
        geometry_sha=geometry_sha256,
        modules=sorted(DETECTOR["modules"]),
        stream=stream_of,
        constants=constants_sizes,
    message:
        "run {wildcards.run}: writing the hits"
    script:
        "../scripts/write_cxi.py"


rule sum_powder:
    """Put the summed photons of all frames, of hits and of misses into one file. Wildcard: run."""
    input:
        litpixels=per_module("litpixels/r{run}_m{module}.h5"),
        masks=per_module("masks/r{run}_m{module}.h5"),
        cxi="saved_hits/r{run}_hits.cxi",
        misses="powder/r{run}_misses.h5",
    output:
        powder="powder/r{run}_powder.h5",
    log:
        "logs/sum_powder/r{run}.log",
    benchmark:
        "benchmarks/sum_powder/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        code=code_of("sum_powder.py"),
        modules=sorted(DETECTOR["modules"]),
    message:
        "run {wildcards.run}: summing the powder"
    script:
        "../scripts/sum_powder.py"


rule write_emc:
    """
    Write the hits as sparse photons for Dragonfly, with its detector file and configuration, and compare them with the
    CXI file frame by frame. Wildcard: run.
    """
    input:
        cxi="saved_hits/r{run}_hits.cxi",
    output:
        emc="emc/r{run}.emc",
        det="emc/r{run}_det.h5",
        config="emc/r{run}_config.ini",
    log:
        "logs/write_emc/r{run}.log",
    benchmark:
        "benchmarks/write_emc/r{run}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        **named(
            bad_cell_fraction=config["emc"]["bad_cell_fraction"],
            model_size=config["emc"]["model_size"],
            num_div=config["emc"]["num_div"],
        ),
        code=code_of("write_emc.py"),
    message:
        "run {wildcards.run}: writing Dragonfly's input"
    script:
        "../scripts/write_emc.py"
