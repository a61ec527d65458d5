"""The user's side of a simulation: starts the confined process and passes on what it tells."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from blockfl.institution.errors import TrainingError
from blockfl.institution.interpreter import make_environment
from blockfl.simulation.worker import TOLD, AloneDone, Order, RoundDone, SimulationFailed, SimulationProgress

LOG = "training.log"
SUMMARY = "summary.json"


def run_simulation(order: Order, directory: Path) -> Iterator[SimulationProgress | RoundDone | AloneDone]:
    """Yield what a simulation tells, in a process of its own that ends with it.

    Args:
        order: What to simulate; its scratch directory must be there.
        directory: Where the log of the process goes.

    Raises:
        TrainingError: The process failed: its own words.
    """
    command = (sys.executable, "-P", "-B", "-m", "blockfl.simulation.worker")
    environment = make_environment(Path(order.scratch), os.environ, gpu=order.gpu)
    with (directory / LOG).open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=order.scratch, env=environment
        )
        try:
            if process.stdin is None or process.stdout is None:
                raise AssertionError("unreachable: both are pipes")
            process.stdin.write(order.model_dump_json().encode())
            process.stdin.close()
            for line in process.stdout:
                told = TOLD.validate_json(line)
                if isinstance(told, SimulationFailed):
                    raise TrainingError(told.text)
                yield told
            if process.wait():
                raise TrainingError(f"the simulation ended with status {process.returncode}: see {directory / LOG}")
        finally:
            process.kill()
            process.wait()


def write_summary(directory: Path, summary: object) -> Path:
    """Write what a simulation found as JSON, and return the file."""
    path = directory / SUMMARY
    path.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
    return path
