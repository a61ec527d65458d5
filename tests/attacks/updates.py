"""What an update says: values that are too large, none, or no values at all; and what is said about them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from attacks.bout import AHEAD_S, ATTACKER, Bout
from attacks.catalogue import Outcome, attack, outvoted, refused, rejected, succeeded
from attacks.observation import attempt, attempt_all
from attacks.terms import ADAPTIVE, PLAIN, ROBUST, STRICT, WIDE, Terms
from blockfl.protocol.codes import Code
from blockfl.protocol.payload import MAX_VALUE, Values


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
    allowed = bout.weight**2 * int(round_.bound_l2_squared)
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
    values = np.zeros_like(bout.learnt())
    values[7] = bout.weight * round_.bound_linf + 1
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


# What every norm rule allows

FOLLOWED = succeeded("the model follows it")


def stretch(bout: Bout, direction: npt.NDArray[np.float64]) -> Values:
    """Return an update in a direction, as long as the bound allows."""
    allowed = 0.99 * bout.weight * int(bout.round.bound_l2_squared) ** 0.5
    values = direction / np.linalg.norm(direction) * allowed
    limit = min(MAX_VALUE, bout.weight * bout.round.bound_linf)
    return np.asarray(np.clip(values, -limit, limit), dtype=np.int16)


def flip(bout: Bout) -> Values:
    """The opposite of what was learnt, as long as the bound allows."""
    return stretch(bout, -bout.learnt().astype(np.float64))


def draw_noise(bout: Bout) -> Values:
    """Random numbers, as long as the bound allows."""
    return stretch(bout, np.random.default_rng(bout.number).normal(size=bout.learnt().size))


def choose_value(bout: Bout) -> Values:
    """What was learnt, but for one value that is as large as the bound allows."""
    values = bout.learnt()
    values[5] = stretch(bout, np.eye(1, values.size, 5)[0])[5] - 100
    return values


async def sway(bout: Bout, make: Callable[[Bout], Values], name: str) -> Outcome:
    """Send an update that no norm rule refuses and say whether the model is nearer to the honest than they are."""
    await bout.open()
    accepted = await bout.poison(make(bout))
    if accepted != succeeded("accepted"):
        return accepted
    await bout.finish()
    return outvoted(name) if bout.measure_influence() <= 1 else FOLLOWED


POISONS: dict[str, tuple[str, Callable[[Bout], Values]]] = {
    "sign flip": ("Sends the opposite of what it learnt, as long as the bound allows", flip),
    "plausible noise": ("Sends random numbers, as long as the bound allows", draw_noise),
    "one value of its choice": ("Pushes one value as far as the bound allows and is honest otherwise", choose_value),
}


def enter(poison: str, name: str, terms: Terms, expect: Outcome) -> None:
    """Enter a poison against a rule into the catalogue."""
    does, make = POISONS[poison]

    @attack(f"{poison} against {name}", by="institution", does=f"{does}.", expect=expect, terms=terms)
    async def _(bout: Bout) -> Outcome:
        return await sway(bout, make, name)


for _poison in POISONS:
    enter(_poison, "FedAvg", PLAIN, FOLLOWED)
    for _name, _terms in ROBUST.items():
        enter(_poison, _name, _terms, outvoted(_name))


async def declare_a_million(bout: Bout) -> int:
    """Enrol anew with a million samples in a task of its own; return the weight that this gives."""
    other = await bout.arena.begin_anew(bout.terms)
    # By a clock that goes ahead: an enrolment may be changed once in ten seconds.
    with other.network.clock(ATTACKER, AHEAD_S):
        await other.network.submit(ATTACKER, "Enrol", other.task, "1000000")
    await other.open()
    await other.finish()
    return other.weight


@attack(
    "a million samples declared",
    by="institution",
    does="Enrols with a million samples in a task that weights by samples; nobody can count them.",
    expect=succeeded("the largest weight there is"),
)
async def million(bout: Bout) -> Outcome:
    largest = await declare_a_million(bout) == bout.scenario.spec.weight_cap
    return succeeded("the largest weight there is") if largest else outvoted("the cap")


@attack(
    "a million samples declared, against the median",
    by="institution",
    does="Enrols with a million samples in a task whose rule is not linear.",
    expect=outvoted("equal weights"),
    terms=ROBUST["the median"],
)
async def million_in_vain(bout: Bout) -> Outcome:
    return outvoted("equal weights") if await declare_a_million(bout) == 1 else succeeded("a weight of its own")


# Further norm rules, where a task has them


@attack(
    "zero update",
    by="institution",
    does="Sends zeros in a task that asks for a least norm.",
    expect=rejected(Code.NORM_MINIMUM),
    terms=STRICT,
)
async def zero(bout: Bout) -> Outcome:
    await bout.open()
    return await bout.poison(np.zeros_like(bout.learnt()))


@attack(
    "zero update where none is asked",
    by="institution",
    does="Sends zeros in a task without a least norm: it slows the model down a little and harms nobody.",
    expect=succeeded("accepted"),
)
async def zero_allowed(bout: Bout) -> Outcome:
    await bout.open()
    return await bout.poison(np.zeros_like(bout.learnt()))


@attack(
    "everything into one tensor",
    by="institution",
    does="Stays within the bound of the whole and spends it all on the bias, which has a bound of its own.",
    expect=rejected(Code.NORM_TENSOR),
    terms=STRICT,
)
async def one_tensor(bout: Bout) -> Outcome:
    await bout.open()
    values = np.zeros_like(bout.learnt())
    values[-1] = int(0.06 * bout.weight * 2**bout.round.scale)
    return await bout.poison(values)


@attack(
    "last update turned back",
    by="institution",
    does="Sends the opposite of the last global update, in a task that asks for a least cosine to that.",
    expect=rejected(Code.COSINE),
    terms=STRICT,
)
async def turned_back(bout: Bout) -> Outcome:
    before = await bout.play_before()
    await bout.open()
    total = (await before.scenario.sum(before.number, before.scenario.spec.institutions)).values
    return await bout.poison((-total / np.linalg.norm(total) * np.linalg.norm(bout.learnt())).astype(np.int16))


@attack(
    "growing beyond the others",
    by="institution",
    does="Sends an update within the task's bound, many times as long as those that were accepted before.",
    expect=rejected(Code.NORM_L2),
    terms=ADAPTIVE,
)
async def growing(bout: Bout) -> Outcome:
    await bout.play_before()
    await bout.open()
    values = bout.learnt().astype(np.float64)
    within = 0.5 * bout.weight * 2.0**bout.round.scale
    return await bout.poison(np.clip(values / np.linalg.norm(values) * within, -MAX_VALUE, MAX_VALUE).astype(np.int16))
