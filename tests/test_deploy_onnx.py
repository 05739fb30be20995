"""ONNX files of a cascade answer as torch does, without torch; onnx, onnxscript and onnxruntime must be installed for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from small_cascades import CLASSES, NEEDS_ONNX, made

from calex.deploy import folder as folders
from calex.deploy import onnx as running
from calex.deploy.cascade import Cascade
from calex.deploy.to_onnx import exported
from calex.errors import CalexError
from calex.simulation.scores import scores

DRAW = np.random.default_rng(1)
PIXELS = (DRAW.integers(0, 256, (60, 1, 1, 3)) * 0.6 + DRAW.integers(0, 100, (60, 7, 7, 3))).astype(np.uint8)
# Exits that need each other, what is fused, gates, and exits that average.
SCORES = {"ztw": "margin", "branchwise": "confidence", "jei_dnn": "confidence", "geometric": "max_softmax"}


@pytest.fixture(scope="module", params=sorted(SCORES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cascade, Path]:
    """A cascade at whose two points images leave everywhere and at two exits, and its folder."""
    cascade = made(request.param, SCORES[request.param], np.full((2, 3, CLASSES), np.inf), seed=4)
    cascade.about["last"] = "combined" if request.param == "geometric" else "backbone"
    inputs, before = cascade.prepare(PIXELS), None
    values = [inputs]
    for k in range(3):
        said, confidence, values, before = cascade.run(k, values, before)
        cascade.sweep.thresholds[:, k] = np.quantile(scores(said, confidence)[SCORES[request.param]], 0.7) + 1e-5
    cascade.sweep.thresholds[1, 1:] = np.inf
    folder = tmp_path_factory.mktemp("onnx") / "one"
    folders.write(cascade, folder, exported(cascade))
    return cascade, folder


@pytest.fixture
def saved(pair: tuple[Cascade, Path]) -> Path:
    return pair[1]


@NEEDS_ONNX
def test_onnx_answers_as_torch_does(pair: tuple[Cascade, Path]) -> None:
    cascade, folder = pair
    other = running.read(folder, threads=1)
    for cascade.point, exits in ((0, {0, 1, 2, 3}), (1, {0, 3})):
        other.point = cascade.point
        expected, answers = cascade.classify(PIXELS), other.classify(PIXELS)
        assert answers.exit.tolist() == expected.exit.tolist() and answers.prediction.tolist() == expected.prediction.tolist()
        np.testing.assert_allclose(answers.probabilities, expected.probabilities, atol=1e-3)
        assert set(answers.exit.tolist()) == exits
        single = [other.classify(PIXELS[n : n + 1]) for n in range(10)]
        assert [int(one.exit[0]) for one in single] == answers.exit[:10].tolist()
    assert other.at(min_accuracy=0.9).point == 1
    assert len(other(other.prepare(PIXELS[:0])).exit) == 0


@NEEDS_ONNX
def test_it_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; from calex.deploy import onnx;"
        f"print(onnx.read({str(saved)!r}).classify(np.zeros((3, 7, 7, 3), np.uint8)).exit.tolist())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and len(eval(done.stdout)) == 3, done.stderr


@NEEDS_ONNX
@pytest.mark.parametrize(
    ("injury", "reason"),
    [
        (lambda f: os.truncate(f / "stage2.onnx", 700), r"stage2\.onnx: not the file that cascade\.json"),
        (lambda f: (f / "stage2.onnx").write_bytes((f / "stage1.onnx").read_bytes()), "not the file that"),
        (lambda f: (f / "prepare.onnx").unlink(), "No such file"),
    ],
)
def test_onnx_files_that_were_changed_are_refused(injury: object, reason: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "one"))
    injury(folder)  # type: ignore[operator]
    with pytest.raises((CalexError, FileNotFoundError), match=reason):
        running.read(folder)


@NEEDS_ONNX
def test_a_truncated_file_that_the_record_knows_is_one_line(saved: Path, tmp_path: Path) -> None:
    from calex.deploy.record import RECORD
    from calex.system.files import read_json, sha256, write_json

    folder = Path(shutil.copytree(saved, tmp_path / "one"))
    os.truncate(folder / "stage2.onnx", 700)
    record = read_json(folder / RECORD)
    record["files"]["stage2.onnx"] = sha256((folder / "stage2.onnx").read_bytes())
    write_json(folder / RECORD, record)
    with pytest.raises(CalexError, match=r"stage2\.onnx: onnxruntime cannot read it") as caught:
        running.read(folder)
    assert "\n" not in str(caught.value)


@NEEDS_ONNX
def test_a_cascade_without_onnx_files_says_so(tmp_path: Path) -> None:
    folders.write(made("boostnet", "entropy", np.zeros((1, 3, CLASSES))), tmp_path / "one")
    with pytest.raises(CalexError, match="exported without ONNX files"):
        running.read(tmp_path / "one")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calex.deploy.to_onnx.find_spec", lambda name: None)
    with pytest.raises(CalexError, match=r"onnx and onnxscript must be installed.*pip install -e '\.\[onnx\]'"):
        exported(made("boostnet", "entropy", np.zeros((1, 3, CLASSES))))
