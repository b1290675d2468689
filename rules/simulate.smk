# Simulated runs with known truth, one file per job.


rule simulate_module:
    """One file of one module, corrected or raw. Wildcards: data, run, module, sequence (data is proc or raw)."""
    output:
        file=f"{DATA}/{{data}}/r{{run}}/{{kind}}-R{{run}}-AGIPD{{module}}-S{{sequence}}.h5",
    log:
        "logs/simulate_module/{data}_r{run}_{kind}_m{module}_s{sequence}.log",
    benchmark:
        "benchmarks/simulate_module/{data}_r{run}_{kind}_m{module}_s{sequence}.tsv"
    wildcard_constraints:
        data="proc|raw",
        kind="CORR|RAW",
        run=rf"(?!{one_of(CALIBRATION_RUNS)})\d{{4}}",
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("simulate_module.py"),
        settings=simulated_settings(),
        geometry_sha=file_sha256(from_checkout(DETECTOR["geometry"])),
        run=lambda wildcards: int(wildcards.run),
        stream=lambda wildcards: wildcards.data,
        module=lambda wildcards: int(wildcards.module),
        sequence=lambda wildcards: int(wildcards.sequence),
    message:
        "run {wildcards.run}: simulating {wildcards.data} module {wildcards.module} file {wildcards.sequence}"
    script:
        "../scripts/simulate_module.py"


rule simulate_control:
    """The gas monitor's pulse energies and, where asked for, the frame-to-pulse map. Wildcard: run."""
    output:
        control=f"{DATA}/raw/r{{run}}/RAW-R{{run}}-DA01-S00000.h5",
        litfrm=(
            [f"{DATA}/raw/r{{run}}/RAW-R{{run}}-LITFRM01-S00000.h5"] if config["simulate"]["xgm"] == "litfrm" else []
        ),
    log:
        "logs/simulate_control/r{run}.log",
    benchmark:
        "benchmarks/simulate_control/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("simulate_control.py"),
        settings=simulated_settings(),
        geometry_sha=file_sha256(from_checkout(DETECTOR["geometry"])),
        run=lambda wildcards: int(wildcards.run),
    message:
        "run {wildcards.run}: simulating pulse energies"
    script:
        "../scripts/simulate_control.py"


rule simulate_truth:
    """What was simulated: frames, hits, photons, faults and what should be found. Wildcard: run."""
    output:
        truth=f"{DATA}/truth/spb_r{{run}}.h5",
    log:
        "logs/simulate_truth/r{run}.log",
    benchmark:
        "benchmarks/simulate_truth/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("simulate_truth.py"),
        settings=simulated_settings(),
        geometry_sha=file_sha256(from_checkout(DETECTOR["geometry"])),
        run=lambda wildcards: int(wildcards.run),
        stream=stream_of,
    message:
        "run {wildcards.run}: writing the truth"
    script:
        "../scripts/simulate_truth.py"


rule simulate_constants:
    """The true AGIPD constants of one module, in the format that a calibration gives. Wildcards: calibration, module."""
    output:
        constants="calibration/{calibration}/constants_m{module}.h5",
        mask="calibration/{calibration}/mask_m{module}.h5",
    log:
        "logs/simulate_constants/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/simulate_constants/{calibration}_m{module}.tsv"
    wildcard_constraints:
        calibration=one_of(sorted(set(CALIBRATIONS) - set(MADE_CALIBRATIONS))),
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("simulate_constants.py"),
        settings=simulated_settings(),
        geometry_sha=file_sha256(from_checkout(DETECTOR["geometry"])),
        module=lambda wildcards: int(wildcards.module),
    message:
        "calibration {wildcards.calibration}: writing the true constants of module {wildcards.module}"
    script:
        "../scripts/simulate_constants.py"


rule simulate_calibration_module:
    """One file of one module of a run with calibration data. Wildcards: run, module, sequence."""
    output:
        file=f"{DATA}/raw/r{{run}}/RAW-R{{run}}-AGIPD{{module}}-S{{sequence}}.h5",
    log:
        "logs/simulate_calibration_module/r{run}_m{module}_s{sequence}.log",
    benchmark:
        "benchmarks/simulate_calibration_module/r{run}_m{module}_s{sequence}.tsv"
    wildcard_constraints:
        run=one_of(CALIBRATION_RUNS),
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("simulate_calibration_module.py"),
        settings=simulated_settings(),
        calibration=simulated_as("calibration"),
        description=simulated_as("description"),
    message:
        "run {wildcards.run}: simulating calibration data of module {wildcards.module}"
    script:
        "../scripts/simulate_calibration_module.py"


rule simulate_nexus_part:
    """One part of the laboratory's calibration data of a module. Wildcard: path."""
    output:
        file=f"{DATA}/{{path}}.nxs",
    log:
        "logs/simulate_nexus_part/{path}.log",
    benchmark:
        "benchmarks/simulate_nexus_part/{path}.tsv"
    wildcard_constraints:
        path=r"(?!.*\.\.).+",
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("simulate_nexus_part.py"),
        settings=simulated_settings(),
        calibration=simulated_as("calibration"),
        description=simulated_as("description"),
    message:
        "simulating {output.file}"
    script:
        "../scripts/simulate_nexus_part.py"


rule simulate_calibration_truth:
    """The true constants behind the calibration data of one module. Wildcards: calibration, module."""
    output:
        truth=f"{DATA}/truth/calibration_{{calibration}}_m{{module}}.h5",
    log:
        "logs/simulate_calibration_truth/{calibration}_m{module}.log",
    benchmark:
        "benchmarks/simulate_calibration_truth/{calibration}_m{module}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=code_of("simulate_calibration_truth.py"),
        settings=simulated_settings(),
        calibration=lambda wildcards: simulated_calibration(wildcards.calibration)[0],
        module=lambda wildcards: int(wildcards.module),
    message:
        "calibration {wildcards.calibration}: writing the truth of module {wildcards.module}"
    script:
        "../scripts/simulate_calibration_truth.py"
