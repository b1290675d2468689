# Gain constants of Jungfrau detectors. Deploying them is a command (jungfrau_gain_constants -D), never a rule.


include: "common_jungfrau.smk"


wildcard_constraints:
    jungfrau=JUNGFRAU_NAME.pattern.replace("(", "(?:"),
    panels=r"[0-9a-z_-]+",


rule jungfrau_constants:
    """
    Merge the constants of the panels, those that are valid at the start of the run, into those of a detector.
    Wildcards: jungfrau (xcsls3716-r0631_XcsEndstation.0-Jungfrau.0), panels (the detector id).
    """
    input:
        panels=ancient(jungfrau_panel_files),
    output:
        **{name: f"jungfrau/{{jungfrau}}_{{panels}}_{end}" for name, end in JUNGFRAU_FILES.items()},
    log:
        "logs/jungfrau_constants/{jungfrau}_{panels}.log",
    benchmark:
        "benchmarks/jungfrau_constants/{jungfrau}_{panels}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: int(500 + 6 * jungfrau_megabytes(wildcards)) * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("jungfrau_constants.py"),
        detector=jungfrau_described,
        directories=jungfrau_chosen,
        contents=jungfrau_contents,
    message:
        "{wildcards.jungfrau}: merging the constants of its panels"
    script:
        "../scripts/jungfrau_constants.py"


rule plot_jungfrau:
    """Draw the constants of a Jungfrau, and their change against those in force. Wildcard: jungfrau."""
    input:
        unpack(jungfrau_constants_files),
        deployed=ancient(jungfrau_deployed),
    output:
        **{name: jungfrau_figure(name) for name in JUNGFRAU_PLOTS},
    log:
        "logs/plot_jungfrau/{jungfrau}.log",
    benchmark:
        "benchmarks/plot_jungfrau/{jungfrau}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: int(700 + 12 * jungfrau_megabytes(wildcards)) * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        **named(**JUNGFRAU["gate"]),
        code=code_of("plot_jungfrau.py"),
        detector=jungfrau_described,
        deployed=jungfrau_deployed_sizes,
    message:
        "{wildcards.jungfrau}: drawing the constants"
    script:
        "../scripts/plot_jungfrau.py"


rule report_jungfrau:
    """
    One page with the constants of a Jungfrau: panels, where their constants come from, change against those in force,
    pictures. Wildcard: jungfrau.
    """
    input:
        unpack(jungfrau_constants_files),
        deployed=ancient(jungfrau_deployed),
        figures=expand("plots/jungfrau_{{jungfrau}}_{name}.png", name=JUNGFRAU_PLOTS),
    output:
        page="report/jungfrau_{jungfrau}.html",
    log:
        "logs/report_jungfrau/{jungfrau}.log",
    benchmark:
        "benchmarks/report_jungfrau/{jungfrau}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=lambda wildcards, attempt: int(700 + 12 * jungfrau_megabytes(wildcards)) * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        **named(**JUNGFRAU["gate"]),
        code=code_of("report_jungfrau.py"),
        detector=jungfrau_described,
        deployed=jungfrau_deployed_sizes,
        figures=JUNGFRAU_PLOTS,
        captions=contents(JUNGFRAU_CAPTIONS),
    message:
        "{wildcards.jungfrau}: writing the page"
    script:
        "../scripts/report_jungfrau.py"


if config["simulate"] is not None and jungfrau_below_data_root():

    include: "simulate_jungfrau.smk"
