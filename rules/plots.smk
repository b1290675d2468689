# Pictures, and the page that shows them.


rule plot_integrity:
    """Draw the findings of the integrity check. Wildcard: run."""
    input:
        frames="frames/r{run}.h5",
        integrity="integrity/r{run}.json",
    output:
        integrity=figure("integrity"),
        coverage=figure("coverage"),
    log:
        "logs/plot_integrity/r{run}.log",
    benchmark:
        "benchmarks/plot_integrity/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("plot_integrity.py"),
    message:
        "run {wildcards.run}: drawing the findings of the integrity check"
    script:
        "../scripts/plot_integrity.py"


rule plot_hits:
    """Draw hit scores, threshold, guards, hit rate and the self-test of the pulse energies. Wildcard: run."""
    input:
        events="events/r{run}_events.h5",
    output:
        hitscore=figure("hitscore"),
        hitscore_histogram=figure("hitscore_histogram"),
        guards=figure("guards"),
        hit_rate=figure("hit_rate"),
        pulse_energy=figure("pulse_energy"),
    log:
        "logs/plot_hits/r{run}.log",
    benchmark:
        "benchmarks/plot_hits/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("plot_hits.py"),
    message:
        "run {wildcards.run}: drawing hit scores, threshold, guards, hit rate and the self-test of the pulse energies"
    script:
        "../scripts/plot_hits.py"


rule plot_detector:
    """Draw powder, mask and the strongest hits on the assembled detector. Wildcard: run."""
    input:
        powder="powder/r{run}_powder.h5",
        masks=per_module("masks/r{run}_m{module}.h5"),
        outliers=per_module("masks/r{run}_outliers_m{module}.h5"),
        cxi="saved_hits/r{run}_hits.cxi",
    output:
        powder_all=figure("powder_all"),
        powder_hits=figure("powder_hits"),
        powder_misses=figure("powder_misses"),
        mask=figure("mask"),
        gallery=figure("gallery"),
    log:
        "logs/plot_detector/r{run}.log",
    benchmark:
        "benchmarks/plot_detector/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("plot_detector.py"),
        run=lambda wildcards: int(wildcards.run),
        modules=sorted(DETECTOR["modules"]),
        geometry=geometry_of,
        geometry_sha=geometry_sha256,
    message:
        "run {wildcards.run}: drawing powder, mask and the strongest hits on the assembled detector"
    script:
        "../scripts/plot_detector.py"


rule report:
    """One page with all pictures of a run, their captions and its numbers. Wildcard: run."""
    input:
        integrity="integrity/r{run}.json",
        events="events/r{run}_events.h5",
        cxi="saved_hits/r{run}_hits.cxi",
        emc="emc/r{run}.emc",
        figures=expand("plots/r{{run}}_{name}.png", name=PLOTS),
    output:
        page="report/r{run}.html",
    log:
        "logs/report/r{run}.log",
    benchmark:
        "benchmarks/report/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("report.py"),
        run=lambda wildcards: int(wildcards.run),
        sample=lambda wildcards: run_row(wildcards.run)["sample"],
        figures=list(PLOTS),
        captions=contents(CAPTIONS),
    message:
        "run {wildcards.run}: writing the report"
    script:
        "../scripts/report.py"
