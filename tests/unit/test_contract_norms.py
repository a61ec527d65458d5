"""Tasks with norm rules, in the contract: what rounds freeze, each verdict, and the bound that adapts."""

from __future__ import annotations

import numpy as np
import pytest

from blockfl.protocol import catalogue
from blockfl.protocol.aggregation import Median
from blockfl.protocol.codes import Code
from blockfl.protocol.norm_rules import NormRules, TensorBound
from blockfl.protocol.payload import INT16
from blockfl.protocol.records import Round
from blockfl.protocol.sums import encode_sum
from blockfl.protocol.terms import compute_bounds, compute_typical, freeze_norms
from support.contract import refused
from support.strict_task import CODES, NORM_MICRO, RULES, Breach, StrictTask, make_strict_spec
from support.world import CONFLICT, World


async def make_task(rules: NormRules = RULES) -> StrictTask:
    world = World()
    spec = make_strict_spec(rules=rules)
    task = StrictTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.prepare()
    return task


def world_of(task: StrictTask) -> World:
    assert isinstance(task.ledger, World)
    return task.ledger


def bound_of(round_: Round) -> int:
    assert round_.norms is not None
    return round_.norms.bound_l2_micro


@pytest.mark.parametrize("kind", list(CODES))
async def test_an_update_that_breaks_one_rule_is_rejected_with_its_code_and_the_round_goes_on(kind: Breach) -> None:
    task = await make_task()
    verdicts, model = await task.play(1, task.initial_model, {})
    assert {one.state for one in verdicts.values()} == {"accepted"}
    verdicts, _ = await task.play(2, model, {"gamma": kind})
    assert verdicts["gamma"].code == CODES[kind]
    assert [name for name, one in verdicts.items() if one.state == "accepted"] == ["alpha", "beta", "delta"]
    assert (await task.progress()).version == 2
    exact = int(np.square((await task.breach("gamma", 2, kind)).astype(np.int64)).sum())
    assert verdicts["gamma"].norm_l2_squared_bits == exact.bit_length()
    assert exact < 100 or str(exact) not in verdicts["gamma"].encode().decode()


async def test_a_round_freezes_the_rules_as_integers() -> None:
    task = await make_task()
    round_ = await task.open()
    assert round_.norms == freeze_norms(task.spec, 1_000_000, scale=round_.scale, has_last_sum=False, has_referee=False)
    assert round_.norms is not None
    assert [(one.tensor, one.offset, one.size) for one in round_.norms.tensors] == [("kernel", 0, 8), ("bias", 8, 2)]


async def test_the_bound_follows_the_accepted_norms_and_stays_near_them() -> None:
    task = await make_task()
    model = task.initial_model
    for number in (1, 2, 3, 4):
        _, model = await task.play(number, model, {})
        closed = await task.round(number)
        updates = {name: await task.update(name, number) for name in task.spec.institutions}
        norms = [(updates[one.organisation].norm_l2_squared_bits, one.weight) for one in closed.participants]
        assert closed.norms is not None
        assert closed.norms.typical_l2_micro == compute_typical(norms, closed.scale)
    bounds = [bound_of(await task.round(number)) for number in (1, 2, 3, 4)]
    assert bounds[0] == 1_000_000
    # A norm that is known by its bit length counts as up to √2 of itself; the factor is 1.5.
    assert all(1.5 * 0.9 * NORM_MICRO < bound < 1.5 * 1.5 * NORM_MICRO for bound in bounds[1:])
    round_ = await task.round(4)
    expected = compute_bounds(bounds[3], weight_max=3, dimension=10, encoding=INT16)
    assert (round_.scale, int(round_.bound_l2_squared)) == (expected.scale, expected.l2_squared)
    assert round_.scale > (await task.round(1)).scale


async def test_the_bound_looks_back_to_the_last_published_rounds_only() -> None:
    """Two rounds back: not the first of three, and not one that failed."""
    task = await make_task()
    _, model = await task.play(1, task.initial_model, {})
    _, model = await task.play(2, model, {})
    await task.open(3)
    world_of(task).now_ms += 3_600_000
    assert (await task.close(3)).state == "failed"
    _, model = await task.play(4, model, {})
    opening = await world_of(task).endorse("coordinator", "OpenRound", "heart", "5")
    read = {key for collection, key in opening.simulation.reads if not collection and key.startswith("round/")}
    assert read == {"round/heart/000002", "round/heart/000004"}


async def test_a_poisoned_minority_cannot_drive_the_bound_up() -> None:
    task = await make_task()
    _, model = await task.play(1, task.initial_model, {})
    honest = bound_of(await task.open(2))
    for number in range(2, 6):
        if number > 2:
            await task.open(number)
        for name in task.spec.institutions:
            values = await task.honest(name, number)
            if name == "gamma":  # as large as the bound lets it be
                values = np.array([(await task.breach(name, number, "bound"))[0] - 1] + [0] * 9, dtype=np.int16)
            await task.submit(name, number, values)
            await task.upload(name, number)
            assert (await task.judge(name, number)).state == "accepted"
        await task.close(number)
        await task.attest(number)
        model = await task.publish(number, model)
    assert bound_of(await task.open(6)) <= honest * 1.5


async def test_the_least_cosine_waits_for_the_first_global_update() -> None:
    task = await make_task()
    verdicts, _ = await task.play(1, task.initial_model, {"gamma": "cosine"})
    assert verdicts["gamma"].state == "accepted"


class MedianTask(StrictTask):
    """The same with the coordinate median, which the committee recomputes."""

    async def total(self, number: int = 1) -> bytes:
        accepted = (await self.round(number)).accepted
        rows = np.sort(np.stack([self.sealed[number, name][2].astype(np.int32) for name in accepted]), axis=0)
        return encode_sum(rows[(len(rows) - 1) // 2] + rows[len(rows) // 2])


async def test_under_another_rule_the_last_global_update_is_what_that_rule_published() -> None:
    spec, model = make_strict_spec()
    spec = spec.model_copy(update={"aggregation": Median(), "check": "recompute", "weight_cap": 1})
    world = World()
    task = MedianTask(world, world.consortium, world.signers, world.opening_keys, (spec, model))
    await task.prepare()
    _, model = await task.play(1, task.initial_model, {"gamma": "cosine"})
    verdicts, _ = await task.play(2, model, {"gamma": "cosine"})
    assert {name: one.code for name, one in verdicts.items()} == {
        "alpha": "",
        "beta": "",
        "delta": "",
        "gamma": "BFL421",
    }


async def test_a_member_whose_peer_lacks_the_last_sum_refuses_and_the_others_judge() -> None:
    task = await make_task()
    world = world_of(task)
    await task.play(1, task.initial_model, {})
    published = await task.model(1)
    assert published.sum is not None
    await task.open(2)
    await task.submit("alpha", 2, await task.honest("alpha", 2))
    await task.upload("alpha", 2)
    world.lose("university", "models", catalogue.model_chunk_key("heart", published.sum.chunks[0]))
    with refused(Code.CHUNK_UNAVAILABLE):
        await world.simulate("university", "regulator", "JudgeUpdate", "heart", "2", "alpha")
    await world.submit("regulator", "JudgeUpdate", "heart", "2", "alpha", endorsers=["coordinator", "regulator"])
    assert (await task.update("alpha", 2)).state == "accepted"


async def test_the_last_sum_is_read_only_where_the_task_asks_for_a_cosine() -> None:
    rules = NormRules(
        tensors=(TensorBound(tensor="bias", bound_l2_micro=20_000),),
        minimum_l2_micro=0,
        minimum_cosine_micro=None,
        adaptive=None,
    )
    task = await make_task(rules)
    await task.play(1, task.initial_model, {})
    await task.open(2)
    await task.submit("alpha", 2, await task.honest("alpha", 2))
    await task.upload("alpha", 2)
    judging = await world_of(task).endorse("regulator", "JudgeUpdate", "heart", "2", "alpha")
    assert {collection for collection, _ in judging.simulation.reads} == {"", "sealed"}
    opened = await task.round(2)
    assert bound_of(opened) == task.spec.bound_l2_micro


async def test_an_accepted_norm_that_changes_meanwhile_makes_the_opening_invalid() -> None:
    task = await make_task()
    await task.play(1, task.initial_model, {})
    world = world_of(task)
    opening = await world.endorse("coordinator", "OpenRound", "heart", "2")
    closed = await task.round(1)
    assert closed.norms is not None
    norms = closed.norms.model_copy(update={"typical_l2_micro": 900_000})
    world.force("", "round/heart/000001", closed.model_copy(update={"norms": norms}).encode())
    assert world.commit(opening) == CONFLICT
    assert bound_of(await task.open(2)) == 1_000_000


async def test_a_task_whose_rules_cannot_be_is_refused() -> None:
    task = await make_task()
    spec = task.spec.model_copy(update={"task": "lungs"})
    assert spec.norms is not None
    wrong = spec.norms.model_copy(update={"tensors": (TensorBound(tensor="other", bound_l2_micro=5),)})
    with refused(Code.MALFORMED, "no tensor 'other'"):
        await world_of(task).submit("coordinator", "CreateTask", spec.model_copy(update={"norms": wrong}).encode())
