"""The comparison with earlyon runs, where that is installed: at a tiny size, whatever the times are."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parent / "earlyon" / "compare.py"


@pytest.mark.skipif(
    not list(importlib.metadata.distributions(name="earlyon")),
    reason="earlyon is not installed: pip install --no-deps earlyon==0.3.0",
)
def test_the_comparison_runs(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("compare", FILE)
    assert spec is not None and spec.loader is not None
    compare = importlib.util.module_from_spec(spec)
    sys.modules["compare"] = compare
    spec.loader.exec_module(compare)
    ratios = compare.main(["--images", "60", "--epochs", "1", "--test-images", "24", "--rounds", "1"])
    assert set(ratios) == {"training, cached", "training and caching", "batch 1", "batch 64", "alike"}
    assert ratios["alike"] > 0.9 and min(ratios.values()) > 0
    assert capsys.readouterr().out.count(" × as fast") == 4
