"""Pages from templates: every value is other people's word, and can only ever be text.

Templates escape all that they print. Before that, what no reader can see or what turns the direction of text around
(controls, bidirectional overrides, zero-width characters) is spelled out, as in a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from blockfl.audit.pages import finalize

HERE: Final = Path(__file__).parent
_SHORT: Final = 16


class Renderer:
    """Renders the package's templates.

    Args:
        base: The path that all pages stand under.
    """

    def __init__(self, base: str) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=finalize,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals["base"] = base
        self._environment.filters["segment"] = _quote_segment
        self._environment.filters["path"] = _quote_path
        self._environment.filters["short"] = _shorten
        self._environment.filters["spaced"] = _space
        self._environment.filters["clock"] = _cut_time

    def render(self, name: str, context: Mapping[str, Any]) -> str:
        """Return a page.

        Args:
            name: Of the template.
            context: What it prints.
        """
        return self._environment.get_template(name).render(context)


def _quote_segment(text: object) -> str:
    """Return a name as one segment of a path."""
    return quote(str(text), safe="")


def _quote_path(text: object) -> str:
    """Return a key as several segments of a path."""
    return quote(str(text), safe="/")


def _shorten(digest: object) -> str:
    """Return the first digits of a digest."""
    text = str(digest or "")
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def _space(number: object) -> str:
    """Return a number with its thousands set apart."""
    return f"{number:,}" if isinstance(number, int) else str(number)


def _cut_time(text: object) -> str:
    """Return an ISO 8601 time in UTC as people read it, to the second."""
    return str(text or "").replace("T", " ").split(".")[0].replace("+00:00", "")
