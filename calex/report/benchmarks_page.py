"""The page of the benchmarks, which stands alone, and the same table in Markdown, from the files that they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from calex.errors import CalexError
from calex.report.formatting import counted, joined
from calex.report.styles import COLOURS, GREY
from calex.report.template import template
from calex.report.vega import spec
from calex.system.files import read_json

# What each benchmark measures, in the order of a run; others follow by name.
TITLES = {
    "dump": "Caching over a bare forward pass",
    "training": "Training from the cache over running the backbone again",
    "reading": "Streaming a store",
    "memory": "Memory of a streaming epoch",
    "busy": "Beside a process that keeps one core busy",
    "latency": "A cascade's speed-up over what its FLOPs promise",
}
REQUIRED = {"benchmark", "rows", "repeats", "scale", "threads", "device", "processor", "versions"}
COLUMNS = ("name", "ratio", "low", "high", "limit", "at_most", "met", "detail")


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """Results of `benchmark`, in the order of `TITLES`; a CalexError for a file that holds none."""
    results = []
    for path in paths:
        result = read_json(path)
        rows = result.get("rows") if isinstance(result, dict) else None
        if not isinstance(rows, list) or REQUIRED - set(result) or any(set(COLUMNS) - set(row) for row in rows):
            raise CalexError(f"{path}: not a result of `python -m calex benchmark`; measure it again")
        results.append(result)
    order = [*TITLES, *sorted(result["benchmark"] for result in results if result["benchmark"] not in TITLES)]
    return sorted(results, key=lambda result: order.index(result["benchmark"]))


def page(results: list[dict[str, Any]], command: str) -> str:
    """Write the page as HTML, with everything it needs inside."""
    return template("benchmarks_page.html").render(
        results=[result | {"title": title(result)} for result in results],
        verdict=verdict(results),
        machines=machines(results),
        spec=spec([chart(results)], background="transparent") if limited(results) else None,
        caveats=caveats(results),
        command=command,
        number=number,
        bound=bound,
        outcome=outcome,
    )


def markdown(results: list[dict[str, Any]], command: str) -> str:
    """Write the page's table for pages that are written elsewhere."""
    lines = [verdict(results), "", "| | ratio | range | limit | met? | medians |", "|---|---|---|---|---|---|"]
    for result in results:
        for row in result["rows"]:
            spread = f"{number(row['low'])} – {number(row['high'])}"
            met = outcome(row).replace("missed", "**missed**")
            lines.append(f"| {row['name']} | {number(row['ratio'])} | {spread} | {bound(row)} | {met} | {row['detail']} |")
    lines += [f"| {title(result)} | skipped | | | | {result['skipped']} |" for result in results if result.get("skipped")]
    return "\n".join([*lines, "", *caveats(results), *machines(results), f"Made by `{command}`."]) + "\n"


def title(result: dict[str, Any]) -> str:
    """Name what a benchmark measures; by its name if that is unknown."""
    return TITLES.get(result["benchmark"], result["benchmark"])


def limited(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that have a limit."""
    return [row for result in results for row in result["rows"] if row["limit"] is not None]


def verdict(results: list[dict[str, Any]]) -> str:
    """How many limits are met, and which are not."""
    rows = limited(results)
    missed = [row["name"] for row in rows if not row["met"]]
    if not rows:
        return "Nothing was measured that has a limit."
    if not missed:
        return f"All of {counted(len(rows), 'limit')} met."
    return f"{len(rows) - len(missed)} of {counted(len(rows), 'limit')} met. Missed: {'; '.join(missed)}."


def caveats(results: list[dict[str, Any]]) -> list[str]:
    """List what a reader must know before believing a number."""
    short = [result["benchmark"] for result in results if result["scale"] < 1]
    return [f"A short run ({joined(short)} at less than the usual size): its limits say nothing."] if short else []


def machines(results: list[dict[str, Any]]) -> list[str]:
    """Write a line for each machine and set of versions: usually one."""
    lines: dict[str, list[str]] = {}
    for result in results:
        hardware = result["processor"] + (f", {result['device']}" if result["device"] != result["processor"] else "")
        versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
        rounds = f"median and range of {counted(result['repeats'], 'round')}, {counted(result['threads'], 'thread')}"
        lines.setdefault(f"{hardware}; {versions}; {rounds}.", []).append(result["benchmark"])
    return [line if len(lines) == 1 else f"{joined(names)}: {line}" for line, names in lines.items()]


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bound(row: dict[str, Any]) -> str:
    """`≤ 1.15`, or nothing for a ratio without a limit."""
    return "" if row["limit"] is None else f"{'≤' if row['at_most'] else '≥'} {row['limit']:g}"


def outcome(row: dict[str, Any]) -> str:
    """`met`, `missed`, or nothing for a ratio without a limit."""
    return {None: "", True: "met", False: "missed"}[row["met"]]


def chart(results: list[dict[str, Any]]) -> alt.LayerChart | alt.FacetChart:
    """Draw a line for each limit: how many times better than its limit asks a ratio is, its range, and 1, where it just holds."""
    names, best, low, high, met = [], [], [], [], []
    for row in limited(results):
        better = sorted(
            (row["limit"] / value if row["at_most"] else value / row["limit"]) for value in (row["low"], row["high"])
        )
        names.append(row["name"])
        best.append(row["limit"] / row["ratio"] if row["at_most"] else row["ratio"] / row["limit"])
        low.append(better[0])
        high.append(better[1])
        met.append(outcome(row))
    data = alt.Chart(pl.DataFrame({"name": names, "best": best, "low": low, "high": high, "met": met}))
    scale = alt.Scale(type="log", domain=[min(0.8, *low) / 1.05, max(1.3, *high) * 1.05], nice=False)
    axis = alt.Axis(title="times better than its limit asks (logarithmic)", grid=True, tickCount=5, format="~g")

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=scale, axis=axis)

    y = alt.Y("name:N", sort=names, axis=None)
    colour = alt.Color("met:N", scale=alt.Scale(domain=["met", "missed"], range=[COLOURS[2], COLOURS[0]]), legend=None)
    shape = alt.Shape("met:N", scale=alt.Scale(domain=["met", "missed"], range=["circle", "cross"]), legend=None)
    limit = alt.Chart(pl.DataFrame({"at": [1.0]})).mark_rule(stroke=GREY, strokeDash=[4, 4]).encode(x("at"))
    tooltip = [alt.Tooltip("name:N", title="ratio"), alt.Tooltip("best:Q", title="times better", format=".3g")]
    return alt.layer(
        limit,
        data.mark_rule(strokeWidth=2, yOffset=8).encode(x("low"), alt.X2("high"), y, colour),
        data.mark_point(filled=True, size=80, yOffset=8, opacity=1).encode(x("best"), y, colour, shape, tooltip=tooltip),
        # Above its line and from the left edge, so that a long name needs no room beside the chart.
        data.mark_text(align="left", yOffset=-8, fill=GREY).encode(alt.XValue(0), y, alt.Text("name:N")),
    ).properties(height=alt.Step(40), width=760)
