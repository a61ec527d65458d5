"""An institution's agent that, in one round, sends its update multiplied: what the norm rule is there for.

It is the product's own agent with another encoder; the ledger cannot know, but it can judge.
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np

from blockfl.cli.institution import StepPrinter
from blockfl.cli.termination import make_reporter, run_until_terminated
from blockfl.institution.agent import AgentSettings
from blockfl.institution.encoder import BoundedEncoder
from blockfl.institution.run import InstitutionSettings, run_institution
from blockfl.institution.training import Workload
from blockfl.institution.vector import Vector
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round


class ScalingEncoder:
    """Encodes honestly but in one round, in which the result is scaled far over the bound."""

    def __init__(self, round_: int, factor: int, seed: int | None) -> None:
        self._round = round_
        self._factor = factor
        self._honest = BoundedEncoder(seed)

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        """Return the values, int16 of shape (d,)."""
        values = self._honest.encode(delta, round_, weight)
        if round_.round != self._round:
            return values
        return np.clip(values.astype(np.int64) * self._factor, -32767, 32767).astype(np.int16)


def main() -> None:
    """Run the agent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--cheat-in-round", type=int, required=True)
    parser.add_argument("--factor", type=int, default=100)
    arguments = parser.parse_args()
    settings = InstitutionSettings(
        profile=arguments.profile,
        directory=arguments.directory,
        workload=Workload(model=arguments.model, data=arguments.data),
        agent=AgentSettings(task=arguments.task, seed=arguments.seed),
    )
    encoder = ScalingEncoder(arguments.cheat_in_round, arguments.factor, arguments.seed)
    report = StepPrinter(make_reporter("institution", None))
    asyncio.run(run_until_terminated(run_institution(settings, encoder=encoder, report=report)))


if __name__ == "__main__":
    main()
