"""A site's table, as an example writes it for its institution."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def write_shuffled(path: Path, rows: Sequence[Mapping[str, str]], seed: int) -> Path:
    """Write rows with the same columns as CSV, in an order that a seed chooses; return the path."""
    order = np.random.default_rng(seed).permutation(len(rows))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[row] for row in order)
    return path
