"""What the pages share: a layout that stands alone, offline, and the filters that write numbers in it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2
import vl_convert

from calex.report import formatting


@cache
def scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that may stand in a page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed").replace("</script", "<\\/script")


def template(name: str) -> jinja2.Template:
    """Load a page's template (`page.html`), which escapes whatever the data holds. Missing values are empty."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters.update(
        percent=formatting.percent, joined=formatting.joined, quantity=formatting.quantity, counted=formatting.counted
    )
    environment.globals["scripts"] = scripts()
    return environment.get_template(name)
