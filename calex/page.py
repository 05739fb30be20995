"""What the pages share: one template that stands alone, offline, and how numbers are spelt in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import jinja2
import vl_convert

from calex.headline import counted, listed, percent


@cache
def scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that may stand in a page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed").replace("</script", "<\\/script")


def gathered(svg: str) -> str:
    """The picture with one clip path around the lines of a layer: Vega clips each line, and each clip takes a moment to draw."""
    own = r'(class="mark-(?:line|area) role-mark [^"]*")( clip-path="[^"]*")'
    layer = r'(<g class="mark-group role-scope [^"]*_pathgroup")'
    return re.sub(own, r"\1", re.sub(rf'{layer}(?=(?:(?!class="mark-(?:line|area)).)*{own})', r"\1\3", svg, flags=re.DOTALL))


def renumbered(svg: str) -> str:
    """The picture with its clip paths numbered from 0: Vega counts them per process, whatever it drew before."""
    numbers: dict[str, int] = {}
    return re.sub(r"\bclip\d+\b", lambda found: f"clip{numbers.setdefault(found[0], len(numbers))}", svg)


def template(name: str) -> jinja2.Template:
    """A page's template, which escapes whatever the data says."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters.update(percent=percent, listed=listed, quantity=quantity, counted=counted)
    environment.globals["scripts"] = scripts()
    return environment.get_template(name)


def quantity(number: float) -> str:
    """`1.11 G`: three digits and a prefix."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "
