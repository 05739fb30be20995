"""What a run's description gathers: warnings, each once, the audit of the images, balanced accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calex.errors import CalexError
from calex.steps import _description

CONFIG: dict[str, Any] = {
    "seeds": [0, 1],
    "backbones": {"resnet18": {"taps": ["layer1", "layer2"]}},
    "datasets": {"photos": {"backbones": ["resnet18"], "methods": ["calexnet"]}},
    "methods": {"calexnet": {"variants": {"default": {"weighting": {"name": "survivors"}}}, "policies": ["cpm", "global"]}},
}
AUDIT = {"images": 9, "shape": [8, 8, 1], "splits": {"test": {}}, "identical": {}, "skipped": {"zip": 2}}


def write(path: Path, **record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write(tmp_path / "photos/images.json", **AUDIT, classes={"cat": [1, 2, 3], "dog": [1, 1, 1]}, warnings=["dark"])
    write(tmp_path / "photos/resnet18/backbone.json", warnings=["near chance"])
    for seed in (0, 1):
        for file in ("weights2", "cpm.calibration", "global.calibration"):
            write(tmp_path / f"photos/resnet18/calexnet/default/seed{seed}/{file}.json", warnings=[])
    return tmp_path


def test_each_warning_is_there_once_with_its_first_place_and_how_many_there_are(results: Path) -> None:
    cascades = results / "photos/resnet18/calexnet/default"
    for seed in (0, 1):
        write(cascades / f"seed{seed}/cpm.calibration.json", warnings=["few points"])
    write(cascades / "seed1/weights2.json", warnings=["few images"])
    assert _description.warnings(results, CONFIG, "photos") == [
        {"text": "dark", "where": "photos", "count": 1},
        {"text": "near chance", "where": "photos, resnet18", "count": 1},
        {"text": "few points", "where": "resnet18, calexnet, default, seed 0, policy cpm", "count": 2},
        {"text": "few images", "where": "resnet18, calexnet, default, seed 1, weights of branch 2", "count": 1},
    ]
    (cascades / "seed1/global.calibration.json").unlink()
    with pytest.raises(OSError, match=r"global\.calibration\.json"):
        _description.warnings(results, CONFIG, "photos")


def test_a_run_without_warnings_has_none(results: Path) -> None:
    write(results / "photos/images.json", **AUDIT, classes={}, warnings=[])
    write(results / "photos/resnet18/backbone.json", warnings=[])
    assert _description.warnings(results, CONFIG, "photos") == []
    write(results / "photos/resnet18/backbone.json")
    with pytest.raises(CalexError, match=r"backbone\.json: holds no 'warnings'"):
        _description.warnings(results, CONFIG, "photos")


def test_the_audit_is_there_with_the_number_of_classes(results: Path) -> None:
    assert _description.audit(results, "photos") == AUDIT | {"classes": 2}
    write(results / "photos/images.json", images=9)
    with pytest.raises(CalexError, match=r"images\.json: holds no 'shape'"):
        _description.audit(results, "photos")


def test_balanced_accuracy_by_hand() -> None:
    labels, answers = np.array([0, 0, 0, 0, 2, 2]), np.array([0, 0, 0, 1, 0, 2])
    assert _description.balanced_accuracy(answers, labels) == pytest.approx((3 / 4 + 1 / 2) / 2)
    # Always answering the majority: its share by plain accuracy, one class of two by balanced accuracy.
    assert _description.balanced_accuracy(np.zeros(6, int), labels) == 0.5
