"""What federated training is compared with: the same model on the pooled rows, and at each hospital alone.

Accuracy is always on the union of the four test sets, each scaled by its own hospital.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from examples.heart.hospitals import Split, load_all
from examples.heart.model import build_model


def compute_accuracy(model: keras.Model, splits: Mapping[str, Split]) -> float:
    """Return the accuracy on the union of the test sets."""
    correct = total = 0
    for split in splits.values():
        predicted = np.asarray(model(split.x_test))[:, 0] > 0.5
        correct += int((predicted == split.y_test).sum())
        total += len(split.y_test)
    return correct / total


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Accuracy after training on the pooled rows, and on each hospital's own."""

    pooled: float
    alone: dict[str, float]


def train_baselines(splits: Mapping[str, Split], seed: int, epochs: int, batch_size: int) -> Baselines:
    """Train on the pooled rows and on each hospital's own: equal numbers of epochs, the same initial weights."""
    pooled = Split(
        x_train=np.concatenate([split.x_train for split in splits.values()]),
        y_train=np.concatenate([split.y_train for split in splits.values()]),
        x_test=np.empty((0, 0), np.float32),
        y_test=np.empty(0, np.float32),
    )
    return Baselines(
        pooled=_train_and_test(pooled, splits, seed, epochs, batch_size),
        alone={name: _train_and_test(split, splits, seed, epochs, batch_size) for name, split in splits.items()},
    )


def _train_and_test(own: Split, splits: Mapping[str, Split], seed: int, epochs: int, batch_size: int) -> float:
    model = build_model(seed)
    model.fit(own.x_train, own.y_train, epochs=epochs, batch_size=batch_size, verbose=0)
    return compute_accuracy(model, splits)


def main() -> None:
    """Print the baselines as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    result = train_baselines(load_all(arguments.seed), arguments.seed, arguments.epochs, arguments.batch_size)
    arguments.output.write_text(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
