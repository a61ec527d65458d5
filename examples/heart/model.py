"""The example's Keras model: 13 inputs, one hidden layer, one probability."""

from pathlib import Path

import keras
from examples.heart.hospitals import INPUTS


def build_model(seed: int = 0, learning_rate: float = 0.1) -> keras.Model:
    """Return the compiled model; equal seeds give equal initial weights."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.L2(0.003)),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(learning_rate), loss="binary_crossentropy", metrics=["accuracy"])
    return model


def save_model(path: Path, seed: int = 0) -> None:
    """Write the model as a file that institutions and the coordinator bring."""
    build_model(seed).save(path)
