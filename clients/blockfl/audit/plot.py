"""Line plots as SVG: nothing but text and lines, so that a report needs neither scripts nor other files.

svg = draw_lines("accuracy", {"pooled": [(1, 0.71), (2, 0.78)]}, unit="share of test samples")
Path("history.svg").write_text(draw_metrics(await views.list_models(ledger, "heart")))
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from blockfl.fabric.log import make_printable

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 28, 36
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "1 4", "12 4")
"""With the colours they tell lines apart, also in print and for those who see no colours."""
_COLOURS: Final = ("#0b5fa5", "#b3400d", "#33691e", "#6a1b9a", "#795000", "#37474f")
_TICKS = 4

_STYLE: Final = (
    "text { font: 11px system-ui, sans-serif; fill: #1b1b1f } .title { font-weight: 600 } .end { text-anchor: end } "
    ".middle { text-anchor: middle } .line { fill: none; stroke-width: 1.8 } .grid { stroke: #e3e3e8; fill: none }"
)
"""As the report's own."""
ALL: Final = "all, pooled"
"""The line of all institutions together."""

Points = Sequence[tuple[float, float]]


def draw_lines(title: str, lines: Mapping[str, Points], *, unit: str, whole: bool = False) -> Markup:
    """Return a plot over rounds.

    Args:
        title: What it shows; may be anybody's words.
        lines: By name, ascending points (round, value).
        unit: Of the values.
        whole: Whether values are whole numbers.

    Returns:
        An SVG element; empty when there is no point.
    """
    if not any(lines.values()):
        return Markup("")
    begin = Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}">').format(
        _WIDTH, _HEIGHT, f"{title}, {unit}, by round"
    )
    return begin + _draw_inside(title, lines, unit, whole=whole) + Markup("</svg>")


def list_metrics(rows: Sequence[Mapping[str, Any]], *, each: bool) -> dict[str, dict[str, Points]]:
    """Return the lines of each metric's plot: of all institutions together, and of each one.

    Args:
        rows: Of every version (``views.list_models``).
        each: Whether there is a line of each institution, too.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for metric, one in row["metrics"].items():
            lines = found.setdefault(metric, {})
            lines.setdefault(ALL, []).append((row["round"], one["value"]))
            for name, reported in sorted(row["reports"].items()) if each else ():
                if metric in reported:
                    lines.setdefault(name, []).append((row["round"], reported[metric]))
    return {metric: {**found[metric]} for metric in sorted(found)}


def draw_metrics(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a picture of its own, an SVG file's content: a plot of each metric, one below the other.

    Args:
        rows: Of every version (``views.list_models``).
    """
    plots = list_metrics(rows, each=True)
    height = _HEIGHT * max(len(plots), 1)
    parts = [
        Markup('<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}">').format(
            _WIDTH, height
        ),
        Markup("<style>{}</style>").format(_STYLE),
        Markup('<rect width="{}" height="{}" fill="#fff"/>').format(_WIDTH, height),
    ]
    for place, (metric, lines) in enumerate(plots.items()):
        inside = _draw_inside(metric, lines, "as the institutions reported it", whole=False)
        parts.append(Markup('<g transform="translate(0 {})">{}</g>').format(_HEIGHT * place, inside))
    return Markup("").join([*parts, Markup("</svg>\n")])


def _draw_inside(title: str, lines: Mapping[str, Points], unit: str, *, whole: bool) -> Markup:
    frame = _Frame([point for line in lines.values() for point in line])
    parts = [
        Markup('<text x="{}" y="16" class="title">{}</text>').format(_LEFT, f"{title} ({unit})"),
        *frame.draw_axes(whole=whole),
    ]
    for place, (name, line) in enumerate(lines.items()):
        parts.append(_draw_line(frame, line, place))
        parts.append(_draw_key(name, place))
    return Markup("").join(parts)


class _Frame:
    """Where values are in the picture."""

    def __init__(self, points: Points) -> None:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.x, self.y = (min(xs), max(xs)), (min(ys), max(ys))

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = _share(x, self.x) * (_WIDTH - _LEFT - _RIGHT) + _LEFT
        return round(across, 1), round(_HEIGHT - _BOTTOM - _share(y, self.y) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def draw_axes(self, *, whole: bool) -> list[Markup]:
        parts = []
        for value in _ticks(self.y, whole=whole):
            _, y = self.place(self.x[0], value)
            text = f"{value:.0f}" if whole else f"{value:.3g}"
            parts.append(Markup('<path d="M{} {}H{}" class="grid"/>').format(_LEFT, y, _WIDTH - _RIGHT))
            parts.append(Markup('<text x="{}" y="{}" class="end">{}</text>').format(_LEFT - 6, y + 4, text))
        for value in _ticks(self.x, whole=True):
            x, _ = self.place(value, self.y[0])
            parts.append(Markup('<text x="{}" y="{}" class="middle">{:.0f}</text>').format(x, _HEIGHT - 16, value))
        parts.append(Markup('<text x="{}" y="{}" class="end">round</text>').format(_WIDTH - _RIGHT, _HEIGHT - 2))
        return parts


def _draw_line(frame: _Frame, line: Points, place: int) -> Markup:
    places = [frame.place(x, y) for x, y in line]
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    dot = Markup('<circle cx="{}" cy="{}" r="2.5" fill="{}"/>')
    stroke = Markup('<path d="{}" stroke="{}" stroke-dasharray="{}" class="line"/>')
    dots = Markup("").join(dot.format(x, y, _colour(place)) for x, y in places)
    return stroke.format(path, _colour(place), _dash(place)) + dots


def _draw_key(name: str, place: int) -> Markup:
    x, y = _WIDTH - _RIGHT + 12, _TOP + 14 * place + 8
    stroke = Markup('<path d="M{} {}h22" stroke="{}" stroke-dasharray="{}" class="line"/>')
    text = Markup('<text x="{}" y="{}">{}</text>')
    return stroke.format(x, y - 4, _colour(place), _dash(place)) + text.format(x + 28, y, make_printable(name))


def _ticks(limits: tuple[float, float], *, whole: bool) -> list[float]:
    low, high = limits
    values = [low + (high - low) * step / _TICKS for step in range(_TICKS + 1)]
    return sorted({float(round(one)) for one in values}) if whole else sorted(set(values))


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return 0.5 if high == low else (value - low) / (high - low)


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _dash(place: int) -> str:
    return _DASHES[place % len(_DASHES)]
