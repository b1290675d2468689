# Short names for the results, so that they can be asked for on the command line. Hard links: no second copy.


localrules:
    link_hits,
    link_emc,
    link_events,
    link_powder,


rule link_hits:
    """The main target of a run: its hits, after Dragonfly's input, the powder and the report. Wildcard: run."""
    input:
        cxi="saved_hits/r{run}_hits.cxi",
        # ancient: these are to be there and up to date, but they are newer than the linked file by nature.
        emc=ancient("r{run}.emc"),
        events=ancient("r{run}_events.h5"),
        powder=ancient("r{run}_powder.h5"),
        report=ancient("report/r{run}.html"),
        calibration=ancient(calibration_report),
    output:
        "r{run}_hits.cxi",
    log:
        "logs/link_hits/r{run}.log",
    benchmark:
        "benchmarks/link_hits/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=100,
        runtime=5,
    message:
        "run {wildcards.run}: {output} is complete"
    shell:
        "ln -f {input.cxi:q} {output:q} 2> {log:q}"


rule link_emc:
    """The short name of Dragonfly's photons. Wildcard: run."""
    input:
        "emc/r{run}.emc",
    output:
        "r{run}.emc",
    log:
        "logs/link_emc/r{run}.log",
    benchmark:
        "benchmarks/link_emc/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=100,
        runtime=5,
    message:
        "run {wildcards.run}: {output} is complete"
    shell:
        "ln -f {input:q} {output:q} 2> {log:q}"


rule link_events:
    """The short name of the events. Wildcard: run."""
    input:
        "events/r{run}_events.h5",
    output:
        "r{run}_events.h5",
    log:
        "logs/link_events/r{run}.log",
    benchmark:
        "benchmarks/link_events/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=100,
        runtime=5,
    message:
        "run {wildcards.run}: {output} is complete"
    shell:
        "ln -f {input:q} {output:q} 2> {log:q}"


rule link_powder:
    """The short name of the powder. Wildcard: run."""
    input:
        "powder/r{run}_powder.h5",
    output:
        "r{run}_powder.h5",
    log:
        "logs/link_powder/r{run}.log",
    benchmark:
        "benchmarks/link_powder/r{run}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=100,
        runtime=5,
    message:
        "run {wildcards.run}: {output} is complete"
    shell:
        "ln -f {input:q} {output:q} 2> {log:q}"
