"""An institution's agent as a process of its own, with a learner in numpy: ``python -m support.numpy_institution``."""

import argparse
import asyncio
from pathlib import Path

import numpy as np

from blockfl.cli.institution import StepPrinter
from blockfl.cli.output import Output
from blockfl.cli.termination import run_until_terminated
from blockfl.institution.agent import AgentSettings
from blockfl.institution.run import InstitutionSettings, run_institution
from blockfl.protocol.model import manifest_of
from support.training import NumpyTraining


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    manifest = manifest_of({"weights": np.zeros(arguments.dimension, np.float32)})
    settings = InstitutionSettings(
        profile=arguments.profile,
        directory=arguments.directory,
        workload=None,
        agent=AgentSettings(task=arguments.task, seed=arguments.seed),
    )
    training = NumpyTraining(manifest, seed=arguments.seed)
    work = run_institution(settings, training=training, report=StepPrinter(Output(as_json=False)))
    asyncio.run(run_until_terminated(work))


if __name__ == "__main__":
    main()
