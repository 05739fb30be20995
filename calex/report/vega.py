"""Charts as Vega-Lite specs and as SVG pictures, with one look, and to the same bytes for equal input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def spec(
    charts: Sequence[alt.VConcatChart | alt.LayerChart | alt.FacetChart], background: str = "white", columns: int = 4
) -> dict[str, Any]:
    """Put the charts under one another as one Vega-Lite spec, with so many columns in their legends."""
    page = (
        charts[0]
        if len(charts) == 1
        else alt.vconcat(*charts, spacing=40).resolve_scale(color="independent", shape="independent", strokeDash="independent")
    )
    return number_views(
        page.configure(
            background=background,
            padding=4 if background == "transparent" else 20,
            font=FONT,
            view=alt.ViewConfig(stroke=None),
            axis=alt.AxisConfig(
                labelColor="#565e68",
                titleColor="#1d2127",
                domainColor="#aab1ba",
                tickColor="#aab1ba",
                gridColor="#e7eaee",
                labelFontSize=12,
                titleFontSize=12.5,
                titleFontWeight="normal",
                titlePadding=8,
            ),
            legend=alt.LegendConfig(
                labelFontSize=13, labelColor="#1d2127", symbolSize=90, columnPadding=18, orient="top", columns=columns
            ),
            text=alt.MarkConfig(fontSize=12),
            title=alt.TitleConfig(
                anchor="start",
                fontSize=15,
                fontWeight="bold",
                color="#1d2127",
                offset=14,
                subtitleColor="#565e68",
                subtitleFontSize=12.5,
                subtitlePadding=5,
            ),
        ).to_dict()
    )


def number_views(spec: dict[str, Any]) -> dict[str, Any]:
    """Name a spec's views by their place: Altair counts them per process, and equal input must give equal bytes."""
    numbers: dict[str, str] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: rename(value) if key == "name" else walk(value) for key, value in node.items()}
        return [walk(value) for value in node] if isinstance(node, list) else node

    def rename(name: Any) -> Any:
        if isinstance(name, str) and name.startswith("view_"):
            return numbers.setdefault(name, f"view_{len(numbers)}")
        return name

    data = spec.pop("datasets", {})
    renamed: dict[str, Any] = walk(spec)
    for param in renamed.get("params", []):
        if "views" in param:
            param["views"] = [numbers.get(view, view) for view in param["views"]]
    return {**renamed, "datasets": data}


def svg(spec: dict[str, Any]) -> str:
    """Draw a spec."""
    return renumber_clip_paths(merge_clip_paths(vl_convert.vegalite_to_svg(spec)))


def merge_clip_paths(svg: str) -> str:
    """Put one clip path around the lines of a layer: Vega clips each line, and each clip takes a moment to draw."""
    own = r'(class="mark-(?:line|area) role-mark [^"]*")( clip-path="[^"]*")'
    layer = r'(<g class="mark-group role-scope [^"]*_pathgroup")'
    return re.sub(own, r"\1", re.sub(rf'{layer}(?=(?:(?!class="mark-(?:line|area)).)*{own})', r"\1\3", svg, flags=re.DOTALL))


def renumber_clip_paths(svg: str) -> str:
    """Renumber the clip paths of a picture from 0: Vega counts them per process, whatever it drew before."""
    numbers: dict[str, int] = {}
    return re.sub(r"\bclip\d+\b", lambda match: f"clip{numbers.setdefault(match[0], len(numbers))}", svg)
