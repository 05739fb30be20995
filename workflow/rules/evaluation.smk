# Thresholds, operating points, fronts: NumPy and Polars over exits, no torch.


rule calibrate:
    input:
        exits,
    output:
        thresholds=f"results/{CASCADE}/{{policy}}.thresholds.parquet",
        record=f"results/{CASCADE}/{{policy}}.calibration.json",
        learnt=f"results/{CASCADE}/{{policy}}.learnt.npz",
    log:
        f"logs/{CASCADE}/{{policy}}.thresholds.log",
    benchmark:
        f"benchmarks/{CASCADE}/{{policy}}.thresholds.tsv"
    wildcard_constraints:
        policy="|".join(config["policies"]),
    group:
        "cascade"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings("calibrate"),
        sources=source_hashes("calibrate"),
    message:
        f"{RUN}: calibrating {{wildcards.policy}}"
    shell:
        "python -m calex calibrate --exits {input} --settings {params.settings:q} --out {output.thresholds} 2>&1 | tee {log}"


rule evaluate:
    input:
        exits=exits,
        thresholds=branch(lambda w: w.policy == "oracle", then=[], otherwise=f"results/{CASCADE}/{{policy}}.thresholds.parquet"),
        # Beside the thresholds: which fold each validation image was in.
        record=branch(lambda w: w.policy == "oracle", then=[], otherwise=f"results/{CASCADE}/{{policy}}.calibration.json"),
        learnt=branch(lambda w: w.policy == "oracle", then=[], otherwise=f"results/{CASCADE}/{{policy}}.learnt.npz"),
    output:
        points=f"results/{CASCADE}/{{policy}}.points.parquet",
        exits=f"results/{CASCADE}/{{policy}}.exits.npz",
    log:
        f"logs/{CASCADE}/{{policy}}.points.log",
    benchmark:
        f"benchmarks/{CASCADE}/{{policy}}.points.tsv"
    group:
        "cascade"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings("evaluate"),
        sources=source_hashes("evaluate"),
        key=lambda w: canonical_json(
            {name: w[name] for name in ("dataset", "backbone", "method", "variant", "policy")} | {"seed": int(w.seed)}
        ),
        thresholds=lambda w, input: f"--thresholds {input.thresholds}" if input.thresholds else "",
    message:
        f"{RUN}: evaluating {{wildcards.policy}}"
    shell:
        "python -m calex evaluate --exits {input.exits} {params.thresholds} --settings {params.settings:q}"
        " --key {params.key:q} --out {output.points} 2>&1 | tee {log}"


rule pareto:
    input:
        points=lambda w: [f"results/{path}" for path in plan.points(config, w.dataset)],
        # The plain backbone's answers, from one exits file of each.
        exits=lambda w: [
            f"results/{next(cascade.folder for cascade in plan.cascades(config, w.dataset) if cascade.backbone == backbone)}/exits1.npz"
            for backbone in config["datasets"][w.dataset]["backbones"]
        ],
        about=lambda w: expand(
            "results/{dataset}/{backbone}/{file}",
            dataset=w.dataset,
            backbone=config["datasets"][w.dataset]["backbones"],
            file=["backbone.json", "taps.json", *(f"features/{split}.json" for split in SPLITS)],
        ),
        audit="results/{dataset}/images.json",
        records=lambda w: [f"results/{cascade.folder}/{file}" for cascade, _, file in plan.records(config, w.dataset)],
    output:
        points="results/points_{dataset}.parquet",
        run="results/{dataset}/run.json",
    log:
        "logs/points_{dataset}.log",
    benchmark:
        "benchmarks/points_{dataset}.tsv"
    group:
        "report"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=lambda w: canonical_json(job_settings.resolved(config, w.dataset)),
        sources=source_hashes("pareto"),
        # Follows from the output, so that it is not compared: the same config from another file is no reason to compute again.
        command=lambda w, output: f"snakemake --cores all results/pareto_{w.dataset}.html{TYPED.options}",
    message:
        "{wildcards.dataset}: gathering operating points, marking fronts"
    # The step finds its inputs by the same plan: their paths would be too many for a command line.
    shell:
        "python -m calex pareto --results results --settings {params.settings:q}"
        " --command {params.command:q}"
        " --out {output.points} --run {output.run} 2>&1 | tee {log}"


rule compare:
    input:
        points="results/points_{dataset}.parquet",
        exits=lambda w: [f"results/{path}" for path in plan.exits(config, w.dataset)],
    output:
        "results/{dataset}/paired.parquet",
    log:
        "logs/{dataset}/paired.log",
    benchmark:
        "benchmarks/{dataset}/paired.tsv"
    group:
        "report"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=lambda w: canonical_json(plan.compared(config, w.dataset)),
        sources=source_hashes("compare"),
    message:
        "{wildcards.dataset}: comparing every curve with each of ours, image by image"
    # The step finds the exits by the table of points: their paths would be too many for a command line.
    shell:
        "python -m calex compare --results results --points {input.points} --settings {params.settings:q} --out {output}"
        " 2>&1 | tee {log}"
