"""``make attacks``: every attack on a network of its own, one line each with what was observed.

    python -m attacks [--ledger embedded|local] [--json] [-k WORDS]

Ends with 1 when an attack came out otherwise than the catalogue says, or an honest round did not go on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path

from attacks.arena import open_arena
from attacks.catalogue import Attack, list_attacks
from attacks.trial import Trial, try_attack
from support.ledgers import LEDGERS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m attacks", description="Attack a network of its own.")
    parser.add_argument("--ledger", choices=["embedded", "local"], default="embedded")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of the table")
    text = "only attacks with this in their area and name (may be repeated)"
    parser.add_argument("-k", dest="words", action="append", default=[], metavar="WORDS", help=text)
    arguments = parser.parse_args()
    if reason := LEDGERS[arguments.ledger]():
        raise SystemExit(f"the {arguments.ledger} ledger cannot run here: {reason}")
    words = arguments.words or [""]
    chosen = [one for one in list_attacks() if any(word in f"{one.area} {one.name}" for word in words)]
    if not chosen:
        raise SystemExit(f"no attack has any of these in its area and name: {', '.join(words)}")
    # What the node says when its services end is no news.
    logging.disable(logging.WARNING)
    trials = asyncio.run(run(chosen, arguments.ledger, quiet=arguments.json))
    failed = [one for one in trials if not one.passed]
    if arguments.json:
        print(json.dumps([one.as_dict() for one in trials], indent=2))
    else:
        print(f"\n{len(trials)} attacks on the {arguments.ledger} ledger, {len(failed)} not as expected")
    sys.exit(1 if failed else 0)


async def run(attacks: list[Attack], ledger: str, *, quiet: bool) -> list[Trial]:
    """Try attacks one after the other, telling each as it ends."""
    width = max(len(one.name) for one in attacks)
    trials = []
    with tempfile.TemporaryDirectory() as directory:
        async with open_arena(Path(directory), ledger) as arena:
            for attack in attacks:
                trial = await try_attack(attack, arena)
                trials.append(trial)
                if not quiet:
                    tell(trial, width)
    return trials


def tell(trial: Trial, width: int) -> None:
    """Print one line, and what is wrong where something is."""
    attack = trial.attack
    mark = "ok  " if trial.passed else "FAIL"
    print(f"{mark} {attack.area:<9} {attack.name:<{width}}  {attack.by:<21} {trial.observation}", flush=True)
    if trial.unexpected:
        print(f"     expected {', '.join(map(str, trial.expected))}")
    if trial.problem:
        print(f"     {trial.problem}")


if __name__ == "__main__":
    main()
