"""The institution agent with a learner that costs nothing: what a round costs without training."""

import argparse
import asyncio
from pathlib import Path

import numpy as np

from blockfl.cli.institution import StepPrinter
from blockfl.cli.termination import make_reporter, run_until_terminated
from blockfl.institution.agent import AgentSettings
from blockfl.institution.frames import Evaluated, ModelDescription, TensorShape, Train, Trained
from blockfl.institution.run import InstitutionSettings, run_institution
from blockfl.institution.training import Progress
from blockfl.institution.vector import Vector

SAMPLES = 100


class StillTraining:
    """Adds a little noise to one tensor of a given size.

    Args:
        dimension: Of the tensor.
        seconds: How long training takes, without costing anything.
    """

    def __init__(self, dimension: int, seconds: float = 0) -> None:
        self._dimension = dimension
        self._seconds = seconds
        self._generator = np.random.default_rng()

    async def describe(self) -> ModelDescription:
        """Return the one tensor."""
        tensor = TensorShape(name="weights", shape=(self._dimension,))
        return ModelDescription(tensors=(tensor,), train_samples=SAMPLES, test_samples=SAMPLES)

    async def initial(self) -> Vector:
        """Return zeros."""
        return np.zeros(self._dimension, np.float32)

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        """Return the base with noise of L2 norm about 1."""
        del request, progress
        await asyncio.sleep(self._seconds)
        noise = self._generator.standard_normal(self._dimension, np.float32) / np.float32(np.sqrt(self._dimension))
        return base + noise, Trained(samples=SAMPLES, loss=0.0)

    async def evaluate(self, values: Vector) -> Evaluated:
        """Return nothing of interest."""
        del values
        return Evaluated(accuracy=0.5, loss=0.0, samples=SAMPLES)

    async def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Run the agent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0, help="how long training takes")
    arguments = parser.parse_args()
    settings = InstitutionSettings(
        profile=arguments.profile,
        directory=arguments.directory,
        workload=None,
        agent=AgentSettings(task=arguments.task),
    )
    work = run_institution(
        settings,
        training=StillTraining(arguments.dimension, arguments.seconds),
        report=StepPrinter(make_reporter("institution", None)),
    )
    asyncio.run(run_until_terminated(work))


if __name__ == "__main__":
    main()
