"""What poisoned institutions send instead of what they learnt: each obeys every rule that judges a single update.

The attackers act together and know everything: the model, the rule, and what every honest institution learnt.

Sources: Baruch et al. 2019, "A Little Is Enough"; Xie et al. 2020, "Fall of Empires" (inner-product manipulation).
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from benchmarks.perceptron import Doubles


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What attackers have before them.

    Attributes:
        own: What they would learn honestly, shape (attackers, d).
        flipped: What they learn from rows with the labels exchanged.
        honest: What the honest ones learnt, shape (others, d).
        bound_l2: The task's norm bound.
        generator: Their randomness.
    """

    own: Doubles
    flipped: Doubles
    honest: Doubles
    bound_l2: float
    generator: np.random.Generator


Attack = Callable[[Scene], Doubles]


def stay_honest(scene: Scene) -> Doubles:
    """Send what was learnt."""
    return scene.own


def flip_sign(scene: Scene) -> Doubles:
    """Send the opposite of what was learnt."""
    return -scene.own


def scale_reversed(scene: Scene) -> Doubles:
    """Send the opposite, as long as the bound allows."""
    return -_stretch(scene.own, scene.bound_l2)


def send_noise(scene: Scene) -> Doubles:
    """Send noise, as long as the bound allows."""
    return _stretch(scene.generator.standard_normal(scene.own.shape), scene.bound_l2)


def flip_labels(scene: Scene) -> Doubles:
    """Train on exchanged labels."""
    return scene.flipped


def send_a_little(scene: Scene) -> Doubles:
    """Send the honest mean, off by as many standard deviations as enough honest ones are: ALIE."""
    attackers, others = len(scene.own), len(scene.honest)
    count = attackers + others
    supporters = count // 2 + 1 - attackers
    z = NormalDist().inv_cdf((others - supporters) / others)
    one = scene.honest.mean(axis=0) - z * scene.honest.std(axis=0)
    return np.repeat(one[None], attackers, axis=0)


def manipulate_a_little(scene: Scene) -> Doubles:
    """Send −0.5 times the honest mean: inside of what is likely, but backwards."""
    return _repeat_mean(scene, -0.5)


def manipulate_much(scene: Scene) -> Doubles:
    """Send −3 times the honest mean: enough to turn the mean around."""
    return _repeat_mean(scene, -3.0)


def send_nothing(scene: Scene) -> Doubles:
    """Send zeros."""
    return np.zeros_like(scene.own)


ATTACKS: Final[dict[str, Attack]] = {
    "none": stay_honest,
    "sign flip": flip_sign,
    "reversed, scaled to the bound": scale_reversed,
    "noise at the bound": send_noise,
    "label flip": flip_labels,
    "a little is enough": send_a_little,
    "inner product −0.5": manipulate_a_little,
    "inner product −3": manipulate_much,
    "zero": send_nothing,
}


def _stretch(updates: Doubles, norm: float) -> Doubles:
    lengths = np.linalg.norm(updates, axis=1, keepdims=True)
    stretched: Doubles = updates * norm / np.maximum(lengths, 1e-12)
    return stretched


def _repeat_mean(scene: Scene, factor: float) -> Doubles:
    return np.repeat(factor * scene.honest.mean(axis=0, keepdims=True), len(scene.own), axis=0)
