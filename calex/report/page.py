"""The report's page: HTML that stands alone, with everything it needs inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import yaml

from calex.comparison.pareto import deployable
from calex.report import wording
from calex.report.calibrations import promise_rows, score_table
from calex.report.chart import chart
from calex.report.formatting import interval
from calex.report.styles import DASHES, exit_colours, highlighted
from calex.report.tables import Section, branch_count, tried_settings
from calex.report.template import template
from calex.report.vega import spec


def page(points: pl.DataFrame, sections: Sequence[Section], run: dict[str, Any]) -> str:
    """Write the page of a checked table of points. `run` may lack any entry: what it lacks is not shown."""
    return template("page.html").render(
        dashes=[" ".join(map(str, dash)) for dash in DASHES],
        interval=interval,
        dataset=points["dataset"][0],
        sections=[shown(section, run) for section in sections],
        tried=tried_settings(points),
        seeds=deployable(points)["seed"].unique().sort().to_list(),
        images=dict(points.group_by("split").agg(pl.col("n").max()).iter_rows()),
        exit_colours=exit_colours(branch_count(points)),
        wording=wording,
        majority=run.get("audit", {}).get("splits", {}).get("test", {}).get("majority"),
        run=run,
        config=yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True, width=100) if run.get("config") else "",
    )


def bounded(points: pl.DataFrame, run: dict[str, Any]) -> pl.DataFrame:
    """Keep what the clairvoyant bounds: it knows the backbone's answer at the end, and not the last branch's beside it."""
    policies = run.get("config", {}).get("policies", {})
    return points.filter(~pl.col("policy").is_in([name for name, block in policies.items() if block.get("last") == "combined"]))


def shown(section: Section, run: dict[str, Any]) -> dict[str, Any]:
    """Return what the template shows of one backbone."""
    methods, under_the_clairvoyant = deployable(section.points), bounded(section.points, run)
    return {
        "backbone": section.backbone,
        "about": run.get("backbones", {}).get(section.backbone, {}),
        "fingerprint": run.get("fingerprints", {}).get("backbones", {}).get(section.backbone),
        "backbone_accuracy": section.backbone_accuracy,
        "headline": wording.headline(section.band, section.backbone_accuracy),
        "spec": spec([chart(section.points, section.styles)], background="transparent"),
        "has_oracle": bool((section.points["policy"] == "oracle").any()),
        "has_ceiling": bool((section.points["policy"] == "clairvoyant").any()),
        "has_combined": len(under_the_clairvoyant) < len(section.points),
        "scores": score_table(
            [row for row in run.get("scores", []) if row["backbone"] == section.backbone], under_the_clairvoyant
        ),
        "promises": promise_rows([row for row in run.get("promises", []) if row["backbone"] == section.backbone]),
        "latency": run.get("latency", {}).get(section.backbone),
        "highlighted": highlighted(methods, section.styles),
        "longest": max(map(len, section.styles["method"])),
        "rows": section.rows,
        "exit_shares": section.exit_shares,
        "ours": section.ours,
        "budgets": section.budgets,
        "claims": section.claims,
    }
