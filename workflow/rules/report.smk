# What people look at: one page that stands alone, and its chart and numbers beside it.


rule report:
    input:
        points=lambda w: checked(job_settings.points_table, config, w.dataset),
        run="results/{dataset}/run.json",
        paired="results/{dataset}/paired.parquet",
        latency=lambda w: [f"results/{path}" for path in plan.timed(config, w.dataset)],
    output:
        html=report("results/pareto_{dataset}.html", category="Pareto fronts", caption="../report/pareto.rst"),
        svg="results/pareto_{dataset}.svg",
        png="results/pareto_{dataset}.png",
        csv="results/pareto_{dataset}.csv",
        md="results/pareto_{dataset}.md",
    log:
        "logs/pareto_{dataset}.log",
    benchmark:
        "benchmarks/pareto_{dataset}.tsv"
    wildcard_constraints:
        dataset="[a-z0-9_]+",  # any: an unknown one gets an answer
    group:
        "report"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        sources=source_hashes("report"),
        latency=lambda w, input: f"--latency {input.latency}" if input.latency else "",
    message:
        "{wildcards.dataset}: writing the report"
    shell:
        "python -m calex report --points {input.points} --run {input.run} --paired {input.paired} {params.latency}"
        " --out {output.html} 2>&1 | tee {log}"


rule heads:
    input:
        lambda w: [f"results/{path}" for path in checked(job_settings.branch_exits, config, w.dataset)],
    output:
        html=report("results/heads_{dataset}.html", category="Heads"),
        svg="results/heads_{dataset}.svg",
        png="results/heads_{dataset}.png",
        csv="results/heads_{dataset}.csv",
        md="results/heads_{dataset}.md",
    log:
        "logs/heads_{dataset}.log",
    benchmark:
        "benchmarks/heads_{dataset}.tsv"
    wildcard_constraints:
        dataset="[a-z0-9_]+",  # any: an unknown one gets an answer
    group:
        "report"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        settings=lambda w: canonical_json(job_settings.resolved(config, w.dataset)),
        sources=source_hashes("heads"),
        command=lambda w, output: f"snakemake --cores all results/heads_{w.dataset}.html{TYPED.options}",
    message:
        "{wildcards.dataset}: comparing heads"
    # The step finds its inputs by the same plan: their paths would be too many for a command line.
    shell:
        "python -m calex heads --results results --settings {params.settings:q} --command {params.command:q}"
        " --out {output.html} 2>&1 | tee {log}"
