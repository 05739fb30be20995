# Branches over cached features. A weighting that looks back makes a chain of these: train_branch k, then
# weigh_survivors k + 1, and so on; otherwise all branches train side by side. A joint recipe makes a whole cascade
# in one job, train_branches.

FEATURES = {
    "manifests": expand("results/{{dataset}}/{{backbone}}/features/{split}.json", split=SPLITS),
    "stores": ancient(expand("results/{{dataset}}/{{backbone}}/features/{split}.zarr", split=SPLITS)),
}


rule train_branch:
    input:
        **FEATURES,
        weights=branch(
            lambda w: int(w.k) > 1 and plan.sequential(config["methods"][w.method]["variants"][w.variant]),
            then=f"results/{CASCADE}/weights{{k}}.npy",
            otherwise=[],
        ),
    output:
        branch=f"results/{CASCADE}/branch{{k}}.safetensors",
        exits=f"results/{CASCADE}/exits{{k}}.npz",
    log:
        f"logs/{CASCADE}/branch{{k}}.log",
    benchmark:
        f"benchmarks/{CASCADE}/branch{{k}}.tsv"
    wildcard_constraints:
        method=job_settings.methods_that_train(config, joint=False),
    group:
        "cascade"
    conda:
        "../../environment.yml"
    threads: config["threads"]["train_branch"]
    resources:
        mem_mb=6000 + 2 * config["features"]["memory_mb"],
        runtime=240,
        gpu=gpus,
    params:
        settings=settings("train_branch"),
        sources=source_hashes("train_branch"),
        computing=computing("train_branch"),
        features=lambda w, input: str(Path(input.manifests[0]).parent),
        weights=lambda w, input: f"--weights {input.weights}" if input.weights else "",
        folder=lambda w, output: str(Path(output.exits).parent),
    message:
        f"{RUN}: training branch {{wildcards.k}}"
    shell:
        "python -m calex train-branch --features {params.features} --branch {wildcards.k} {params.weights}"
        " --seed {wildcards.seed} --settings {params.settings:q} {params.computing} --out {params.folder} 2>&1 | tee {log}"


# What a rule makes must be known before any job, and backbones may differ in their number of branches: a rule for
# each number, which is one for nearly every config.
BRANCH_COUNTS = sorted({len(plan.branch_numbers(config, backbone)) for backbone in config["backbones"]})

for count in BRANCH_COUNTS:

    rule:
        name:
            "train_branches" if len(BRANCH_COUNTS) == 1 else f"train_branches_{count}"
        input:
            **FEATURES,
        output:
            branches=[f"results/{CASCADE}/branch{k}.safetensors" for k in range(1, count + 1)],
            exits=[f"results/{CASCADE}/exits{k}.npz" for k in range(1, count + 1)],
        log:
            f"logs/{CASCADE}/branches.log",
        benchmark:
            f"benchmarks/{CASCADE}/branches.tsv"
        wildcard_constraints:
            method=job_settings.methods_that_train(config, joint=True),
            backbone="|".join(name for name in config["backbones"] if len(plan.branch_numbers(config, name)) == count),
        group:
            "cascade"
        conda:
            "../../environment.yml"
        threads: config["threads"]["train_branch"]
        resources:
            mem_mb=6000 + 2 * config["features"]["memory_mb"],
            runtime=720,
            gpu=gpus,
        params:
            settings=settings("train_branches"),
            sources=source_hashes("train_branches"),
            computing=computing("train_branch"),
            features=lambda w, input: str(Path(input.manifests[0]).parent),
            folder=lambda w, output: str(Path(output.exits[0]).parent),
        message:
            f"{RUN}: training all branches"
        shell:
            "python -m calex train-branches --features {params.features} --seed {wildcards.seed}"
            " --settings {params.settings:q} {params.computing}"
            " --out {params.folder} 2>&1 | tee {log}"


rule weigh_survivors:
    input:
        lambda w: exits(w, last=int(w.k) - 1),
    output:
        weights=f"results/{CASCADE}/weights{{k}}.npy",
        record=f"results/{CASCADE}/weights{{k}}.json",
    log:
        f"logs/{CASCADE}/weights{{k}}.log",
    benchmark:
        f"benchmarks/{CASCADE}/weights{{k}}.tsv"
    group:
        "cascade"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=settings("weigh_survivors"),
        sources=source_hashes("weigh_survivors"),
    message:
        f"{RUN}: weighing survivors for branch {{wildcards.k}}"
    shell:
        "python -m calex weigh-survivors --exits {input} --settings {params.settings:q} --out {output.weights} 2>&1 | tee {log}"
