"""What the trainings of ``benchmarks.robustness`` come to: losses, and the tables of ``docs/robustness.md``."""

from collections.abc import Iterable
from typing import Any, Final

from benchmarks.attacks import ADAPTIVE, ATTACKS
from benchmarks.federation import LAYOUTS, SOURCES
from benchmarks.strategies import ALONE, CANDIDATES, OPTIMISERS, STRATEGIES

TARGET_POINTS: Final = 2.0
Run = dict[str, Any]
_CLEAN: Final = "fedavg"


class Findings:
    """All trainings, and what is asked of them."""

    def __init__(self, runs: Iterable[Run]) -> None:
        """Keep the trainings."""
        self.runs = list(runs)
        self._found = {
            (one["layout"], one["strategy"], one["attack"], one["poisoned"], one["source"], one["rows"]): one
            for one in self.runs
        }

    def find(self, layout: str, strategy: str, attack: str, poisoned: int, source: str, rows: int) -> Run | None:
        """Return a training; rules without a referee have the same for every referee's rows."""
        refereed = (
            strategy in CANDIDATES or strategy in ALONE or (strategy in STRATEGIES and STRATEGIES[strategy].is_refereed)
        )
        place = (source, rows) if refereed else ("own", 120)
        return self._found.get((layout, strategy, attack, 4 if attack == "none" else poisoned, *place))

    def get_clean(self, layout: str) -> float:
        """Return the accuracy of fedavg without attack."""
        found = self.find(layout, _CLEAN, "none", 4, "own", 120)
        return float("nan") if found is None else float(found["accuracy"])

    def list_alone(self, source: str, rows: int) -> dict[str, float]:
        """Return what the referee reaches alone, by layout."""
        found = {layout: self.find(layout, "referee alone", "none", 4, source, rows) for layout in LAYOUTS}
        return {layout: float(one["accuracy"]) for layout, one in found.items() if one}

    def compute_losses(self, layout: str, poisoned: int, source: str, rows: int) -> dict[str, dict[str, float]]:
        """Return the points that each strategy loses to each attack, against fedavg without attack."""
        losses: dict[str, dict[str, float]] = {}
        for strategy in (*STRATEGIES, *CANDIDATES):
            for attack in (*ATTACKS, *ADAPTIVE):
                run = self.find(layout, strategy, attack, poisoned, source, rows)
                if run is not None:
                    lost = 100 * (self.get_clean(layout) - run["accuracy"])
                    losses.setdefault(strategy, {})[attack] = round(lost, 2)
        return losses

    def compute_worst_losses(self, poisoned: int) -> dict[str, dict[str, float]]:
        """Return by the referee's own rows, and by rule, the most points lost to an attack of the table."""
        worst: dict[str, dict[str, float]] = {}
        for rows in sorted({one["rows"] for one in self.runs if one["source"] == "own"}):
            for layout in LAYOUTS:
                for strategy, losses in self.compute_losses(layout, poisoned, "own", rows).items():
                    if all(attack in losses for attack in ATTACKS):
                        row = worst.setdefault(str(rows), {})
                        row[strategy] = max([row.get(strategy, -100.0), *(losses[attack] for attack in ATTACKS)])
        return worst

    def compute_below_alone(self, poisoned: int, source: str, rows: int, attacks: list[str]) -> dict[str, float]:
        """Return by rule how many points it is at worst under the referee alone."""
        below: dict[str, float] = {}
        for layout, alone in self.list_alone(source, rows).items():
            for strategy in (*STRATEGIES, *CANDIDATES):
                runs = [self.find(layout, strategy, attack, poisoned, source, rows) for attack in attacks]
                worst = [100 * (alone - one["accuracy"]) for one in runs if one]
                if len(worst) == len(attacks):
                    below[strategy] = round(max([below.get(strategy, -100.0), *worst]), 2)
        return below


def write_tables(findings: Findings) -> list[str]:
    """Return all tables as lines of Markdown."""
    lines: list[str] = []
    for poisoned in (4, 6):
        for layout in LAYOUTS:
            lines += [*write_attacks(findings, layout, poisoned), ""]
    for poisoned in (4, 6):
        lines += [*write_adaptive(findings, poisoned), ""]
    return [
        *lines,
        *write_backdoor(findings),
        "",
        *write_hospitals(findings),
        "",
        *write_candidates(findings),
        "",
        *write_optimisers(findings),
        "",
    ]


def write_attacks(findings: Findings, layout: str, poisoned: int) -> list[str]:
    """Return the table of rules and attacks: accuracy, bold where it is within the target."""
    lines = _begin(f"{layout}, {poisoned} of 11", [*ATTACKS, "counted"])
    alone = findings.list_alone("own", 120).get(layout)
    lines.append(_write("referee alone", [_tell(alone), *[""] * (len(ATTACKS) - 1), ""]))
    for strategy in STRATEGIES:
        runs = [findings.find(layout, strategy, attack, poisoned, "own", 120) for attack in ATTACKS]
        if any(one is None for one in runs):
            continue
        clean = findings.get_clean(layout)
        cells = [_tell(one["accuracy"] if one else None, clean - TARGET_POINTS / 100) for one in runs]
        lines.append(_write(strategy, [*cells, _count(runs[0])]))
    return lines


def write_adaptive(findings: Findings, poisoned: int) -> list[str]:
    """Return the table of referees: worst of the table's attacks, the adaptive ones, and the referee alone."""
    heads = ["rows", "referee alone", "none", "worst of the table", *ADAPTIVE, "counted"]
    lines = _begin(f"{poisoned} of 11", heads)
    for layout in LAYOUTS:
        for strategy in STRATEGIES:
            for source in SOURCES:
                for rows in sorted({one["rows"] for one in findings.runs if one["source"] == source}, reverse=True):
                    cells = _compare(findings, layout, strategy, poisoned, source, rows)
                    if cells:
                        lines.append(_write(f"{strategy}, {layout}", [f"{rows} {source}", *cells]))
    return lines


def _compare(findings: Findings, layout: str, strategy: str, poisoned: int, source: str, rows: int) -> list[str]:
    runs = {attack: findings.find(layout, strategy, attack, poisoned, source, rows) for attack in (*ATTACKS, *ADAPTIVE)}
    found = {attack: float(one["accuracy"]) for attack, one in runs.items() if one}
    is_its_own = strategy != _CLEAN or (source, rows) == ("own", 120)
    if not any(attack in found for attack in ADAPTIVE) or not is_its_own:
        return []
    alone = findings.list_alone(source, rows).get(layout)
    worst = min((found[attack] for attack in ATTACKS if attack in found), default=None)
    return [
        *(_tell(alone), _tell(found.get("none")), _tell(worst)),
        *(_tell(found.get(attack)) for attack in ADAPTIVE),
        _count(runs["none"]),
    ]


def write_backdoor(findings: Findings) -> list[str]:
    """Return the table of the backdoor: the share of sick test rows that its trigger makes healthy."""
    places = [(layout, poisoned) for layout in LAYOUTS for poisoned in (4, 6)]
    heads = [
        *(f"{layout}, none" for layout in LAYOUTS),
        *(f"{layout}, {poisoned} of 11" for layout, poisoned in places),
        "counted, apart",
    ]
    lines = _begin("backdoor", heads)
    for strategy in (*ALONE, *STRATEGIES):
        clean = [findings.find(layout, strategy, "none", 4, "own", 120) for layout in LAYOUTS]
        runs = [findings.find(layout, strategy, "backdoor", poisoned, "own", 120) for layout, poisoned in places]
        if all(clean) and (strategy in ALONE or any(runs)):
            cells = [_tell(one["backdoor"] if one else None) for one in (*clean, *runs)]
            lines.append(_write(strategy, [*cells, "" if strategy in ALONE else _count(clean[0])]))
    return lines


def write_hospitals(findings: Findings) -> list[str]:
    """Return the table of hospitals: accuracy on each one's own test rows, without attack."""
    hospitals = list(next(iter(findings.runs))["by_hospital"])
    lines = _begin("apart, no attack", ["rows", *hospitals, "all", "counted"])
    for strategy in (_CLEAN, *ALONE, "trusted_mean"):
        for source in SOURCES:
            for rows in sorted({one["rows"] for one in findings.runs if one["source"] == source}, reverse=True):
                run = findings.find("apart", strategy, "none", 4, source, rows)
                if run is None or (strategy == _CLEAN and (source, rows) != ("own", 120)):
                    continue
                place = "" if strategy == _CLEAN else f"{rows} {source}"
                cells = [_tell(run["by_hospital"][one]) for one in hospitals]
                lines.append(
                    _write(strategy, [place, *cells, _tell(run["accuracy"]), "" if strategy in ALONE else _count(run)])
                )
    return lines


def write_candidates(findings: Findings) -> list[str]:
    """Return the table of what might be better than the trusted mean."""
    lines = _begin("4 of 11, 120 own rows", ["referee alone", "none", "worst of the table", *ADAPTIVE, "counted"])
    for layout in LAYOUTS:
        for strategy in ("trusted_mean", *CANDIDATES):
            cells = _compare(findings, layout, strategy, 4, "own", 120)
            if cells:
                lines.append(_write(f"{strategy}, {layout}", cells))
    return lines


def write_optimisers(findings: Findings) -> list[str]:
    """Return the table of server optimisers: accuracy without attack after some rounds and after all."""
    places = [(layout, index) for layout in LAYOUTS for index in range(3)]
    lines = _begin("no attack", [f"{layout}, round {(5, 10, 40)[index]}" for layout, index in places])
    for strategy in (_CLEAN, *OPTIMISERS):
        runs = [findings.find(layout, strategy, "none", 4, "own", 120) for layout, _ in places]
        lines.append(
            _write(
                strategy,
                [
                    _tell(one["accuracies"][index] if one else None)
                    for one, (_, index) in zip(runs, places, strict=True)
                ],
            )
        )
    return lines


def _begin(first: str, heads: list[str]) -> list[str]:
    return [_write(first, heads), f"|---|{'---|' * len(heads)}"]


def _write(first: str, cells: list[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def _tell(accuracy: float | None, bold_from: float = 2.0) -> str:
    if accuracy is None:
        return ""
    text = f"{accuracy:.3f}"
    return f"**{text}**" if accuracy >= bold_from else text


def _count(run: Run | None) -> str:
    return "" if run is None else f"{run['counted']:.2f}"
