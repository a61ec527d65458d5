"""What an update says: values that are too large, none, or no values at all; and what is said about them."""

from __future__ import annotations

import numpy as np

from attacks.bout import Bout
from attacks.catalogue import Outcome, attack, refused, rejected
from attacks.observation import attempt, attempt_all
from attacks.terms import WIDE
from blockfl.protocol.codes import Code
from blockfl.protocol.payload import MAX_VALUE


@attack(
    "scaled update",
    by="institution",
    does="Multiplies its update until every value is the largest there is, to replace the model by its own.",
    expect=rejected(Code.NORM_L2),
)
async def scaled(bout: Bout) -> Outcome:
    await bout.open()
    return await bout.poison(np.sign(bout.learnt()) * np.int16(MAX_VALUE))


@attack(
    "update just over the bound",
    by="institution",
    does="Exceeds the L2 bound by the smallest amount that integers allow.",
    expect=rejected(Code.NORM_L2),
)
async def just_over(bout: Bout) -> Outcome:
    round_ = await bout.open()
    part = round_.participant("delta")
    assert part is not None
    allowed = part.weight**2 * int(round_.bound_l2_squared)
    values = np.zeros_like(bout.learnt())
    values[0] = int(allowed**0.5)
    rest = allowed - int(values[0]) ** 2
    values[1] = int(rest**0.5) + 1
    return await bout.poison(values)


@attack(
    "one huge value",
    by="institution",
    does="Puts the whole norm that it is allowed into a single value.",
    expect=rejected(Code.NORM_LINF),
    terms=WIDE,
)
async def spike(bout: Bout) -> Outcome:
    round_ = await bout.open()
    part = round_.participant("delta")
    assert part is not None
    values = np.zeros_like(bout.learnt())
    values[7] = part.weight * round_.bound_linf + 1
    return await bout.poison(values)


@attack(
    "NaN in the place of values",
    by="institution",
    does="Seals the bytes of floating-point NaNs where integers belong; integers are all that the judge reads there.",
    expect=rejected(Code.NORM_L2),
)
async def nan(bout: Bout) -> Outcome:
    await bout.open()
    bits = np.full(bout.learnt().size, np.nan, dtype=np.float16).view(np.int16)
    return await bout.poison(bits)


@attack(
    "floats instead of integers",
    by="institution",
    does="Announces and seals 32-bit floats, NaN among them, which take twice the place.",
    expect=refused(Code.PAYLOAD_FORMAT),
)
async def floats(bout: Bout) -> Outcome:
    await bout.open()
    values = np.full(bout.learnt().size, np.nan, dtype="<f4")
    return await attempt(bout.send(await bout.seal_bytes(values.tobytes())))


@attack(
    "the value that has no negative",
    by="institution",
    does="Sends -32768, which honest clients cannot encode.",
    expect=rejected(Code.RANGE),
)
async def minimum(bout: Bout) -> Outcome:
    await bout.open()
    values = bout.learnt()
    values[3] = -(2**15)
    return await bout.send(await bout.seal_bytes(values.astype("<i2").tobytes()))


@attack(
    "other dimension",
    by="institution",
    does="Sends an update of one value more than the model has.",
    expect=refused(Code.HEADER_MANIFEST),
)
async def dimension(bout: Bout) -> Outcome:
    await bout.open()
    forgery = await bout.seal_bytes(np.append(bout.learnt(), 1).astype("<i2").tobytes())
    return await attempt(bout.send(forgery.change(dimension=forgery.header.dimension + 1)))


@attack(
    "other manifest or base model",
    by="institution",
    does="Names tensors, or a base model, that are not the round's.",
    expect=(refused(Code.HEADER_MANIFEST), refused(Code.HEADER_BASE)),
)
async def manifest(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    forgery = await bout.seal()
    return await attempt_all(
        bout.send(forgery.change(manifest_digest="ab" * 32)), bout.send(forgery.change(base_digest="ab" * 32))
    )


@attack(
    "more samples than declared",
    by="institution",
    does="Claims in the header more samples, a larger weight, a finer scale or a wider bound than the round gives it.",
    expect=refused(Code.HEADER_TERMS),
)
async def samples(bout: Bout) -> tuple[Outcome, ...]:
    round_ = await bout.open()
    forgery = await bout.seal()
    return await attempt_all(
        bout.send(forgery.change(samples=10_000)),
        bout.send(forgery.change(weight=forgery.header.weight + 1)),
        bout.send(forgery.change(scale=round_.scale + 1)),
        bout.send(forgery.change(bound_l2_squared=str(4 * int(round_.bound_l2_squared)))),
    )


@attack(
    "more samples in mid-round",
    by="institution",
    does="Enrols again with a million samples after it has seen the round's weights.",
    expect=refused(Code.TASK_BUSY),
)
async def enrol_again(bout: Bout) -> Outcome:
    await bout.open()
    return await attempt(bout.network.submit("delta", "Enrol", bout.task, "1000000"))
