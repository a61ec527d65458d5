"""Federated against pooled training and each hospital alone, over ten random splits of the same rows.

The federated runs use the agent's own training, quantisation and aggregation code, without the ledger: the weights,
bounds and scale of a real task. All three train the same model from the same initial weights for as many epochs, and
accuracy is on the union of the four test sets. Writes ``build/accuracy/summary.json``.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from examples.heart.baseline import train_baselines
from examples.heart.demo import BATCH_SIZE, BOUND_L2, EPOCHS
from examples.heart.hospitals import Split, load_all
from examples.heart.model import save_model

from blockfl.institution.frames import Begin, Train
from blockfl.institution.learner import Learner
from blockfl.institution.vector import Vector
from blockfl.protocol.payload import INT16
from blockfl.protocol.quantise import quantise_update
from blockfl.protocol.sums import Sum, apply_sum
from blockfl.protocol.terms import compute_bounds, compute_weights

ROUNDS = 12
WEIGHT_CAP = 16
SAMPLES_CAP = 10**6


def train_federated(splits: dict[str, Split], seed: int, directory: Path) -> float:
    """Return the accuracy of federated training on one split."""
    workloads = {name: _load(name, split, seed, directory) for name, split in splits.items()}
    samples = {name: len(split.y_train) for name, split in splits.items()}
    weights = compute_weights(samples, samples_cap=SAMPLES_CAP, weight_cap=WEIGHT_CAP)
    base: Vector = next(iter(workloads.values())).initial()
    bounds = compute_bounds(
        round(BOUND_L2 * 10**6), weight_max=max(weights.values()), dimension=base.size, encoding=INT16
    )
    generator = np.random.default_rng(seed)
    for number in range(ROUNDS):
        total = Sum(base.size)
        for name, workload in workloads.items():
            request = Train(epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=None, seed=seed * 1000 + number)
            _, trained = workload.train(base, request, lambda _: None)
            total.add(
                quantise_update(
                    trained.astype(np.float64) - base,
                    weight=weights[name],
                    scale=bounds.scale,
                    bound_l2_squared=bounds.l2_squared,
                    bound_linf=bounds.linf,
                    generator=generator,
                )
            )
        base = apply_sum(base, total.values, scale=bounds.scale, divisor=sum(weights.values()))
    found = {name: workload.evaluate(base) for name, workload in workloads.items()}
    correct = sum((one.accuracy or 0.0) * one.samples for one in found.values())
    return correct / sum(len(split.y_test) for split in splits.values())


def _load(name: str, split: Split, seed: int, directory: Path) -> Learner:
    data = directory / f"{name}.npz"
    split.save(data)
    return Learner.load(
        Begin(
            confined=False,
            scratch=str(directory),
            readable=(),
            private=(),
            model=str(directory / "model.keras"),
            code=None,
            data=str(data),
            label=None,
            test_fraction=0.25,
            seed=seed,
        )
    )


def main() -> None:
    """Run all splits and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--directory", type=Path, default=Path("build/accuracy"))
    arguments = parser.parse_args()
    federated: list[float] = []
    pooled: list[float] = []
    alone: dict[str, list[float]] = {}
    for seed in range(arguments.splits):
        splits = load_all(seed)
        with tempfile.TemporaryDirectory() as directory:
            save_model(Path(directory) / "model.keras", seed)
            federated.append(train_federated(splits, seed, Path(directory)))
        baselines = train_baselines(splits, seed, EPOCHS * ROUNDS, BATCH_SIZE)
        pooled.append(baselines.pooled)
        for name, accuracy in baselines.alone.items():
            alone.setdefault(name, []).append(accuracy)
        single = ", ".join(f"{name} {values[-1]:.3f}" for name, values in alone.items())
        print(f"split {seed}: federated {federated[-1]:.3f}, pooled {pooled[-1]:.3f}, alone {single}", flush=True)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    summary = {"federated": federated, "pooled": pooled, "alone": alone}
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    means = {name: float(np.mean(values)) for name, values in alone.items()}
    print(f"mean: federated {np.mean(federated):.4f}, pooled {np.mean(pooled):.4f}, alone {means}")


if __name__ == "__main__":
    main()
