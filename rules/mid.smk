# AGIPD and ePix of the MID instrument in one file.


include: "common_mid.smk"


rule export_mid:
    """
    Put the chosen pulses of AGIPD and the frames of the ePix of all trains that they share into one file, without copying
    a pixel; with mid.calib also the corrected AGIPD data. Wildcard: run.
    """
    input:
        frames="frames/r{run}.h5",
        accepted="integrity/r{run}.accepted",
        epix=ancient(epix_files_of),
        dark=ancient(mid_dark),
        vds=mid_vds,
        constants=mid_constants("constants"),
        masks=mid_constants("mask"),
        gate=mid_gate,
    output:
        mid="mid/r{run}.h5",
    log:
        "logs/export_mid/r{run}.log",
    benchmark:
        "benchmarks/export_mid/r{run}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 1900 * attempt,
        runtime=mid_minutes,
    params:
        **named(
            epix=MID["epix"],
            pulse_ids=MID["pulse_ids"],
            max_lost=config["integrity"]["max_lost"],
            # Not used without calib: changing them must not run the export again.
            baseline_rows=MID["baseline_rows"] if MID["calib"] else None,
            adu_per_photon=MID["adu_per_photon"] if MID["calib"] and MID["dark"] else None,
        ),
        code=code_of("export_mid.py"),
        run=lambda wildcards: int(wildcards.run),
        stream=stream_of,
        detector=DETECTOR["name"],
        modules=sorted(DETECTOR["modules"]),
        calib=MID["calib"],
        sizes=epix_sizes,
        dark=mid_dark_version,
        constants=mid_constants_sizes,
    message:
        "run {wildcards.run}: exporting AGIPD and ePix"
    script:
        "../scripts/export_mid.py"


rule plot_mid:
    """Draw trains, mean images, signal along the run and photon peaks of an exported run. Wildcard: run."""
    input:
        mid="mid/r{run}.h5",
    output:
        **{name: mid_figure(name) for name in MID_PLOTS},
    log:
        "logs/plot_mid/r{run}.log",
    benchmark:
        "benchmarks/plot_mid/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1900 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        code=code_of("plot_mid.py"),
        geometry=geometry_of,
        geometry_sha=geometry_sha256,
    message:
        "run {wildcards.run}: drawing the exported frames"
    script:
        "../scripts/plot_mid.py"


rule report_mid:
    """One page with the summary and all pictures of an exported run. Wildcard: run."""
    input:
        mid="mid/r{run}.h5",
        integrity="integrity/r{run}.json",
        figures=expand("plots/r{{run}}_{name}.png", name=MID_PAGE),
    output:
        page="report/mid_r{run}.html",
    log:
        "logs/report_mid/r{run}.log",
    benchmark:
        "benchmarks/report_mid/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("report_mid.py"),
        run=lambda wildcards: int(wildcards.run),
        sample=lambda wildcards: run_row(wildcards.run)["sample"],
        figures=MID_PAGE,
        captions=contents([f"rules/report/{name}.rst" for name in MID_PAGE]),
    message:
        "run {wildcards.run}: writing the page of the export"
    script:
        "../scripts/report_mid.py"


if config["simulate"] is not None:

    include: "simulate_mid.smk"
