# What a simulated MID run has beside its AGIPD modules, one file per job.


rule simulate_epix:
    """One file of one ePix. Wildcards: run, number, sequence."""
    output:
        file=f"{DATA}/raw/r{{run}}/RAW-R{{run}}-EPIX0{{number}}-S{{sequence}}.h5",
    log:
        "logs/simulate_epix/r{run}_{number}_s{sequence}.log",
    benchmark:
        "benchmarks/simulate_epix/r{run}_{number}_s{sequence}.tsv"
    wildcard_constraints:
        number="[12]",
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        code=code_of("simulate_epix.py"),
        settings=simulated_settings(),
        run=lambda wildcards: int(wildcards.run),
        number=lambda wildcards: int(wildcards.number),
        sequence=lambda wildcards: int(wildcards.sequence),
    message:
        "run {wildcards.run}: simulating EPIX-{wildcards.number} file {wildcards.sequence}"
    script:
        "../scripts/simulate_epix.py"


if MID["dark"] is not None:

    rule simulate_mid_dark:
        """The dark file of the simulated AGIPD, with its true pedestals and gain thresholds."""
        output:
            dark=mid_dark_path(),
        log:
            "logs/simulate_mid_dark/dark.log",
        benchmark:
            "benchmarks/simulate_mid_dark/dark.tsv"
        conda:
            CONDA
        resources:
            mem_mb=lambda wildcards, attempt: 1000 * attempt,
            runtime=lambda wildcards, attempt: 30 * attempt,
        params:
            code=code_of("simulate_mid_dark.py"),
            settings=simulated_settings(),
        message:
            "simulating the dark file of MID"
        script:
            "../scripts/simulate_mid_dark.py"


rule simulate_mid_truth:
    """Which trains of a simulated MID run should be exported. Wildcard: run."""
    output:
        truth=f"{DATA}/truth/mid_r{{run}}.h5",
    log:
        "logs/simulate_mid_truth/r{run}.log",
    benchmark:
        "benchmarks/simulate_mid_truth/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        **named(epix=MID["epix"], pulse_ids=MID["pulse_ids"]),
        code=code_of("simulate_mid_truth.py"),
        settings=simulated_settings(),
        run=lambda wildcards: int(wildcards.run),
        stream=stream_of,
    message:
        "run {wildcards.run}: writing the truth of the MID export"
    script:
        "../scripts/simulate_mid_truth.py"
