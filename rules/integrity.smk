# Is the run whole, which frames can be trusted, and where do they lie?


localrules:
    accept_run,


rule check_run:
    """
    Read the indices and frame ids of all module files, find every fault, and write the frame table and the findings.
    It succeeds whatever it finds: the findings must stay readable. Wildcard: run.
    """
    input:
        files=ancient(files_to_check),
    output:
        frames="frames/r{run}.h5",
        integrity="integrity/r{run}.json",
    log:
        "logs/check_run/r{run}.log",
    benchmark:
        "benchmarks/check_run/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        **named(
            max_lost=config["integrity"]["max_lost"],
            policy=config["integrity"]["policy"],
        ),
        code=code_of("check_run.py"),
        run=lambda wildcards: int(wildcards.run),
        stream=stream_of,
        detector=lambda wildcards: detector_of(wildcards.run),
        sizes=source_sizes("modules"),
    message:
        "run {wildcards.run}: checking {params.stream} files"
    script:
        "../scripts/check_run.py"


rule accept_run:
    """Stop here, with the findings, if the integrity policy refuses the run. Wildcard: run."""
    input:
        integrity="integrity/r{run}.json",
    output:
        accepted="integrity/r{run}.accepted",
    log:
        "logs/accept_run/r{run}.log",
    benchmark:
        "benchmarks/accept_run/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=500,
        runtime=5,
    params:
        code=code_of("accept_run.py"),
        run=lambda wildcards: int(wildcards.run),
    message:
        "run {wildcards.run}: applying the integrity policy"
    script:
        "../scripts/accept_run.py"


rule make_vds:
    """
    Map the kept frames of all modules into one virtual dataset, with their ids, units and photon energy.
    Wildcards: run, stream (which must be the run table's).
    """
    input:
        frames=only_its_stream,
        accepted="integrity/r{run}.accepted",
        control=ancient(control_files),
    output:
        vds="vds/r{run}_vds_{stream}.h5",
    log:
        "logs/make_vds/r{run}_{stream}.log",
    benchmark:
        "benchmarks/make_vds/r{run}_{stream}.tsv"
    wildcard_constraints:
        stream="proc|raw",
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        **named(
            proc_units=DETECTOR["proc_units"],
            photon_energy_kev=DETECTOR["photon_energy_kev"],
            xgm=config["pulses"]["xgm"],
        ),
        code=code_of("make_vds.py"),
        run=lambda wildcards: int(wildcards.run),
        stream=stream_of,
        detector=DETECTOR["name"],
        modules=sorted(DETECTOR["modules"]),
        sizes=source_sizes("control"),
    message:
        "run {wildcards.run}: mapping frames"
    script:
        "../scripts/make_vds.py"
