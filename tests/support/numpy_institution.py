"""An institution's agent as a process of its own, with a learner in numpy: ``python -m support.numpy_institution``."""

import argparse
import asyncio
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blockfl.cli.institution import StepPrinter
from blockfl.cli.termination import make_reporter, run_until_terminated
from blockfl.institution.agent import AgentSettings
from blockfl.institution.run import InstitutionSettings, run_institution
from blockfl.institution.vector import Vector
from blockfl.protocol.model import manifest_of
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round
from support.misconduct import parse_misconduct, run_misbehaving_institution
from support.training import NumpyTraining


class MarkedEncoder:
    """Sends small values that are known beforehand, so that a test can look for them."""

    def __init__(self, dimension: int, seed: int) -> None:
        self.values = make_marked_values(dimension, seed)

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        return self.values


def make_marked_values(dimension: int, seed: int) -> npt.NDArray[np.int16]:
    """Values far below every bound, yet long enough to be unmistakable."""
    return np.random.default_rng([77, seed]).integers(-9, 10, dimension).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--marked", action="store_true")
    parser.add_argument("--misbehave", action="append", default=[], metavar="KIND:ROUND,ROUND,…")
    arguments = parser.parse_args()
    manifest = manifest_of({"weights": np.zeros(arguments.dimension, np.float32)})
    settings = InstitutionSettings(
        profile=arguments.profile,
        directory=arguments.directory,
        workload=None,
        agent=AgentSettings(task=arguments.task, seed=arguments.seed),
    )
    training = NumpyTraining(manifest, seed=arguments.seed)
    encoder = MarkedEncoder(arguments.dimension, arguments.seed) if arguments.marked else None
    report = StepPrinter(make_reporter("institution", None))
    if arguments.misbehave:
        work = run_misbehaving_institution(settings, training, parse_misconduct(arguments.misbehave), report)
    else:
        work = run_institution(settings, training=training, encoder=encoder, report=report)
    asyncio.run(run_until_terminated(work))


if __name__ == "__main__":
    main()
