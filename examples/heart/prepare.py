"""Write what each hospital and the coordinator bring: rows as .npz, the model as .keras."""

import argparse
from pathlib import Path

from examples.heart.hospitals import load_all
from examples.heart.model import save_model


def main() -> None:
    """Write the files into a directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for hospital, split in load_all(arguments.seed).items():
        split.save(arguments.directory / f"{hospital}.npz")
    save_model(arguments.directory / "model.keras", arguments.seed)


if __name__ == "__main__":
    main()
