"""The report as a page: one file of HTML without scripts, that loads nothing; and the same as PDF.

Titles, reasons and names are other people's words: everything is escaped. The page forbids scripts and foreign content
in its own policy, too.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

import jinja2
from markupsafe import Markup

from blockfl.audit.plot import draw_lines, list_metrics
from blockfl.fabric.log import make_printable
from blockfl.ledger.errors import LedgerError

_TEMPLATE: Final = "report.html.j2"


def render_page(report: Mapping[str, Any]) -> str:
    """Return the page of a report, see `report.make_report`."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=finalize, trim_blocks=True
    )
    environment.filters["cell"] = format_cell
    source = resources.files("blockfl.audit").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    plots = {task["task"]: _draw(task) for task in report["tasks"]}
    return environment.from_string(source).render(report=report, plots=plots)


def finalize(value: object) -> object:
    """Return what a template prints of a value: nothing of None, and signs that no reader sees spelled out."""
    if value is None:
        return ""
    return value if isinstance(value, Markup) else make_printable(str(value))


def render_pdf(page: str) -> bytes:
    """Return a page as PDF; nothing is loaded, also if the page names it.

    Raises:
        LedgerError: What draws it is not installed.
    """
    try:
        import weasyprint
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError) as error:
        raise LedgerError(f"PDF needs WeasyPrint and Pango: install blockfl[pdf] ({error})") from error
    return bytes(weasyprint.HTML(string=page, url_fetcher=URLFetcher(allowed_protocols=())).write_pdf())


def format_cell(value: object) -> str:
    """Return a value as a table's cell; the template escapes it."""
    if value is None or isinstance(value, jinja2.Undefined):
        return ""
    if isinstance(value, Mapping):
        return " ".join(format_cell(part) for part in value.values())
    if isinstance(value, list | tuple):
        return ", ".join(format_cell(part) for part in value)
    return str(value)


def _draw(task: Mapping[str, Any]) -> list[Markup]:
    """Return plots of norms, metrics and credits, those that there is anything to show of."""
    norms: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in task["updates"]:
        if row["norm_at_most"]:
            norms[row["organisation"]].append((row["round"], row["norm_at_most"]))
    metrics = list_metrics(task["models"], each=False)
    plots = [
        draw_lines("Norms of updates", _sorted(norms), unit="of the weights, at most"),
        *(draw_lines(name, lines, unit="as the institutions reported it") for name, lines in metrics.items()),
        draw_lines("Credits earned less paid", _sum_credits(task["credits"]), unit="since the first round", whole=True),
    ]
    return [plot for plot in plots if plot]


def _sum_credits(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    totals: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        earlier = totals[row["organisation"]]
        before = earlier[max(earlier)] if earlier else 0.0
        earlier[row["round"]] = before + (row.get("earned") or 0) - (row.get("paid") or 0)
    return _sorted({name: list(points.items()) for name, points in totals.items()})


def _sorted(lines: Mapping[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    return {name: sorted(lines[name]) for name in sorted(lines)}
