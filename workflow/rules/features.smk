# The frozen backbone, run once over each split. The manifest is what later rules depend on: an identical dump
# reruns none of them.


rule cache_features:
    input:
        dataset="results/{dataset}/images.npz",
        weights="results/{dataset}/{backbone}/backbone.safetensors",
        about="results/{dataset}/{backbone}/backbone.json",
        taps="results/{dataset}/{backbone}/taps.json",
    output:
        manifest="results/{dataset}/{backbone}/features/{split}.json",
        store=directory("results/{dataset}/{backbone}/features/{split}.zarr"),
    log:
        "logs/{dataset}/{backbone}/features/{split}.log",
    benchmark:
        "benchmarks/{dataset}/{backbone}/features/{split}.tsv"
    conda:
        "../../environment.yml"
    threads: config["threads"]["cache_features"]
    resources:
        mem_mb=memory(6000, 1),
        runtime=720,
        gpu=gpus,
    params:
        settings=settings("cache_features"),
        sources=source_hashes("cache_features"),
        computing=computing("cache_features"),
        folder=lambda w, output: str(Path(output.manifest).parent),
    message:
        "{wildcards.dataset} {wildcards.backbone}: caching features of {wildcards.split}"
    shell:
        "python -m calex cache-features --dataset {input.dataset} --backbone {input.weights} --taps {input.taps}"
        " --split {wildcards.split} --settings {params.settings:q} {params.computing}"
        " --out {params.folder} 2>&1 | tee {log}"
