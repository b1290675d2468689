# Simulated DSSC runs with known truth.


rule simulate_dssc_module:
    """One raw file of one DSSC module. Wildcards: run, module, sequence."""
    output:
        file=f"{DATA}/raw/r{{run}}/RAW-R{{run}}-DSSC{{module}}-S{{sequence}}.h5",
    log:
        "logs/simulate_dssc_module/r{run}_m{module}_s{sequence}.log",
    benchmark:
        "benchmarks/simulate_dssc_module/r{run}_m{module}_s{sequence}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("simulate_dssc_module.py"),
        settings=simulated_dssc_settings(),
        run=lambda wildcards: int(wildcards.run),
        module=lambda wildcards: int(wildcards.module),
        sequence=lambda wildcards: int(wildcards.sequence),
    message:
        "run {wildcards.run}: simulating DSSC module {wildcards.module} file {wildcards.sequence}"
    script:
        "../scripts/simulate_dssc_module.py"


rule simulate_dssc_control:
    """Gas monitor, number of pulses, delay stage; scan variable and frame mask as files. Wildcard: run."""
    output:
        control=f"{DATA}/raw/r{{run}}/RAW-R{{run}}-DA02-S00000.h5",
        scan=f"{DATA}/dssc/r{{run}}_scan.h5",
        mask=f"{DATA}/dssc/r{{run}}_mask.h5",
    log:
        "logs/simulate_dssc_control/r{run}.log",
    benchmark:
        "benchmarks/simulate_dssc_control/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("simulate_dssc_control.py"),
        settings=simulated_dssc_settings(),
        run=lambda wildcards: int(wildcards.run),
    message:
        "run {wildcards.run}: simulating gas monitor and delay stage"
    script:
        "../scripts/simulate_dssc_control.py"


rule simulate_dssc_truth:
    """What was simulated: scan, pulse energies, mask, and the true means. Wildcard: run."""
    output:
        truth=f"{DATA}/truth/dssc_r{{run}}.h5",
    log:
        "logs/simulate_dssc_truth/r{run}.log",
    benchmark:
        "benchmarks/simulate_dssc_truth/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("simulate_dssc_truth.py"),
        settings=simulated_dssc_settings(),
        run=lambda wildcards: int(wildcards.run),
    message:
        "run {wildcards.run}: writing the truth"
    script:
        "../scripts/simulate_dssc_truth.py"
