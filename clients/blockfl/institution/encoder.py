"""From a trained delta to the integers that are sealed, as a collaborator of the agent."""

from typing import Protocol

import numpy as np

from blockfl.institution.vector import Vector
from blockfl.protocol.payload import Values
from blockfl.protocol.quantise import quantise_update
from blockfl.protocol.records import Round
from blockfl.protocol.statistics import encode_statistics


class UpdateEncoder(Protocol):
    """Makes the integers of an update."""

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        """Return the values to be sealed, int16 of shape (d,).

        Args:
            delta: Trained values minus base values, float32 of shape (d,); statistics in their own units.
            round_: The round, with scale and bounds.
            weight: The institution's weight ω in it.

        Raises:
            ProtocolError: BFL307 for NaN or infinity.
        """


class BoundedEncoder:
    """Clips, weights and rounds stochastically, so that the round's norm rule holds."""

    def __init__(self, seed: int | None = None) -> None:
        """Choose the randomness of the rounding; None: the system's."""
        self._seed = seed

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        """Return the values to be sealed, int16 of shape (d,); see ``quantise_update``."""
        generator = np.random.default_rng(None if self._seed is None else [self._seed, round_.round])
        bound = int(round_.bound_l2_squared)
        tensors = round_.norms.tensors if round_.norms else ()
        limits = round_.statistics
        weights = delta[: limits.trained] if limits else delta
        values = quantise_update(
            weights,
            weight=weight,
            scale=round_.scale,
            bound_l2_squared=bound,
            bound_linf=round_.bound_linf,
            generator=generator,
            tensors=tensors,
        )
        if limits is None:
            return values
        return np.concatenate([values, encode_statistics(delta[limits.trained :], weight, limits, generator)])
