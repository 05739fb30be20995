"""A cascade's folder: what is written is what is read, anywhere; what was changed is refused; what was killed is not there."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from safetensors.torch import load_file, save_file
from small_cascades import CLASSES, METHODS, Small, made

import calex
from calex.__main__ import main
from calex.deploy import folder as folders
from calex.deploy.card import card
from calex.deploy.cascade import Cascade
from calex.deploy.record import FORMAT, UPGRADES, read_record
from calex.errors import CalexError
from calex.system.files import sha256

THRESHOLDS = np.random.default_rng(0).choice([-np.inf, 0.3, 0.5, 0.7, np.inf], size=(3, 3, CLASSES))
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 7, 7, 3), dtype=np.uint8)
NETWORK = "small_network:build"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network's own module, and a saved cascade in `saved`."""
    place = tmp_path_factory.mktemp("files")
    source = (REPOSITORY / "tests/small_cascades.py").read_text()
    body = source[source.index("class Small") : source.index("def block")]
    (place / "small_network.py").write_text(
        f"import torch\nfrom torch import nn\n\nCLASSES = {CLASSES}\n\n\n{body}def build(classes):\n    return Small()\n"
    )
    folders.write(named(made("branchwise", "margin", THRESHOLDS)), place / "saved")
    return place


def named(cascade: Cascade) -> Cascade:
    """The cascade, of a network that can be built from its name."""
    cascade.about["network"] = {"name": NETWORK, "stem": "imagenet", "sources": {}}
    cascade.about["made"]["images"] = {"val": 200, "test": 100}
    return cascade


@pytest.fixture
def saved(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.path", [str(place), *sys.path])
    return Path(shutil.copytree(place / "saved", tmp_path / "saved"))


def same(one: Any, other: Any) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_saved_cascade_is_the_same_cascade(method: str, tmp_path: Path) -> None:
    cascade = made(method, "entropy", THRESHOLDS)
    cascade.point = 1
    folders.write(cascade, tmp_path / "deep" / "cascade")
    loaded = calex.load(tmp_path / "deep" / "cascade", network=Small())
    assert loaded.point == 1 and loaded.classes == list("abcd") and loaded.costs == cascade.costs
    for loaded.point in cascade.point, 0, 2:
        cascade.point = loaded.point
        same(loaded.classify(PIXELS), cascade.classify(PIXELS))
    assert sorted(os.listdir(tmp_path / "deep" / "cascade")) == ["README.md", "cascade.json", "weights.safetensors"]


def test_another_process_answers_the_same(saved: Path) -> None:
    code = (
        f"import calex, numpy as np; c = calex.load({str(saved)!r});"
        "p = np.random.default_rng(1).integers(0, 256, (40, 7, 7, 3), dtype=np.uint8); a = c.classify(p);"
        "print([a.prediction.tolist(), a.exit.tolist()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    answers = calex.load(saved).classify(PIXELS)
    assert done.returncode == 0 and json.loads(done.stdout) == [answers.prediction.tolist(), answers.exit.tolist()], done.stderr
    assert len(set(answers.exit.tolist())) > 1


def test_the_page_says_what_it_is_worth(saved: Path) -> None:
    page = (saved / "README.md").read_text(encoding="utf-8")
    assert "| validation (200) | 20.0% | 15.0–26.1% | 90.0% | 20% |" in page
    assert "| 4 | the whole network | 25.0% | 108% |" in page
    assert "python -m calex predict" in page and f"format {FORMAT}" in page
    both = card(read_record(saved) | {"last": "combined"}, saved)
    assert "a hard one by the whole network and the last branch together." in both
    assert "| 4 | the whole network and the last branch together | 25.0% | 108% |" in both


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the weights' file and have the record agree."""
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")
    edited(
        folder,
        lambda record: record["files"].update({"weights.safetensors": sha256((folder / "weights.safetensors").read_bytes())}),
    )


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((folder / "cascade.json").read_text())
    change(record)
    (folder / "cascade.json").write_text(json.dumps(record))


def first(name: str) -> Callable[[Path], None]:
    """Put a NaN into the first place of a tensor."""
    return lambda folder: rewritten(folder, lambda tensors: tensors[name].view(-1)[:1].fill_(float("nan")))


INJURIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another shape": (
        lambda f: rewritten(f, lambda t: t.update({"network.answer.bias": torch.zeros(3)})),
        r"answer\.bias is not as in the network",
    ),
    "a tensor less": (
        lambda f: rewritten(f, lambda t: t.pop("branches.branches.0.classifier.bias")),
        r"classifier\.bias is not as in",
    ),
    "a tensor more": (
        lambda f: rewritten(f, lambda t: t.update({"more": torch.zeros(1)})),
        "holds more, which is no part of a cascade",
    ),
    "a threshold that is no number": (first("thresholds"), "a threshold is not a number"),
    "fewer thresholds": (
        lambda f: rewritten(f, lambda t: t.update(thresholds=t["thresholds"][1:])),
        r"thresholds are float64 \(2, 3, 4\), not float64 \(3, 3, 4\)",
    ),
    "no thresholds": (lambda f: rewritten(f, lambda t: t.pop("thresholds")), r"thresholds are float64 \(0,\)"),
    "weights of another": (
        lambda f: save_file({"a": torch.zeros(1)}, f / "weights.safetensors"),
        "not the file that cascade.json beside it describes",
    ),
    "truncated weights": (lambda f: os.truncate(f / "weights.safetensors", 500), "not the file that cascade.json"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "No such file"),
    "damaged weights": (
        lambda f: (
            (f / "weights.safetensors").write_bytes(b"no"),
            edited(f, lambda r: r["files"].update({"weights.safetensors": sha256(b"no")})),
        ),
        "damaged",
    ),
    "a path outside": (
        lambda f: edited(f, lambda r: r["files"].update({"../../secret": "0"})),
        r"files names '../../secret', which is no file of a cascade",
    ),
    "a newer format": (
        lambda f: edited(f, lambda r: r.update(format=99, calex="7.0")),
        r"of format 99, by calex 7\.0, and this calex reads up to 3; upgrade",
    ),
    "an older format": (
        lambda f: edited(f, lambda r: r.update(format=0)),
        "of format 0, by calex .*, which is no longer read; export it again",
    ),
    "no format": (lambda f: edited(f, lambda r: r.pop("format")), "holds no 'format'"),
    "no JSON": (lambda f: (f / "cascade.json").write_text("{"), "not valid JSON"),
    "no record": (lambda f: (f / "cascade.json").unlink(), r"no cascade, it holds no cascade\.json"),
    "a key less": (lambda f: edited(f, lambda r: r.pop("taps")), "'taps' is a required property"),
    "a tap more": (lambda f: edited(f, lambda r: r["taps"].append("answer")), "has 3 entries and not 4"),
    "another tap": (lambda f: edited(f, lambda r: r["taps"].__setitem__(0, "six")), "no module 'six'"),
    "no such point": (lambda f: edited(f, lambda r: r.update(point=3)), r"point 3 is none of 0\.\.2"),
    "a cost that is no number": (
        lambda f: edited(f, lambda r: r["costs"].update(backbone=float("nan"))),
        "a number that is not finite",
    ),
    "an unknown head": (
        lambda f: edited(f, lambda r: r["method"]["head"].update(name="prototipe")),
        "did you mean 'prototype'",
    ),
    "another head": (
        lambda f: edited(f, lambda r: r["method"].update(head={"name": "boostnet", "filters": 4})),
        "is not as in the network",
    ),
    "an unknown score": (lambda f: edited(f, lambda r: r.update(score="luck")), "score: 'luck' is not one of"),
    "an unknown network": (lambda f: edited(f, lambda r: r["network"].update(name="resnet19")), "did you mean 'resnet1"),
    "a network that has no name": (
        lambda f: edited(f, lambda r: r["network"].update(name="given")),
        r"give one of the same kind, calex\.load\(…, network=…\)",
    ),
}


@pytest.mark.parametrize("injury", sorted(INJURIES))
def test_what_was_changed_is_refused_in_one_line(injury: str, saved: Path) -> None:
    injure, reason = INJURIES[injury]
    injure(saved)
    with pytest.raises((CalexError, FileNotFoundError), match=reason) as caught:
        calex.load(saved)
    assert "\n" not in str(caught.value)


def test_the_command_line_says_it_in_one_line_too(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "weights.safetensors").unlink()
    assert main(["predict", str(saved), str(saved)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_older_format_is_brought_up_to_this_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: a format that never was, and the first."""
    monkeypatch.setitem(UPGRADES, 0, lambda record: record | {"classes": record.pop("names"), "format": 1})
    older = {"size": 7, "fit": "crop", "grey": False, "white": 4095.0}
    edited(saved, lambda record: record.update(format=0, names=record.pop("classes"), picture=older))
    cascade = calex.load(saved)
    assert cascade.classes == list("abcd") and cascade.about["picture"]["whites"] == {"integer": 4095.0, "float": 4095.0}


def test_another_source_of_the_network_is_told(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(saved, lambda record: record["network"].update(sources={"small_network.py": "0"}))
    calex.load(saved)
    assert "warning: " in (told := capsys.readouterr().err) and "is not what it was" in told


def test_only_a_cascade_is_replaced(tmp_path: Path) -> None:
    cascade = made("branchwise", "margin", THRESHOLDS)
    (tmp_path / "photos").mkdir()
    with pytest.raises(CalexError, match="exists and is no cascade"):
        folders.write(cascade, tmp_path / "photos")
    folders.write(cascade, tmp_path / "one")
    cascade.point = 2
    folders.write(cascade, tmp_path / "one")
    assert calex.load(tmp_path / "one", network=Small()).point == 2
    assert sorted(os.listdir(tmp_path)) == ["one", "photos"]


@pytest.mark.parametrize("moment", ["write_json", "sha256", "os.replace"])
def test_what_fails_leaves_what_was_there(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cascade = made("branchwise", "margin", THRESHOLDS)
    folders.write(cascade, tmp_path / "one")
    replace = os.replace

    def fail(*arguments: Any) -> None:
        if moment != "os.replace" or (str(arguments[1]).endswith("/one") and str(arguments[0]).endswith("partial")):
            raise OSError(28, "No space left on device", "one")
        replace(*arguments)

    monkeypatch.setattr("os.replace" if moment == "os.replace" else f"calex.deploy.folder.{moment}", fail)
    cascade.point = 1
    with pytest.raises((CalexError, OSError), match=r"(?i)no space"):
        folders.write(cascade, tmp_path / "one")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["one"] and calex.load(tmp_path / "one", network=Small()).point == 0


def test_a_kill_leaves_nothing_half_written(place: Path, tmp_path: Path) -> None:
    """Whatever stands under the final name is whole; a writer that goes on for ever is killed again and again."""
    code = (
        f"import calex; from calex.deploy import folder; c = calex.load({str(place / 'saved')!r}); print('go', flush=True)\n"
        f"while True: folder.write(c, {str(tmp_path / 'cascade')!r})"
    )
    for seconds in (0.005, 0.05):
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{place}"}
        process = subprocess.Popen([sys.executable, "-c", code], cwd=place, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"go\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "cascade").exists():
            same(
                calex.load(tmp_path / "cascade", network=Small()).classify(PIXELS),
                calex.load(place / "saved", network=Small()).classify(PIXELS),
            )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, pixels in enumerate(PIXELS[:5]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.fromarray(PIXELS[5]).resize((90, 30)).convert("L").save(folder / "more" / "grey.tif")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


def test_pictures_are_classified_and_what_is_none_is_told(
    saved: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(saved), str(photos), "--batch-size", "2"]) == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(printed.out.splitlines()))
    answers = calex.load(saved).classify(PIXELS[:5])
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png", "grey.tif"]
    assert [row["prediction"] for row in rows[:5]] == ["abcd"[label] for label in answers.prediction]
    assert [int(row["exit"]) - 1 for row in rows[:5]] == answers.exit.tolist()
    np.testing.assert_allclose([float(row["score"]) for row in rows[:5]], answers.score, atol=1e-4)
    np.testing.assert_allclose([float(row["probability"]) for row in rows[:5]], answers.probabilities.amax(1), atol=1e-4)
    assert "broken.jpg: not a readable image" in printed.err
    assert "predict: 6 pictures in" in printed.err and "1 could not be read; left at exit 1 " in printed.err


def test_answers_move_along_the_curve_and_go_to_a_file(saved: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    assert (
        main(["predict", str(saved), str(photos / "0.png"), str(photos / "1.png"), "--min-accuracy", "0.9", "--out", str(out)])
        == 0
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = calex.load(saved).at(min_accuracy=0.9).classify(PIXELS[:2])
    assert [row["exit"] - 1 for row in rows] == expected.exit.tolist()
    assert [list(row["probabilities"]) for row in rows] == [list("abcd")] * 2
    assert [round(sum(row["probabilities"].values()), 4) for row in rows] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.png"], "nowhere.png: no such file or folder"),
        (["broken.jpg"], "none of 1 files could be read as a picture"),
        (["0.png", "--max-flops", "0.01"], "no operating point has max_flops 0.01"),
        (["0.png", "--batch-size", "0"], "--batch-size: 0 is less than 1"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    arguments: list[str],
    reason: str,
    saved: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos)
    assert main(["predict", str(saved), *arguments]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
