# Which X-ray pulse hit each frame?


rule map_pulses:
    """Give each frame its pulse energy and wavelength from the gas monitor's pulse list. Wildcard: run."""
    input:
        frames="frames/r{run}.h5",
        accepted="integrity/r{run}.accepted",
        control=ancient(control_files),
    output:
        pulses="pulses/r{run}.h5",
    log:
        "logs/map_pulses/r{run}.log",
    benchmark:
        "benchmarks/map_pulses/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        **named(
            method=config["pulses"]["method"],
            xgm=config["pulses"]["xgm"],
            litfrm=config["pulses"]["litfrm"],
            offset=config["pulses"]["offset"],
            photon_energy_kev=DETECTOR["photon_energy_kev"],
        ),
        code=code_of("map_pulses.py"),
        run=lambda wildcards: int(wildcards.run),
        sizes=source_sizes("control"),
    message:
        "run {wildcards.run}: mapping frames to X-ray pulses"
    script:
        "../scripts/map_pulses.py"
