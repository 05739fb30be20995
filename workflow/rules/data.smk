# Images, and the network that is frozen afterwards.


rule prepare_dataset:
    output:
        dataset="results/{dataset}/images.npz",
        audit="results/{dataset}/images.json",
    log:
        "logs/{dataset}/images.log",
    benchmark:
        "benchmarks/{dataset}/images.tsv"
    group:
        "images"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda w: datasets.memory_mb(config["datasets"][w.dataset]["source"]),
        runtime=60,
    params:
        settings=lambda w: canonical_json(config["datasets"][w.dataset]["source"]),
        sources=source_hashes("prepare_dataset"),
        # Datasets of one source share its downloads.
        resources=lambda w: f"resources/{config['datasets'][w.dataset]['source']['name']}",
    message:
        "{wildcards.dataset}: decoding and auditing images"
    shell:
        "python -m calex prepare-dataset --source {params.settings:q} --resources {params.resources} --out {output.dataset}"
        " 2>&1 | tee {log}"


rule measure_taps:
    input:
        "results/{dataset}/images.npz",
    output:
        "results/{dataset}/{backbone}/taps.json",
    log:
        "logs/{dataset}/{backbone}/taps.log",
    benchmark:
        "benchmarks/{dataset}/{backbone}/taps.tsv"
    # First in line: a tap that does not exist is found before hours of training. No edge to train_backbone says
    # so, because other taps need no other backbone.
    priority: 100
    group:
        "images"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=settings("measure_taps"),
        sources=source_hashes("measure_taps"),
    message:
        "{wildcards.dataset} {wildcards.backbone}: checking taps, counting FLOPs"
    shell:
        "python -m calex measure-taps --dataset {input} --settings {params.settings:q} --out {output} 2>&1 | tee {log}"


rule train_backbone:
    input:
        dataset="results/{dataset}/images.npz",
        checkpoint=lambda w: config["backbones"][w.backbone]["checkpoint"] or [],
    output:
        weights="results/{dataset}/{backbone}/backbone.safetensors",
        about="results/{dataset}/{backbone}/backbone.json",
    log:
        "logs/{dataset}/{backbone}/backbone.log",
    benchmark:
        "benchmarks/{dataset}/{backbone}/backbone.tsv"
    conda:
        "../../environment.yml"
    threads: config["threads"]["train_backbone"]
    resources:
        # The images are a mapped file; from memory they come faster.
        mem_mb=memory(6000, 1),
        runtime=1440,
        gpu=gpus,
    params:
        settings=settings("train_backbone"),
        sources=source_hashes("train_backbone"),
        computing=computing("train_backbone"),
        checkpoint=lambda w, input: f"--checkpoint {shlex.quote(input.checkpoint)}" if input.checkpoint else "",
    message:
        "{wildcards.dataset} {wildcards.backbone}: training the backbone"
    shell:
        "python -m calex train-backbone --dataset {input.dataset} --settings {params.settings:q} {params.checkpoint}"
        " {params.computing} --out {output.weights} 2>&1 | tee {log}"
