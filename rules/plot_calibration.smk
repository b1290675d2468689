# Pictures and the page of a calibration.


rule summarize_calibration:
    """Medians over cells and pixels, and the numbers of the report, of one module. Wildcards: calibration, module."""
    input:
        dark=f"{PROCESSED}_dark.h5",
        gains=f"{PROCESSED}_analogGains.h5",
        digital=f"{PROCESSED}_digitalMeans.h5",
        spacing=f"{PROCESSED}_photonSpacing.h5",
        constants="calibration/{calibration}/constants_m{module}.h5",
    output:
        summary="calibration/{calibration}/summary_m{module}.h5",
    log:
        "logs/summarize_calibration/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/summarize_calibration/{calibration}_m{module}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("summarize_calibration.py"),
        module=lambda wildcards: int(wildcards.module),
    message:
        "calibration {wildcards.calibration}: summing up module {wildcards.module}"
    script:
        "../scripts/summarize_calibration.py"


rule plot_calibration_module:
    """Draw the fits of sample pixels and the trends over the memory cells. Wildcards: calibration, module."""
    input:
        gains=f"{PROCESSED}_analogGains.h5",
        digital=f"{PROCESSED}_digitalMeans.h5",
        spacing=f"{PROCESSED}_photonSpacing.h5",
        summary="calibration/{calibration}/summary_m{module}.h5",
        mask="calibration/{calibration}/mask_m{module}.h5",
    output:
        fits=calibration_figure("fits", "_m{module}"),
        xray=calibration_figure("xray", "_m{module}"),
        cells=calibration_figure("cells", "_m{module}"),
    log:
        "logs/plot_calibration_module/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/plot_calibration_module/{calibration}_m{module}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("plot_calibration_module.py"),
        calibration=lambda wildcards: wildcards.calibration,
        module=lambda wildcards: int(wildcards.module),
    message:
        "calibration {wildcards.calibration}: drawing the fits of module {wildcards.module}"
    script:
        "../scripts/plot_calibration_module.py"


rule plot_calibration:
    """Draw the constants and the mask on the assembled detector, and their histograms. Wildcard: calibration."""
    input:
        summaries=per_calibrated_module("calibration/{calibration}/summary_m{module}.h5"),
        masks=per_calibrated_module("calibration/{calibration}/mask_m{module}.h5"),
    output:
        **{name: calibration_figure(name) for name in CALIBRATION_PLOTS},
    log:
        "logs/plot_calibration/{calibration}.log",
    benchmark:
        "benchmarks/plot_calibration/{calibration}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("plot_calibration.py"),
        calibration=lambda wildcards: wildcards.calibration,
        modules=calibrated_modules,
        geometry=given_file("detector.geometry", DETECTOR["geometry"]),
        geometry_sha=file_sha256(from_checkout(DETECTOR["geometry"])),
    message:
        "calibration {wildcards.calibration}: drawing the constants and the mask"
    script:
        "../scripts/plot_calibration.py"


rule report_calibration:
    """One page with all pictures of a calibration, their captions and its numbers. Wildcard: calibration."""
    input:
        summaries=per_calibrated_module("calibration/{calibration}/summary_m{module}.h5"),
        masks=per_calibrated_module("calibration/{calibration}/mask_m{module}.h5"),
        intervals="calibration/{calibration}/proposed_intervals.yaml",
        figures=expand("plots/calibration/{{calibration}}_{name}.png", name=CALIBRATION_PLOTS),
        module_figures=module_figures,
    output:
        page="report/calibration_{calibration}.html",
    log:
        "logs/report_calibration/{calibration}.log",
    benchmark:
        "benchmarks/report_calibration/{calibration}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("report_calibration.py"),
        calibration=lambda wildcards: wildcards.calibration,
        modules=calibrated_modules,
        figures=list(CALIBRATION_PLOTS),
        module_figures=list(MODULE_PLOTS),
        captions=contents(CALIBRATION_CAPTIONS),
    message:
        "calibration {wildcards.calibration}: writing the report"
    script:
        "../scripts/report_calibration.py"
