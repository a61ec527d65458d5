"""What an update loses on the way from training to the sealed integers, in words: nothing is shortened silently.

for text in list_losses(spec.manifest, change, round_, part.weight):
    print(text)
"""

from math import isqrt, ldexp

import numpy as np

from blockfl.institution.rounding import compute_step, list_hidden, measure_rounding
from blockfl.institution.vector import Vector
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.quantise import measure_length
from blockfl.protocol.records import Round
from blockfl.protocol.statistics import REACH_BITS


def list_losses(manifest: Manifest, change: Vector, round_: Round, weight: int) -> list[str]:
    """Return what of a change does not arrive whole, in units of the model's weights.

    Args:
        manifest: Of the task.
        change: As ``measure_change`` says, float32 of shape (d,).
        round_: The round, with scale and bounds.
        weight: The institution's weight in it.
    """
    texts = []
    norm = measure_length(change[: manifest.trained])
    bound = ldexp(isqrt(int(round_.bound_l2_squared)), -round_.scale)
    if norm > bound:
        texts.append(
            f"the update is shortened: its norm {norm:.4g} is over the bound {bound:.4g}, so {bound / norm:.0%} "
            "of each change is sent; a higher --norm-bound, a lower learning rate or scaled inputs keep it whole"
        )
    for one in round_.norms.tensors if round_.norms else ():
        own, limit = measure_length(change[one.offset : one.offset + one.size]), isqrt(int(one.l2_squared))
        if own > ldexp(limit, -round_.scale):
            texts.append(f"tensor {one.tensor} is shortened from {own:.4g} to {ldexp(limit, -round_.scale):.4g}")
    for tensor in manifest.tensors:
        if tensor.kind not in ("statistic", "variance"):
            continue
        if np.abs(change[tensor.offset : tensor.offset + tensor.size]).max(initial=0.0) > 1 << REACH_BITS:
            texts.append(f"the statistic {tensor.name} moved too far for one round; only a part of its move is sent")
    step = compute_step(round_.scale, weight)
    return texts + list_hidden(measure_rounding(manifest, change, step), step)
