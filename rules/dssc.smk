# DSSC images, averaged by a scan variable and a frame pattern.


include: "common_dssc.smk"


wildcard_constraints:
    scan=r"[A-Za-z0-9_.-]+",


if config["simulate"] is not None:

    include: "simulate_dssc.smk"


rule select_dssc:
    """
    Decide for each frame whether it counts, in which bin and under which name, and note its pulse energy.
    Wildcards: run, scan.
    """
    input:
        frames="frames/r{run}.h5",
        accepted="integrity/r{run}.accepted",
        control=ancient(control_files),
        simulated=simulated_given_files,
    output:
        selection="dssc/r{run}_frames_by-{scan}.h5",
    log:
        "logs/select_dssc/r{run}_by-{scan}.log",
    benchmark:
        "benchmarks/select_dssc/r{run}_by-{scan}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("select_dssc.py"),
        run=lambda wildcards: int(wildcards.run),
        scan=lambda wildcards: wildcards.scan,
        settings=dssc_scan,
        xgm=DSSC["xgm"],
        files=dssc_given_contents,
        sizes=source_sizes("control"),
    message:
        "run {wildcards.run}: choosing the frames of scan {wildcards.scan}"
    script:
        "../scripts/select_dssc.py"


rule bin_dssc:
    """Add up the images of one module by bin and frame name. Wildcards: run, module, scan."""
    input:
        frames="frames/r{run}.h5",
        selection="dssc/r{run}_frames_by-{scan}.h5",
        files=ancient(dssc_module_files),
    output:
        sums="dssc/r{run}_m{module}_by-{scan}.h5",
    log:
        "logs/bin_dssc/r{run}_m{module}_by-{scan}.log",
    benchmark:
        "benchmarks/bin_dssc/r{run}_m{module}_by-{scan}.tsv"
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 1800 * attempt,
        runtime=dssc_minutes(per_gb=0.5),
    params:
        code=code_of("bin_dssc.py"),
        run=lambda wildcards: int(wildcards.run),
        module=lambda wildcards: int(wildcards.module),
        sizes=dssc_module_sizes,
    message:
        "run {wildcards.run}: adding up module {wildcards.module} by {wildcards.scan}"
    script:
        "../scripts/bin_dssc.py"


rule join_dssc:
    """
    Average the images of all modules, of one run or of several that are merged, with standard errors and mean pulse
    energies. Wildcards: name (r0235, or an entry of dssc.merge), scan.
    """
    input:
        selections=dssc_selections,
        sums=dssc_sums,
    output:
        joined="dssc/{name}_by-{scan}.h5",
    log:
        "logs/join_dssc/{name}_by-{scan}.log",
    benchmark:
        "benchmarks/join_dssc/{name}_by-{scan}.tsv"
    wildcard_constraints:
        name=DSSC_NAMES,
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=code_of("join_dssc.py"),
        modules=sorted(DSSC["modules"]),
    message:
        "{wildcards.name}: averaging by {wildcards.scan}"
    script:
        "../scripts/join_dssc.py"


rule plot_dssc:
    """Draw images, binned curve, counts, pulse energies, scan and account of the frames. Wildcards: name, scan."""
    input:
        joined="dssc/{name}_by-{scan}.h5",
        selections=dssc_selections,
        sums=dssc_sums,
    output:
        **{name: dssc_figure(name) for name in DSSC_PLOTS},
    log:
        "logs/plot_dssc/{name}_by-{scan}.log",
    benchmark:
        "benchmarks/plot_dssc/{name}_by-{scan}.tsv"
    wildcard_constraints:
        name=DSSC_NAMES,
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1800 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("plot_dssc.py"),
        limits=lambda wildcards: DSSC["scans"][wildcards.scan]["xgm_limits"],
        geometry=dssc_geometry,
    message:
        "{wildcards.name}: drawing the averages by {wildcards.scan}"
    script:
        "../scripts/plot_dssc.py"


rule report_dssc:
    """One page with all pictures of a scan, their captions and its numbers. Wildcards: name, scan."""
    input:
        joined="dssc/{name}_by-{scan}.h5",
        figures=expand("plots/dssc/{{name}}_by-{{scan}}_{figure}.png", figure=DSSC_PLOTS),
        integrity=lambda wildcards: [f"integrity/r{run}.json" for run in dssc_runs(wildcards)],
    output:
        page="report/dssc_{name}_by-{scan}.html",
    log:
        "logs/report_dssc/{name}_by-{scan}.log",
    benchmark:
        "benchmarks/report_dssc/{name}_by-{scan}.tsv"
    wildcard_constraints:
        name=DSSC_NAMES,
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("report_dssc.py"),
        name=lambda wildcards: wildcards.name,
        samples=lambda wildcards: [run_row(run)["sample"] for run in dssc_runs(wildcards)],
        figures=list(DSSC_PLOTS),
        captions=contents(DSSC_CAPTIONS),
    message:
        "{wildcards.name}: writing the report of the averages by {wildcards.scan}"
    script:
        "../scripts/report_dssc.py"
