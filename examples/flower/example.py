"""The four hospitals of ``examples.heart`` with an unmodified client of Flower, in an environment of its own."""

from pathlib import Path
from typing import Any

from examples.heart.example import write_sites

CODE = Path(__file__).parent

SETTINGS: dict[str, Any] = {
    "code": CODE,
    "write_sites": write_sites,
    "rounds": 12,
    "batch_size": 16,
    "norm_bound": 3,
}
