"""The page in a real browser without a network: it draws, it is silent, and it asks nobody for anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from synthetic_points import TWO, operating_points
from synthetic_points import page as page_of

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page: the document at rest, the lines on its console, the addresses it asked for."""

    document: str
    console: list[str]
    requests: list[str]


def visit(page: Path, scratch: Path, width: int = 1280) -> Visit:
    netlog = scratch / "net.json"
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={scratch / 'profile'}", f"--window-size={width},900",
        "--virtual-time-budget=20000", "--enable-logging=stderr", f"--log-net-log={netlog}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert "</html>" in done.stdout, f"the browser showed nothing: {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Visit(done.stdout, console, asked_by_the_page(json.loads(netlog.read_text(encoding="utf-8"))))


def asked_by_the_page(netlog: dict) -> list[str]:
    """Addresses outside the page. A browser's own errands (updates, the time) have no page as their origin."""
    started = netlog["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in netlog["events"] if event["type"] == started and "url" in event.get("params", {})]
    return [
        job["url"]
        for job in jobs
        if not job["url"].startswith(("file:", "data:", "blob:")) and job.get("initiator") != "not an origin"
    ]


def appended(page: str, script: str) -> str:
    """`page` with `script` at its very end. (Scripts inside the page mention `</body>` as well.)"""
    head, end = page.rsplit("</body>", 1)
    return f"{head}{script}</body>{end}"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return page_of(operating_points(TWO, backbones=("resnet18", "resnet50")))


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_draws_in_silence_and_without_a_network(page, tmp_path, width):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    seen = visit(tmp_path / "report.html", tmp_path, width)
    assert seen.console == []
    assert seen.requests == []
    charts = re.findall(r'<div class="chart[^"]*vega-embed[^>]*data-drawn="yes"', seen.document)
    assert len(charts) == 2
    assert seen.document.count('class="marks"') == 2
    # Two methods on each: their lines and their marks are there, not only empty axes.
    assert len(re.findall(r'aria-roledescription="line mark"', seen.document)) >= 4
    assert len(re.findall(r'<path transform="translate', seen.document)) > 200


def test_singling_out_a_method_and_moving_the_frame(page, tmp_path):
    """What a hand does: choose a name in the legend, draw a new frame over the cheap half of the lower chart."""
    hand = """<script>
    const rest = (ms) => new Promise((done) => setTimeout(done, ms));
    const send = (target, kind, x, y) => target.dispatchEvent(new PointerEvent(kind, { pointerType: "touch", pointerId: 1,
      isPrimary: true, bubbles: true, cancelable: true, view: window, clientX: x, clientY: y, buttons: 1 }));
    (async () => {
      const box = document.querySelector(".chart");
      while (box.dataset.drawn !== "yes") await rest(50);
      const ticks = () => [...box.querySelectorAll(".concat_0_group .role-axis-label text")].map((t) => t.textContent);
      const faint = () => box.querySelectorAll('.role-legend-label text:not([opacity="1"])').length;
      const state = () => ({ ticks: ticks(), faint: faint() });
      const states = { before: state() };
      box.querySelector(".role-legend-label text").dispatchEvent(new MouseEvent("click", { bubbles: true, view: window }));
      await rest(300);
      states.singled = state();
      const ground = box.querySelector(".concat_1_group > g > path.background");
      const r = ground.getBoundingClientRect();
      send(ground, "pointerdown", r.x + 0.02 * r.width, r.y + 0.9 * r.height);
      for (const f of [0.1, 0.2, 0.3]) send(window, "pointermove", r.x + f * r.width, r.y + 0.2 * r.height);
      send(window, "pointerup", r.x + 0.3 * r.width, r.y + 0.2 * r.height);
      await rest(300);
      states.moved = state();
      document.querySelector("[data-reset]").click();
      await rest(800);
      states.after = state();
      document.body.dataset.hand = JSON.stringify(states);
    })();
    </script>"""
    (tmp_path / "report.html").write_text(appended(page, hand), encoding="utf-8")
    seen = visit(tmp_path / "report.html", tmp_path)
    assert seen.console == []
    found = re.search(r'data-hand="([^"]*)"', seen.document)
    assert found, "the hand did not finish"
    states = json.loads(unescape(found[1]))
    assert (states["before"]["faint"], states["singled"]["faint"]) == (0, 1)
    shares = {when: [float(tick.rstrip("%")) for tick in states[when]["ticks"]] for when in states}
    assert {30, 60, 90, 100} <= set(shares["before"])
    # The frame covered the cheap third and the middle of the accuracies, and only that is left.
    assert all(20 < share < 60 or 75 < share < 98 for share in shares["moved"]), shares["moved"]
    assert any(80 < share < 90 for share in shares["moved"]), shares["moved"]
    assert states["after"] == states["before"]


def test_a_page_that_asks_for_a_script_is_caught(tmp_path):
    """The check above can fail: a page with a script elsewhere and a broken one of its own is noticed twice."""
    bad = "<html><body><script src='https://example.org/lost.js'></script><script>lost.call()</script></body></html>"
    (tmp_path / "bad.html").write_text(bad, encoding="utf-8")
    seen = visit(tmp_path / "bad.html", tmp_path)
    assert seen.requests == ["https://example.org/lost.js"]
    assert any("lost is not defined" in line for line in seen.console)


def test_the_report_forbids_what_it_does_not_need(page, tmp_path):
    """Even if a script elsewhere were slipped into the page, the browser would not fetch it, and would say so."""
    spoilt = appended(page, "<script src='https://example.org/lost.js'></script>")
    (tmp_path / "report.html").write_text(spoilt, encoding="utf-8")
    seen = visit(tmp_path / "report.html", tmp_path)
    assert seen.requests == []
    assert any("Content Security Policy" in line for line in seen.console)
