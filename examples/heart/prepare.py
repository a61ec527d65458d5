"""Write what each hospital and the coordinator bring: rows as .npz, the model as .keras."""

import argparse
import shutil
from pathlib import Path

from examples.heart.hospitals import load_all
from examples.heart.model import save_model


def main() -> None:
    """Write the files into a directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--apart", action="store_true", help="a directory per hospital, as containers expect them")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    model = arguments.directory / "model.keras"
    save_model(model, arguments.seed)
    for hospital, split in load_all(arguments.seed).items():
        if arguments.apart:
            (arguments.directory / hospital).mkdir(exist_ok=True)
            split.save(arguments.directory / hospital / "data.npz")
            shutil.copy(model, arguments.directory / hospital)
        else:
            split.save(arguments.directory / f"{hospital}.npz")


if __name__ == "__main__":
    main()
