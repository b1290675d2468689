# AGIPD constants from dark, current-source and X-ray-tube data: gather, process, combine, mask; and their use on data.


include: "common_calibration.smk"
include: "plot_calibration.smk"


rule gather_dark:
    """Bring a module's dark data into one file, whatever the layout they came in. Wildcards: calibration, module."""
    input:
        files=ancient(calibration_files("dark")),
    output:
        gathered=f"{GATHERED}_dark.h5",
    log:
        "logs/gather_dark/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/gather_dark/{calibration}_m{module}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=calibration_minutes("dark", per_gb=0.2),
    params:
        code=code_of("gather_dark.py"),
        module=lambda wildcards: int(wildcards.module),
        layout=of_calibration("layout"),
        cells=cells_per_burst,
        run=calibration_run("dark"),
        detector=DETECTOR["name"],
        sizes=calibration_sizes("dark"),
    message:
        "calibration {wildcards.calibration}: gathering the dark data of module {wildcards.module}"
    script:
        "../scripts/gather_dark.py"


rule gather_current_source:
    """
    Bring a module's current-source scan into one file: four scans of every fourth column, or one of all.
    Wildcards: calibration, module.
    """
    input:
        files=ancient(calibration_files("current_source")),
    output:
        gathered=f"{GATHERED}_current_source.h5",
    log:
        "logs/gather_current_source/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/gather_current_source/{calibration}_m{module}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=calibration_minutes("current_source", per_gb=0.2),
    params:
        code=code_of("gather_current_source.py"),
        module=lambda wildcards: int(wildcards.module),
        layout=of_calibration("layout"),
        cells=cells_per_burst,
        runs=calibration_runs("current_source"),
        groups=files_per_group,
        detector=DETECTOR["name"],
        scan_axis=scan_axis,
        sizes=calibration_sizes("current_source"),
    message:
        "calibration {wildcards.calibration}: gathering the current-source scan of module {wildcards.module}"
    script:
        "../scripts/gather_current_source.py"


rule gather_xray:
    """Bring a module's X-ray-tube data into one file. Wildcards: calibration, module."""
    input:
        files=ancient(calibration_files("xray")),
    output:
        gathered=f"{GATHERED}_xray.h5",
    log:
        "logs/gather_xray/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/gather_xray/{calibration}_m{module}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=calibration_minutes("xray", per_gb=0.2),
    params:
        code=code_of("gather_xray.py"),
        module=lambda wildcards: int(wildcards.module),
        layout=of_calibration("layout"),
        run=calibration_run("xray"),
        detector=DETECTOR["name"],
        xray_cell=of_calibration("xray_cell"),
        sizes=calibration_sizes("xray"),
    message:
        "calibration {wildcards.calibration}: gathering the X-ray-tube data of module {wildcards.module}"
    script:
        "../scripts/gather_xray.py"


rule process_dark:
    """Mean and standard deviation of the dark data, per memory cell and pixel. Wildcards: calibration, module."""
    input:
        gathered=f"{GATHERED}_dark.h5",
    output:
        dark=f"{PROCESSED}_dark.h5",
    log:
        "logs/process_dark/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/process_dark/{calibration}_m{module}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=calibration_minutes("dark", per_gb=0.2),
    params:
        code=code_of("process_dark.py"),
        module=lambda wildcards: int(wildcards.module),
    message:
        "calibration {wildcards.calibration}: dark offsets of module {wildcards.module}"
    script:
        "../scripts/process_dark.py"


rule process_current_source:
    """
    Fit the three gain stages of each memory cell and pixel: lines through the analog signal, levels of the digital one.
    Wildcards: calibration, module.
    """
    input:
        gathered=f"{GATHERED}_current_source.h5",
    output:
        analog_gains=f"{PROCESSED}_analogGains.h5",
        digital_means=f"{PROCESSED}_digitalMeans.h5",
    log:
        "logs/process_current_source/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/process_current_source/{calibration}_m{module}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=calibration_minutes("current_source", per_gb=0.2),
    params:
        **named(
            spike_height=CALIBRATION["spike_height"],
            trim=CALIBRATION["trim"],
        ),
        code=code_of("process_current_source.py"),
        module=lambda wildcards: int(wildcards.module),
    message:
        "calibration {wildcards.calibration}: fitting the gain stages of module {wildcards.module}"
    script:
        "../scripts/process_current_source.py"


rule process_xray:
    """Find the distance between the photon peaks of each pixel. Wildcards: calibration, module."""
    input:
        gathered=f"{GATHERED}_xray.h5",
    output:
        photon_spacing=f"{PROCESSED}_photonSpacing.h5",
    log:
        "logs/process_xray/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/process_xray/{calibration}_m{module}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=calibration_minutes("xray", per_gb=0.5),
    params:
        code=code_of("process_xray.py"),
        module=lambda wildcards: int(wildcards.module),
        cell=of_calibration("xray_cell"),
    message:
        "calibration {wildcards.calibration}: photon spacing of module {wildcards.module}"
    script:
        "../scripts/process_xray.py"


rule combine_constants:
    """Offsets, gains [keV/ADU] and thresholds of the three gain stages. Wildcards: calibration, module."""
    input:
        dark=f"{PROCESSED}_dark.h5",
        analog_gains=f"{PROCESSED}_analogGains.h5",
        digital_means=f"{PROCESSED}_digitalMeans.h5",
        photon_spacing=f"{PROCESSED}_photonSpacing.h5",
    output:
        constants="calibration/{calibration}/constants_m{module}.h5",
    log:
        "logs/combine_constants/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/combine_constants/{calibration}_m{module}.tsv"
    wildcard_constraints:
        calibration=one_of(MADE_CALIBRATIONS),
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        code=code_of("combine_constants.py"),
        module=lambda wildcards: int(wildcards.module),
        xray_cell=of_calibration("xray_cell"),
        photon_energy_kev=of_calibration("photon_energy_kev"),
    message:
        "calibration {wildcards.calibration}: combining the constants of module {wildcards.module}"
    script:
        "../scripts/combine_constants.py"


rule make_bad_cell_mask:
    """
    Mask the bad memory cells of each pixel: the user's masks, then what cannot be calibrated, then what lies outside
    the confidence intervals. Wildcards: calibration, module.
    """
    input:
        dark=f"{PROCESSED}_dark.h5",
        analog_gains=f"{PROCESSED}_analogGains.h5",
        digital_means=f"{PROCESSED}_digitalMeans.h5",
        photon_spacing=f"{PROCESSED}_photonSpacing.h5",
        constants="calibration/{calibration}/constants_m{module}.h5",
    output:
        mask="calibration/{calibration}/mask_m{module}.h5",
    log:
        "logs/make_bad_cell_mask/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/make_bad_cell_mask/{calibration}_m{module}.tsv"
    wildcard_constraints:
        calibration=one_of(MADE_CALIBRATIONS),
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        **named(
            systematic=CALIBRATION["mask"]["systematic"],
            asic_borders=CALIBRATION["mask"]["asic_borders"],
            intervals=CALIBRATION["mask"]["intervals"],
        ),
        code=code_of("make_bad_cell_mask.py"),
        module=lambda wildcards: int(wildcards.module),
        manual=manual_rectangles,
        manual_file=contents(MANUAL_MASK),
    message:
        "calibration {wildcards.calibration}: masking the bad cells of module {wildcards.module}"
    script:
        "../scripts/make_bad_cell_mask.py"


rule propose_intervals:
    """Propose confidence intervals for the mask, from robust quantiles of all modules. Wildcard: calibration."""
    input:
        dark=per_calibrated_module(f"{PROCESSED}_dark.h5"),
        analog_gains=per_calibrated_module(f"{PROCESSED}_analogGains.h5"),
        digital_means=per_calibrated_module(f"{PROCESSED}_digitalMeans.h5"),
        photon_spacing=per_calibrated_module(f"{PROCESSED}_photonSpacing.h5"),
    output:
        intervals="calibration/{calibration}/proposed_intervals.yaml",
    log:
        "logs/propose_intervals/{calibration}.log",
    benchmark:
        "benchmarks/propose_intervals/{calibration}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        code=code_of("propose_intervals.py"),
        modules=calibrated_modules,
        proposal_sigma=CALIBRATION["mask"]["proposal_sigma"],
    message:
        "calibration {wildcards.calibration}: proposing confidence intervals for the mask"
    script:
        "../scripts/propose_intervals.py"


rule check_constants:
    """
    Refuse constants that do not fit a raw run: wrong type, shape, cells, module or orientation, too few finite ones,
    or a dark level that is not the run's. Wildcard: run.
    """
    input:
        vds=vds_of,
        constants=constants_of("constants"),
        masks=constants_of("mask"),
    output:
        verdict="integrity/r{run}_constants.json",
    log:
        "logs/check_constants/r{run}.log",
    benchmark:
        "benchmarks/check_constants/r{run}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        **named(**CALIBRATION["gate"]),
        code=code_of("check_constants.py"),
        run=lambda wildcards: int(wildcards.run),
        modules=sorted(DETECTOR["modules"]),
        constants=constants_sizes,
    message:
        "run {wildcards.run}: checking the constants against the run"
    script:
        "../scripts/check_constants.py"


rule equalize:
    """
    Energies [keV] and gain stages of a module of a raw run (name r0060) or of gathered calibration data (name
    may24_dark, may24_current_source, may24_xray), for people and for tests. Wildcards: name, module.
    """
    input:
        source=equalized_source,
        constants=equalized_with("constants"),
        mask=equalized_with("mask"),
        accepted=equalized_if,
    output:
        equalized="equalized/{name}_m{module}.h5",
    log:
        "logs/equalize/{name}_m{module}.log",
    benchmark:
        "benchmarks/equalize/{name}_m{module}.tsv"
    wildcard_constraints:
        name="[A-Za-z0-9_.-]+",
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        **named(
            common_mode=CALIBRATION["common_mode"],
            baseline_shift=CALIBRATION["baseline_shift"],
        ),
        code=code_of("equalize.py"),
        module=lambda wildcards: int(wildcards.module),
        source=lambda wildcards: "run" if is_run(wildcards.name) else "gathered",
        photon_energy_kev=equalized_energy,
    message:
        "{wildcards.name}: equalizing module {wildcards.module}"
    script:
        "../scripts/equalize.py"
