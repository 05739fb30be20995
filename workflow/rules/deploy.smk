# What answers pictures: the best of everything that was evaluated on a backbone, as one folder. Not part of `all`; one asks
# for results/{dataset}/{backbone}/cascade.


rule export:
    input:
        points="results/points_{dataset}.parquet",
        run="results/{dataset}/run.json",
        images="results/{dataset}/images.json",
        weights="results/{dataset}/{backbone}/backbone.safetensors",
        about="results/{dataset}/{backbone}/backbone.json",
        taps="results/{dataset}/{backbone}/taps.json",
        manifest="results/{dataset}/{backbone}/features/val.json",
        # Which cascade it is going to be is known when all are compared.
        cascades=lambda w: [f"results/{path}" for path in plan.deployable(config, w.dataset, w.backbone)],
    output:
        directory("results/{dataset}/{backbone}/cascade"),
    log:
        "logs/{dataset}/{backbone}/cascade.log",
    benchmark:
        "benchmarks/{dataset}/{backbone}/cascade.tsv"
    # A report that shows wall times lies behind these, and what compares before them.
    group:
        "report"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        sources=source_hashes("export"),
        wish=lambda w: " ".join(
            f"--{name.replace('_', '-')} {value}"
            for name, value in config["datasets"][w.dataset]["deploy"].items()
            if value is not None
        ),
    message:
        "{wildcards.dataset} {wildcards.backbone}: exporting the cascade that answers best"
    shell:
        "python -m calex export --results results --dataset {wildcards.dataset} --backbone {wildcards.backbone} {params.wish}"
        " --out {output} 2>&1 | tee {log}"


rule latency:
    input:
        cascade="results/{dataset}/{backbone}/cascade",
        images="results/{dataset}/images.npz",
    output:
        "results/{dataset}/{backbone}/latency.json",
    log:
        "logs/{dataset}/{backbone}/latency.log",
    benchmark:
        "benchmarks/{dataset}/{backbone}/latency.tsv"
    group:
        "report"
    conda:
        "../../environment.yml"
    # Every core that this run may use, so that nothing runs beside what is being timed.
    threads: workflow.resource_settings.cores or config["threads"]["benchmark"]
    resources:
        mem_mb=8000,
        runtime=30,
        gpu=gpus,
    params:
        sources=source_hashes("latency"),
        device=config["device"],
    message:
        "{wildcards.dataset} {wildcards.backbone}: timing the cascade beside its network"
    shell:
        "python -m calex latency {input.cascade} --dataset {input.images} --device {params.device} --threads {threads}"
        " --out {output} 2>&1 | tee {log}"
