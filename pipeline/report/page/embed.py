"""Puts data into a page so that nothing in it is markup or code, whatever a prompt says."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from noisesmith.pipeline import __version__
from noisesmith.pipeline.report.page.pictures import Pictures

PER_BLOCK = 10  # rows whose pictures are one block of the page, which is read when one of them is first shown
_PROGRAM = (
    "text.js",
    "state.js",
    "charts.js",
    "overview.js",
    "gallery.js",
    "filters.js",
    "detail.js",
    "panels.js",
    "main.js",
)
# In JSON these occur in strings only, and a parser reads the escapes as the characters.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def to_json(data: object) -> str:
    """Return data as JSON that can stand in a script element: it holds no ``<``, so nothing ends the element.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a surrogate pair has no UTF-8; its escape has.
    escaped = text.encode(errors="backslashreplace").decode()
    return escaped.translate(_ESCAPES)


def render(name: str, data: Mapping[str, object], pictures: Sequence[Pictures], *, live: bool) -> str:
    """Return the page as HTML that loads nothing.

    Args:
        data: what the page shows, as JSON holds it.
        pictures: of each row, to embed; none where the page asks its server for them.
        live: whether the page asks its server for news.
    """
    program = "\n".join(_asset(file) for file in _PROGRAM)
    style = _asset("page.css")
    return _template().render(
        name=name,
        version=__version__,
        live=live,
        style=Markup(style),
        style_hash=_digest(style),
        program=Markup(program),
        program_hash=_digest(program),
        data=Markup(to_json({**data, "per_block": PER_BLOCK})),
        blocks=[Markup(block) for block in _blocks(pictures)],
    )


def _blocks(pictures: Sequence[Pictures]) -> list[str]:
    """The pictures as text, ``PER_BLOCK`` rows each: a line has the kept and the first image in base64.

    A first image that is the kept one is not repeated.
    """
    blocks = []
    for start in range(0, len(pictures), PER_BLOCK):
        lines = []
        for made in pictures[start : start + PER_BLOCK]:
            first = b"" if made.first in (None, made.kept) else base64.b64encode(made.first or b"")
            lines.append(f"{base64.b64encode(made.kept).decode()} {first.decode()}")
        blocks.append("\n".join(lines))
    return blocks


def _digest(text: str) -> str:
    """The hash by which the page's policy allows one style or script, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return files("noisesmith.pipeline.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("noisesmith.pipeline.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    return environment.get_template("page.html.j2")
