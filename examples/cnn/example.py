"""Handwritten digits at four post offices, and a network of convolutions with batch normalisation: a million weights.

Source: UCI, Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), doi 10.24432/C50P49, CC BY
4.0: its 1797 test images of 8 x 8 pixels, as scikit-learn (BSD) has them. They stand in the order of their 13 writers;
each office has a quarter of them, and so writers that no other office has. That each office's scanner has a
brightness and a contrast of its own is ours: it makes the offices' batch statistics unlike each other.
"""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).with_name("digits.csv.gz")
OFFICES = {"east": (1.0, 0.0), "north": (0.8, 0.1), "south": (0.7, 0.0), "west": (0.9, 0.05)}
"""Contrast and brightness of each office's scanner."""
TEST_FRACTION = 0.25


def write_sites(directory: Path, seed: int) -> Mapping[str, Path]:
    """Write each office's images, float32 of shape (n, 8, 8, 1), split at random by a seed."""
    with gzip.open(DATA, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    generator, files = np.random.default_rng(seed), {}
    for (name, (contrast, brightness)), own in zip(OFFICES.items(), np.array_split(rows, len(OFFICES)), strict=True):
        images = own[:, :64].reshape(-1, 8, 8, 1) / np.float32(16) * np.float32(contrast) + np.float32(brightness)
        labels = own[:, 64].astype(np.int64)
        order = generator.permutation(len(own))
        test, train = np.split(order, [round(TEST_FRACTION * len(own))])
        files[name] = directory / f"{name}.npz"
        np.savez(files[name], x_train=images[train], y_train=labels[train], x_test=images[test], y_test=labels[test])
    return files


def build_model(seed: int = 0) -> Any:
    """Return two convolutions and a dense layer, each batch-normalised; ten classes, 1,082,026 values."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.Activation("relu"),
            layers.Conv2D(64, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(1024, use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.Activation("relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


SETTINGS: dict[str, Any] = {
    "build_model": build_model,
    "write_sites": write_sites,
    "rounds": 12,
    "batch_size": 32,
    "norm_bound": 10,
}
