# How fast this machine is at what the library promises to be fast at. Not part of `all`; one asks for
# results/benchmarks.html.


rule benchmark:
    output:
        "results/benchmarks/{question}.json",
    log:
        "logs/benchmarks/{question}.log",
    benchmark:
        "benchmarks/benchmarks/{question}.tsv"
    conda:
        "../../environment.yml"
    # Every core that this run may use, so that nothing runs beside what is being timed. An executor's profile gives no number.
    threads: workflow.resource_settings.cores or config["threads"]["benchmark"]
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=gpus,
    params:
        settings=settings("benchmark"),
        sources=source_hashes("benchmark"),
        computing=computing("benchmark"),
        folder=lambda w, output: f"--folder {shlex.quote(folder)}" if (folder := config["benchmarks"]["folder"]) else "",
        repeats=config["benchmarks"]["repeats"],
        scale=config["benchmarks"]["scale"],
    message:
        "measuring {wildcards.question}"
    shell:
        "python -m calex benchmark {wildcards.question} --repeats {params.repeats} --scale {params.scale}"
        " {params.folder} {params.computing} --out {output} 2>&1 | tee {log}"


rule report_benchmarks:
    input:
        expand("results/benchmarks/{question}.json", question=plugins.names("benchmarks")),
    output:
        html=report("results/benchmarks.html", category="Benchmarks"),
        markdown="results/benchmarks.md",
    log:
        "logs/benchmarks.log",
    benchmark:
        "benchmarks/benchmarks.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        sources=source_hashes("report_benchmarks"),
    message:
        "writing what was measured"
    shell:
        "python -m calex report-benchmarks --results {input} --out {output.html} 2>&1 | tee {log}"


rule sizes:
    input:
        "results/benchmarks/dump.json",
    output:
        "results/sizes.md",
    log:
        "logs/sizes.log",
    benchmark:
        "benchmarks/sizes.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        sources=source_hashes("sizes"),
    message:
        "predicting stores"
    shell:
        "python -m calex sizes --benchmark {input} --out {output} 2>&1 | tee {log}"
