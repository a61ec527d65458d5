"""Rounds without training on the whole network: four institutions, three committee members, every process real.

Per size: seconds per round and per step from the ledger's own times, bytes of the whole ledger per update, peak memory
per process. The floor named beside it is Flower's figure for the same job without ledger, TLS or judging (docs).
"""

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from examples.heart.demo import COMMITTEE, HOSPITALS
from examples.heart.stage import Stage

from blockfl.protocol.model import encode_model, manifest_of

ROUNDS = 5
FLOWER_1M_S = 0.21
"""Seconds per round of Flower 1.41's simulation, 4 clients, 1M float32, no training, on a like machine (prior art)."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one size: medians over the rounds but the first."""

    dimension: int
    seconds: float
    steps: dict[str, float]
    bytes_per_update: int
    peak_rss_mb: dict[str, float]


def measure(directory: Path, base_port: int, dimensions: list[int], ledger: str) -> list[Result]:
    """Run a task of each size on one network."""
    stage = Stage(directory, base_port, ledger)
    try:
        stage.bring_up()
        stage.watch_memory()
        for organisation in COMMITTEE:
            run = [
                sys.executable,
                "-m",
                "blockfl.cli.main",
                "aggregator",
                "run",
                "--profile",
                stage.profile(organisation),
            ]
            stage.start(f"aggregator {organisation}", [*run, "--directory", str(directory / "agg" / organisation)])
        return [_measure(stage, dimension) for dimension in dimensions]
    finally:
        stage.close()
        stage.take_down()


def _measure(stage: Stage, dimension: int) -> Result:
    task = f"size-{dimension}"
    weights = {"weights": np.zeros(dimension, np.float32)}
    manifest = manifest_of(weights)
    initial = stage.directory / f"{task}.safetensors"
    initial.write_bytes(encode_model(manifest, weights["weights"]))
    create = ("task", "create", task, "--profile", stage.profile("coordinator"), "--initial", str(initial))
    stage.blockfl(*create, "--rounds", str(ROUNDS), "--submit-seconds", "300", "--judge-seconds", "300")
    for hospital in HOSPITALS:
        run = [sys.executable, "-m", "benchmarks.institution", "--profile", stage.profile(hospital), "--task", task]
        state = stage.directory / "institutions" / hospital / task
        stage.start(f"institution {hospital}", [*run, "--dimension", str(dimension), "--directory", str(state)])
    stage.wait([f"institution {hospital}" for hospital in HOSPITALS], timeout_s=600)
    rounds = stage.query("audit", "rounds", "--task", task)[1:]
    steps = {step: statistics.median(row["seconds"][step] for row in rounds) for step in rounds[0]["seconds"]}
    audit = stage.query("audit", "verify")
    updates = sum(proof["updates"] for proof in audit["tasks"])
    return Result(
        dimension=dimension,
        seconds=statistics.median(sum(row["seconds"].values()) for row in rounds),
        steps=steps,
        bytes_per_update=round(audit["ledger_bytes"] / updates),
        peak_rss_mb={name: round(peak, 1) for name, peak in sorted(stage.peak_rss.items())},
    )
