# A simulated repository of Jungfrau constants with known truth.


rule simulate_jungfrau:
    """
    The directories with panel constants and the links to them (which snakemake does not see), the descriptions of the
    detectors, deployed constants, and the truth.
    """
    output:
        panels=[from_scratch(path) for path in simulated_jungfrau().repository_files(JUNGFRAU["repository"])],
        datasets=from_scratch(JUNGFRAU["datasets"][0]),
        deployed=[from_scratch(path) for path in simulated_jungfrau().deployed_files(JUNGFRAU["calib"]).values()],
        truth=f"{DATA}/truth/jungfrau.h5",
    log:
        "logs/simulate_jungfrau/jungfrau.log",
    benchmark:
        "benchmarks/simulate_jungfrau/jungfrau.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("simulate_jungfrau.py"),
        seed=config["simulate"]["seed"],
        repository=simulated_repository,
        calib=from_scratch(JUNGFRAU["calib"]),
    message:
        "simulating constants of Jungfrau panels"
    script:
        "../scripts/simulate_jungfrau.py"
