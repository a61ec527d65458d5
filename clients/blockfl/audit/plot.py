"""Line plots as SVG: nothing but text and lines, so that a report needs neither scripts nor other files.

svg = draw_lines("accuracy", {"pooled": [(1, 0.71), (2, 0.78)]}, unit="share of test samples")
"""

from collections.abc import Mapping, Sequence
from typing import Final

from markupsafe import Markup

from blockfl.fabric.log import make_printable

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 28, 36
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "1 4", "12 4")
"""With the colours they tell lines apart, also in print and for those who see no colours."""
_COLOURS: Final = ("#0b5fa5", "#b3400d", "#33691e", "#6a1b9a", "#795000", "#37474f")
_TICKS = 4

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
    points = [point for line in lines.values() for point in line]
    if not points:
        return Markup("")
    frame = _Frame(points)
    parts = [
        Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}">').format(
            _WIDTH, _HEIGHT, f"{title}, {unit}, by round"
        ),
        Markup('<text x="{}" y="16" class="title">{}</text>').format(_LEFT, f"{title} ({unit})"),
        *frame.draw_axes(whole=whole),
    ]
    for place, (name, line) in enumerate(lines.items()):
        parts.append(_draw_line(frame, line, place))
        parts.append(_draw_key(name, place))
    return Markup("").join([*parts, Markup("</svg>")])


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
