"""What poisoned institutions send instead of what they learnt: each obeys every rule that judges a single update.

The attackers act together and know everything: the model, the rule, and what every honest institution learnt. The
adaptive ones know the referee's update, and the rows that updates are tried on, too.

Sources: Baruch et al. 2019, "A Little Is Enough"; Xie et al. 2020, "Fall of Empires" (inner-product manipulation);
Bagdasaryan et al. 2020, "How To Backdoor Federated Learning" (model replacement).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
        triggered: What they learn from their rows and from rows that bear the backdoor's trigger.
        honest: What the honest ones learnt, shape (others, d).
        reference: What the referee learnt, shape (d,).
        measure_rise: What an update adds to the loss on the committee's rows: of its votes the one that counts.
        bound_l2: The task's norm bound.
        generator: Their randomness.
    """

    own: Doubles
    flipped: Doubles
    triggered: Doubles
    honest: Doubles
    reference: Doubles
    measure_rise: Callable[[Doubles], float]
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
    # Attackers that are a majority need nobody: they go as far as the farthest of the others.
    supporters = max(0.5, count // 2 + 1 - attackers)
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


def plant_backdoor(scene: Scene) -> Doubles:
    """Send what is learnt from the trigger, as long as the bound allows: it is to replace the model."""
    return _stretch(scene.triggered, scene.bound_l2)


def agree_a_little(scene: Scene, *, cosine: float) -> Doubles:
    """Send an update of the bound's length: of this cosine to the reference, the rest against the honest mean."""
    unit = _normalise(scene.reference)
    mean = scene.honest.mean(axis=0)
    against = _normalise(mean - (mean @ unit) * unit)
    one = scene.bound_l2 * (cosine * unit - np.sqrt(1 - cosine**2) * against)
    return np.repeat(one[None], len(scene.own), axis=0)


def raise_a_little(scene: Scene) -> Doubles:
    """Send the opposite of the honest mean, as long as it raises the loss by no more than ``TOLERANCE``."""
    against = -_normalise(scene.honest.mean(axis=0))
    least, most = 0.0, scene.bound_l2
    for _ in range(6):
        middle = (least + most) / 2
        if scene.measure_rise(middle * against) <= TOLERANCE:
            least = middle
        else:
            most = middle
    return np.repeat(least * against[None], len(scene.own), axis=0)


TOLERANCE: Final = 0.01
"""What an update may add to the committee's loss in a task that measures effect on rows."""
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
    "backdoor": plant_backdoor,
}
"""The table's."""
COSINES: Final = (0.05, 0.2, 0.5, 0.7)
ADAPTIVE: Final[dict[str, Attack]] = {
    **{f"adaptive, cosine {cosine}": partial(agree_a_little, cosine=cosine) for cosine in COSINES},
    "adaptive, within the loss": raise_a_little,
}
"""Of attackers that know the reference."""


def _normalise(vector: Doubles) -> Doubles:
    unit: Doubles = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


def _stretch(updates: Doubles, norm: float) -> Doubles:
    lengths = np.linalg.norm(updates, axis=1, keepdims=True)
    stretched: Doubles = updates * norm / np.maximum(lengths, 1e-12)
    return stretched


def _repeat_mean(scene: Scene, factor: float) -> Doubles:
    return np.repeat(factor * scene.honest.mean(axis=0, keepdims=True), len(scene.own), axis=0)
