"""The real workflow on a tiny config: what it makes, what an edit reruns, what it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
import zarr
from conftest import REPOSITORY, copied_repository, copied_run, planned, run_snakemake
from feature_stores import hashes

from calex import images, plugins
from calex.backbones.build import build, freeze
from calex.backbones.taps import tapping
from calex.backbones.transform import to_input
from calex.backbones.weights import read_weights
from calex.features.store import open_store, verify
from calex.simulation.points import MARKED
from calex.system.files import read_json

REPORT = "results/pareto_digits.html"
CASCADE = Path("results/digits/resnet18/calexnet/default/seed0")


def edited(tmp_path: Path, file: str, edit: str) -> Path:
    """A copy of the repository with a line appended to one of its files."""
    copy = copied_repository(tmp_path / "copy")
    path = copy / file
    path.write_text(path.read_text(encoding="utf-8") + edit, encoding="utf-8")
    return copy


def test_every_file_of_the_contract_is_made(tiny: Path) -> None:
    expected = {
        "results/digits/images.npz",
        "results/digits/images.json",
        "results/digits/resnet18/backbone.safetensors",
        "results/digits/resnet18/backbone.json",
        "results/points_digits.parquet",
        "results/digits/paired.parquet",
        *(f"results/digits/resnet18/features/{split}.json" for split in images.SPLITS),
        *(f"{CASCADE}/{name}" for k in (1, 2, 3) for name in (f"branch{k}.safetensors", f"exits{k}.npz")),
        *(f"{CASCADE}/weights{k}.{suffix}" for k in (2, 3) for suffix in ("npy", "json")),
        *(
            f"{CASCADE}/cpm_survivors.{name}"
            for name in ("thresholds.parquet", "calibration.json", "learnt.npz", "points.parquet", "exits.npz")
        ),
        *(f"results/pareto_digits.{suffix}" for suffix in ("html", "svg", "png", "csv", "md")),
    }
    assert {path for path in expected if not (tiny / path).is_file()} == set()
    partial = [path for path in tiny.rglob("*") if ".partial" in path.name]
    assert partial == []


def test_uniform_weights_need_no_chain(tiny: Path) -> None:
    assert list((tiny / "results/digits/resnet18/reference").rglob("weights*.npy")) == []


def test_a_second_run_does_nothing(tiny: Path) -> None:
    again = run_snakemake(tiny, REPORT, "--cores", "2")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_touch_reruns_nothing(tiny: Path, tmp_path: Path) -> None:
    copy = edited(tmp_path, "calex/heads/prototype.py", "")
    assert planned(run_snakemake(tiny, REPORT, "-n", repository=copy).stdout) == {}


def test_an_edited_head_reruns_its_branches_and_what_follows(tiny: Path, tmp_path: Path) -> None:
    copy = edited(tmp_path, "calex/heads/prototype.py", "\nEDITED = True\n")
    jobs = planned(run_snakemake(tiny, REPORT, "-n", repository=copy).stdout)
    assert jobs == {
        "train_branch": 6,
        "weigh_survivors": 2,
        "calibrate": 2,
        "evaluate": 4,
        "pareto": 1,
        "compare": 1,
        "report": 1,
    }


@pytest.mark.parametrize("file", ["calex/report/wording.py", "calex/report/page.html", "calex/report/template.html"])
def test_an_edited_report_reruns_only_the_report(tiny: Path, tmp_path: Path, file: str) -> None:
    edit = "\nEDITED = True\n" if file.endswith(".py") else "<!-- edited -->\n"
    jobs = planned(run_snakemake(tiny, REPORT, "-n", repository=edited(tmp_path, file, edit)).stdout)
    assert jobs == {"report": 1}


def test_an_edited_comparison_reruns_only_itself_and_the_report(tiny: Path, tmp_path: Path) -> None:
    copy = edited(tmp_path, "calex/comparison/paired.py", "\nEDITED = True\n")
    assert planned(run_snakemake(tiny, REPORT, "-n", repository=copy).stdout) == {"compare": 1, "report": 1}


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    return copied_run(tiny, tmp_path / "own")


def test_an_identical_dump_reruns_nothing_downstream(own: Path) -> None:
    features = own / "results/digits/resnet18/features"
    before, made = read_json(features / "val.json"), (features / "val.json").stat().st_mtime_ns
    again = run_snakemake(own, "results/digits/resnet18/features/val.json", "-R", "cache_features", "--cores", "2")
    assert again.returncode == 0, again.stderr[-4000:]
    assert (features / "val.json").stat().st_mtime_ns > made
    assert read_json(features / "val.json") == before
    assert planned(run_snakemake(own, REPORT, "-n").stdout) == {}


def test_a_store_deleted_behind_its_manifest_is_made_again(own: Path) -> None:
    """As soon as somebody needs it: what was made from it earlier needs it no more."""
    features = own / "results/digits/resnet18/features"
    before = hashes(features / "val.zarr")
    shutil.rmtree(features / "val.zarr")
    needed = planned(run_snakemake(own, REPORT, "-n", "-R", "train_branch").stdout)
    assert (needed["cache_features"], needed["train_branch"]) == (1, 6)
    again = run_snakemake(own, "results/digits/resnet18/features/val.zarr", "--cores", "2")
    assert again.returncode == 0, again.stderr[-4000:]
    assert "1 of 1 steps (100%) done" in again.stderr, again.stderr[-4000:]
    stamp = ".snakemake_timestamp"
    after = hashes(features / "val.zarr")
    assert {name: after[name] for name in after if name != stamp} == {name: before[name] for name in before if name != stamp}
    assert verify(features, "val") == []
    assert planned(run_snakemake(own, REPORT, "-n").stdout) == {}


def test_benchmarks_run_when_asked_for(tmp_path: Path) -> None:
    jobs = planned(run_snakemake(tmp_path, "results/benchmarks.html", "-n").stdout)
    assert jobs == {"benchmark": len(plugins.names("benchmarks")), "report_benchmarks": 1}


def test_an_edited_target_reruns_only_the_methods_that_use_it(tiny: Path, tmp_path: Path) -> None:
    copy = edited(tmp_path, "calex/targets/argmax.py", "\nEDITED = True\n")
    jobs = planned(run_snakemake(tiny, REPORT, "-n", repository=copy).stdout)
    assert jobs == {"train_branch": 3, "calibrate": 1, "evaluate": 2, "pareto": 1, "compare": 1, "report": 1}


@pytest.mark.parametrize(("key", "value"), [("min_support", 7), ("score", "max_softmax")])
def test_a_changed_policy_retrains_no_branch(tiny: Path, tmp_path: Path, key: str, value: object) -> None:
    config = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    config["policies"]["cpm_full"][key] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run_snakemake(tiny, REPORT, "-n", "--printshellcmds", config=path)
    assert planned(done.stdout) == {"calibrate": 1, "evaluate": 1, "pareto": 1, "compare": 1, "report": 1}
    # Thresholds and FLOPs follow the policy's own score.
    assert len(re.findall(r"calex (?:calibrate|evaluate) .*\"score\":\"max_softmax\"", done.stdout)) == 2 * (key == "score")


def test_the_same_config_from_another_file_reruns_nothing(tiny: Path, tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "tests/tiny.yaml", tmp_path / "mine.yaml")
    assert planned(run_snakemake(tiny, REPORT, "-n", "--config", "device=auto", config=tmp_path / "mine.yaml").stdout) == {}


def test_the_run_says_how_it_was_made(tiny: Path) -> None:
    run = read_json(tiny / "results/digits/run.json")
    assert run["command"].startswith("snakemake --cores all results/pareto_digits.html ")
    assert run["command"].endswith(f" --configfile {REPOSITORY / 'tests/tiny.yaml'}")
    assert run["threads"] == {"train_backbone": "2", "cache_features": "2", "train_branch": "1"}
    assert run["versions"]["torch"] == torch.__version__
    assert "train_branch 1" in (tiny / REPORT).read_text(encoding="utf-8")


def test_a_file_over_the_config_may_name_another_plugin(tmp_path: Path) -> None:
    """Snakemake's own merge would leave the options of the weighting below to the one above."""
    config = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    config["methods"]["calexnet"]["weighting"]["sharpness"] = 0.2
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(config))
    over = tmp_path / "over.yaml"
    over.write_text("methods: {calexnet: {weighting: {name: uniform}}}")
    done = run_snakemake(tmp_path, REPORT, "-n", "--printshellcmds", "--config", "device=cpu", config=over)
    assert done.returncode == 0, done.stderr
    jobs = planned(done.stdout)
    assert "weigh_survivors" not in jobs and jobs["train_branch"] == 6
    assert "--configfile over.yaml --config device=cpu" in done.stdout
    done = run_snakemake(tmp_path, REPORT, "-n", "--config", "device=gpu", config=over)
    assert "over.yaml + --config: device: unknown value 'gpu'" in done.stderr


@pytest.mark.parametrize("file", ["calex/heads/prototype.py", "calex/branches/branch.py"])
def test_a_syntax_error_in_the_library_is_one_line(tmp_path: Path, file: str) -> None:
    copy = edited(tmp_path, file, "\nbroken = = 1\n")
    done = run_snakemake(tmp_path, REPORT, "-n", repository=copy)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("calex: error:")]
    assert len(lines) == 1 and file in lines[0] and "correct the file" in lines[0], done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("section", "key", "value"), [("datasets.digits", "input_size", 16), ("backbones.resnet18", "network", "resnet34")]
)
def test_another_network_or_size_trains_another_backbone(
    tiny: Path, tmp_path: Path, section: str, key: str, value: object
) -> None:
    config = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    group, name = section.split(".")
    config[group][name][key] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    jobs = planned(run_snakemake(tiny, REPORT, "-n", config=tmp_path / "config.yaml").stdout)
    assert jobs["train_backbone"] == 1 and jobs["measure_taps"] == 1 and jobs["cache_features"] == 3
    assert "prepare_dataset" not in jobs


def test_other_taps_need_no_other_backbone(tiny: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    config["backbones"]["resnet18"]["taps"] = ["layer2", "layer3"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    jobs = planned(run_snakemake(tiny, REPORT, "-n", config=tmp_path / "config.yaml").stdout)
    assert "train_backbone" not in jobs and jobs["cache_features"] == 3


def test_points_follow_the_schema_and_span_the_whole_range(tiny: Path) -> None:
    points = pl.read_parquet(tiny / "results/points_digits.parquet")
    assert points.schema == pl.Schema(MARKED)
    key = ["dataset", "backbone", "method", "variant", "policy", "seed", "point", "split"]
    assert points.select(key).is_duplicated().sum() == 0
    assert points.null_count().sum_horizontal().item() == 0
    assert set(points["policy"]) == {"none", "oracle", "clairvoyant", "cpm_survivors", "cpm_full"}
    swept = points.filter(pl.col("policy").str.starts_with("cpm"))
    for _, rows in swept.group_by("method", "split"):
        assert rows["flops_fraction"].min() < 0.5
        assert rows["flops_fraction"].max() > 0.9
    plain = points.filter(pl.col("method") == "backbone")
    assert plain["flops_fraction"].to_list() == [1.0, 1.0]
    # The last point lets nobody leave: the backbone's accuracy, at its cost and that of every declined head.
    last = swept.filter((pl.col("point") == pl.col("point").max()) & (pl.col("split") == "test"))
    assert set(last["accuracy"]) == set(plain.filter(pl.col("split") == "test")["accuracy"])
    assert (last["flops_fraction"] > 1).all()


def test_the_plain_backbone_is_as_accurate_from_the_cache_as_when_it_was_trained(tiny: Path) -> None:
    about = read_json(tiny / "results/digits/resnet18/backbone.json")
    points = pl.read_parquet(tiny / "results/points_digits.parquet").filter(pl.col("method") == "backbone")
    for split in ("val", "test"):
        assert points.filter(pl.col("split") == split)["accuracy"].item() == about["accuracy"][split]


@pytest.mark.parametrize("split", images.SPLITS)
def test_the_store_holds_what_a_direct_forward_pass_gives(tiny: Path, split: str) -> None:
    folder = tiny / "results/digits/resnet18"
    dataset, about = images.load(tiny / "results/digits/images.npz"), read_json(folder / "backbone.json")
    group = zarr.open(folder / "features" / f"{split}.zarr", mode="r")  # plain Zarr, nothing of ours
    index, labels = group["index"][:], group["labels"][:]
    assert sorted(index) == dataset.indices(split).tolist()
    np.testing.assert_array_equal(labels, dataset.labels[index])
    np.testing.assert_allclose(np.exp(group["log_softmax"][:]).sum(axis=2), 1, atol=1e-5)

    model = build("resnet18", "cifar", 10)
    read_weights(model, folder / "backbone.safetensors")
    freeze(model)
    with tapping(model, ["layer1", "layer2", "layer3"], 4) as outputs, torch.inference_mode():
        logits = model(to_input(dataset.images[index], **about["transform"], device=torch.device("cpu")))
    for k, tap in enumerate(outputs):
        # float16 keeps 11 bits; the rest is float32 summed in another order.
        np.testing.assert_allclose(group[f"tap{k}"][0], tap.numpy(), rtol=2**-11 + 1e-4, atol=1e-4)
    np.testing.assert_allclose(group["log_softmax"][0], logits.log_softmax(1).numpy(), atol=1e-4)
    assert verify(folder / "features", split) == []


def test_training_views_differ_and_the_first_is_the_image_itself(tiny: Path) -> None:
    store = open_store(tiny / "results/digits/resnet18/features", "train")
    assert store.layout.views == 2
    first, second = store.tap(0)
    assert not np.array_equal(first, second)


# One of each part that checks a config: names, files, the schema. The others are tried without Snakemake (test_config.py).
REFUSED = {
    "a misspelt method": (("datasets", "digits", "methods"), ["calexnett"], "did you mean 'calexnet'"),
    "a missing checkpoint": (("backbones", "resnet18", "checkpoint"), "no/such.pt", "no such file 'no/such.pt'"),
    "a value of the wrong type": (("seeds",), ["zero"], "seeds.0: expected a whole number, got 'zero'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_config_gets_one_line_before_any_job(tmp_path: Path, what: str) -> None:
    path, value, said = REFUSED[what]
    config = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    block = config
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = value
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    done = run_snakemake(tmp_path, REPORT, "--cores", "1", config=tmp_path / "bad.yaml")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(lines) == 1, done.stderr
    assert str(tmp_path / "bad.yaml") in lines[0]
    assert said in lines[0]
    assert not (tmp_path / "results").exists()


def test_a_damaged_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("seeds: [0, 1\nx: {")
    done = run_snakemake(tmp_path, REPORT, "--cores", "1")
    assert done.returncode != 0
    assert "config/config.yaml: not valid YAML" in done.stderr


def test_an_unknown_dataset_gets_its_near_miss(tmp_path: Path) -> None:
    done = run_snakemake(tmp_path, "results/pareto_digitz.html", "-n")
    assert done.returncode != 0
    assert "unknown dataset, did you mean 'digits'?" in done.stderr


def test_a_tap_that_does_not_exist_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    config = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    config["backbones"]["resnet18"]["taps"] = ["layer1", "layer9"]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    done = run_snakemake(tmp_path, REPORT, "--cores", "2", config=tmp_path / "bad.yaml")
    assert done.returncode != 0
    assert (
        "calex measure-taps: error: taps: the network has no module 'layer9', did you mean 'layer" in done.stdout + done.stderr
    )
    made = {path.name for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert made == {"images.npz", "images.json"}
