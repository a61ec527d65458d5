"""Which aggregation rule survives which attack, and what a referee is worth, on the heart-disease rows.

Every run of a split has the same rows, poisoned institutions and initial model, so that differences are the attack's
and the rule's. Accuracy is on the union of the hospitals' test sets. Writes ``build/robustness/summary.json`` and
``table.md``. A run that was stopped goes on: every training is kept in ``runs.jsonl``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, Final

from benchmarks.attacks import ADAPTIVE, ATTACKS, TOLERANCE
from benchmarks.federation import BOUND_L2, EPOCHS, INSTITUTIONS, LAYOUTS, ROUNDS, Case, measure
from benchmarks.robustness_tables import Findings, write_tables
from benchmarks.strategies import ALONE, CANDIDATES, OPTIMISERS, STRATEGIES

REFEREE: Final = ("own", 120)
"""The source and the number of the referee's rows where nothing else is said."""
FEW: Final = (("own", 20), ("own", 50), ("own", 100))
PUBLIC: Final = (("public", 120), ("public", 20))
MINORITY: Final = (("minority", 50),)
EVERY: Final = {**ATTACKS, **ADAPTIVE}
REFEREED: Final = [name for name, one in STRATEGIES.items() if one.is_refereed]
TELLING: Final = ["none", "label flip", "adaptive, cosine 0.05", "adaptive, cosine 0.7"]
"""Attacks that tell rules with a referee apart."""


def list_cases(splits: int) -> list[Case]:
    """Return every training once."""
    chosen: dict[Case, None] = {}
    for (source, rows), poisoned, strategies, attacks in _list_parts():
        for layout, strategy, attack in product(LAYOUTS, strategies, attacks):
            case = Case(
                layout=layout,
                strategy=strategy,
                attack=attack,
                poisoned=4 if attack == "none" else poisoned,
                rows=rows,
                source=source,
                splits=splits,
            )
            chosen[case] = None
    return list(chosen)


def _list_parts() -> Iterator[tuple[tuple[str, int], int, list[str], list[str]]]:
    """Yield the referee's rows, how many are poisoned, strategies, and attacks; what decides most comes first."""
    table, every = list(ATTACKS), list(EVERY)
    for poisoned in (4, 6):
        yield REFEREE, poisoned, ["fedavg", "trusted_mean"], every
        yield ("own", 60), poisoned, ["trusted_mean"], every
    for referee in (REFEREE, ("own", 60), *FEW, *PUBLIC, *MINORITY):
        yield referee, 4, list(ALONE), ["none"]
        yield referee, 4, ["trusted_mean"], ["none"]
    yield REFEREE, 4, ["fedavg, effect on rows", "trusted_mean, momentum", "trusted_mean, effect on rows"], every
    yield REFEREE, 6, ["fedavg, effect on rows"], every
    yield REFEREE, 4, list(CANDIDATES), TELLING
    yield ("own", 60), 4, ["fedavg, effect on rows"], every
    yield REFEREE, 4, [one for one in STRATEGIES if one not in REFEREED], table
    yield REFEREE, 4, ["trusted_mean, by cosine", "fedavg, least cosine 0.2"], every
    yield REFEREE, 4, [*OPTIMISERS], ["none"]
    yield REFEREE, 6, ["median", "multi_krum, f 4, m 5"], table
    yield PUBLIC[0], 4, ["trusted_mean"], every


def main() -> None:
    """Run what was not run yet, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=8)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--directory", type=Path, default=Path("build/robustness"))
    arguments = parser.parse_args()
    started = time.monotonic()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    kept = arguments.directory / "runs.jsonl"
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    cases = list_cases(arguments.splits)
    done = {Case(**{key: run[key] for key in Case.__dataclass_fields__}): run for run in runs}
    missing = [case for case in cases if case not in done]
    with ProcessPoolExecutor(arguments.processes) as pool, kept.open("a") as file:
        for case, run in zip(missing, pool.map(measure, missing), strict=True):
            done[case] = run
            file.write(json.dumps(run) + "\n")
            file.flush()
            if len(done) % 50 == 0:
                print(f"{len(done)} of {len(cases)} trainings", file=sys.stderr, flush=True)
    findings = Findings([done[case] for case in cases])
    lines = write_tables(findings)
    (arguments.directory / "table.md").write_text("\n".join(lines))
    summary = summarise(findings, arguments.splits)
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print("\n".join(lines))
    print(json.dumps({key: value for key, value in summary.items() if key not in ("runs", "points_lost")}, indent=1))
    print(f"{len(missing)} trainings in {time.monotonic() - started:.0f} s: {arguments.directory}")


def summarise(findings: Findings, splits: int) -> dict[str, Any]:
    """Return the summary. Points are hundredths of accuracy.

    ``worst_loss``: by the referee's own rows, and by rule, what the worst attack of the table takes from fedavg without
    attack, of 4 of 11 and both layouts; ``worst_loss_of_6`` the same of 6. ``below_alone``: by who is poisoned and by
    the referee's rows, how far a rule is at worst under what the referee reaches alone: with 4 under adaptive
    attackers, with 6 under every attack. A figure below 0 is above it.
    """
    places = sorted({(run["source"], run["rows"]) for run in findings.runs})
    return {
        "institutions": INSTITUTIONS,
        "rounds": ROUNDS,
        "epochs": EPOCHS,
        "bound_l2": BOUND_L2,
        "splits": splits,
        "tolerance": TOLERANCE,
        "worst_loss": findings.compute_worst_losses(4),
        "worst_loss_of_6": findings.compute_worst_losses(6),
        "below_alone": {
            f"{poisoned} of {INSTITUTIONS}": {
                f"{rows} of {source}": found
                for source, rows in places
                if (found := findings.compute_below_alone(poisoned, source, rows, attacks))
            }
            for poisoned, attacks in ((4, list(ADAPTIVE)), (6, list(EVERY)))
        },
        "alone": {f"{rows} of {source}": findings.list_alone(source, rows) for source, rows in places},
        "points_lost": {
            f"{poisoned} of {INSTITUTIONS}, {layout}": findings.compute_losses(layout, poisoned, *REFEREE)
            for poisoned, layout in product((4, 6), LAYOUTS)
        },
        "runs": findings.runs,
    }


if __name__ == "__main__":
    main()
