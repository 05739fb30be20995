"""All files of one dataset's report, from its tables of operating points and of paired differences.

A run's description only adds what was run. Equal input gives equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import vl_convert

from calex.report.chart import picture
from calex.report.markdown import markdown
from calex.report.page import page
from calex.report.styles import curve_styles
from calex.report.tables import front_table, ours_of, sections


@dataclass(frozen=True)
class Report:
    """The page, the chart as vector and as raster picture, the fronts at their test values, the tables in Markdown."""

    html: str
    svg: str
    png: bytes
    csv: str
    md: str


def build(points: pl.DataFrame, run: dict[str, Any], paired: pl.DataFrame | None = None) -> Report:
    """Build the report of a checked table of points (see `inputs`).

    run: as `pareto` writes it; it may lack any entry, what it lacks is not shown.
    paired: as `compare` writes it; without it no curve is compared with another image by image.
    """
    backbones = sections(points, paired)
    svg = picture(points, curve_styles(points, ours_of(paired)))
    return Report(
        html=page(points, backbones, run),
        svg=svg,
        png=vl_convert.svg_to_png(svg, scale=2),
        csv=front_table(points).write_csv(),
        md=markdown(points["dataset"][0], backbones, run),
    )
