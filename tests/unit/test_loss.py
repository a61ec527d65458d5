"""What an update loses before it is sealed is told from what to what, and nothing is said of one that arrives whole."""

from __future__ import annotations

import numpy as np

from blockfl.institution.loss import list_losses
from blockfl.protocol.norm_rules import TensorLimit
from support.federation import ALL_NORMS, make_federation

FEDERATION = make_federation()
MANIFEST = FEDERATION.task.spec.manifest


def test_an_update_within_the_bound_is_not_talked_about() -> None:
    change = np.full(MANIFEST.dimension, 0.1, dtype=np.float32)
    assert list_losses(MANIFEST, change, FEDERATION.round, 1) == []


def test_an_update_over_the_bound_tells_its_norm_the_bound_and_the_share_that_is_sent() -> None:
    change = np.full(MANIFEST.dimension, 1, dtype=np.float32)
    (text,) = list_losses(MANIFEST, change, FEDERATION.round, 1)
    assert f"its norm {MANIFEST.dimension**0.5:.4g} is over the bound 1, so 27% of each change is sent" in text


def test_a_tensor_over_its_own_bound_is_named() -> None:
    round_ = make_federation(norms=ALL_NORMS).round
    assert round_.norms is not None
    tensor = MANIFEST.tensors[1]
    limit = TensorLimit(
        tensor=tensor.name, offset=tensor.offset, size=tensor.size, l2_squared=str(4**round_.scale // 100)
    )
    round_ = round_.model_copy(update={"norms": round_.norms.model_copy(update={"tensors": (limit,)})})
    change = np.zeros(MANIFEST.dimension, dtype=np.float32)
    change[tensor.offset] = 0.5
    assert list_losses(MANIFEST, change, round_, 1) == [f"tensor {tensor.name} is shortened from 0.5 to 0.09998"]


def test_a_tensor_with_more_noise_than_change_is_named() -> None:
    change = np.full(MANIFEST.dimension, 0.1, dtype=np.float32)
    change[-1] = change[-2] = 2.0**-FEDERATION.round.scale / 4
    (text,) = list_losses(MANIFEST, change, FEDERATION.round, 1)
    assert "hides most of dense/bias (changes 3.1e-05 to 3.1e-05, noise 1.7 times as long)" in text
    assert list_losses(MANIFEST, change, FEDERATION.round, 1) != list_losses(MANIFEST, change, FEDERATION.round, 4)
