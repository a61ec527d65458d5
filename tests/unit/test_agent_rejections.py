"""An update that a rule rejects: the agent foresees it and skips the round, or is told; it goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockfl.institution import precheck
from blockfl.institution.agent import _RETRIED_CODES
from blockfl.institution.encoder import BoundedEncoder, UpdateEncoder
from blockfl.institution.errors import (
    NothingContributedError,
)
from blockfl.institution.frames import Train, Trained
from blockfl.institution.training import Progress
from blockfl.institution.vector import Vector
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round
from blockfl.protocol.value_rules import VALUE_RULES
from support.agent_stage import Stage, make_stage
from support.federation import INSTITUTIONS
from support.training import NumpyTraining


async def test_a_scaled_update_of_a_cheating_encoder_is_rejected_and_told(stage: Stage) -> None:
    site = stage.sites["delta"]
    site.encoder = Cheat()

    await stage.run_all()

    first = await stage.scenario.round(1)
    assert first.rejected == ("delta",)
    update = await stage.scenario.update("delta", 1)
    assert update.code == Code.NORM_L2.identifier
    assert any(text.startswith("rejected: BFL416") for text in site.said("verdict"))
    assert (await stage.scenario.round(2)).accepted == INSTITUTIONS


class Cheat(UpdateEncoder):
    """Sends an honest update scaled up in some rounds."""

    def __init__(self, *rounds: int) -> None:
        self.rounds = rounds or (1,)

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        values = BoundedEncoder(3).encode(delta, round_, weight)
        if round_.round not in self.rounds:
            return values
        return np.clip(values.astype(np.int64) * 100, -32767, 32767).astype(np.int16)


async def test_an_agent_whose_updates_were_never_accepted_does_not_end_well(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.encoder = Cheat(1, 2)
    agents = [asyncio.create_task(one.agent().run()) for one in stage.sites.values()]
    await stage.referee.run(2, *INSTITUTIONS)
    ended = dict(zip(stage.sites, await asyncio.gather(*agents, return_exceptions=True), strict=True))

    assert isinstance(ended["alpha"], NothingContributedError)
    assert "no update of alpha was accepted in 2 rounds; round 2: rejected: BFL4" in str(ended["alpha"])
    assert {ended[one] for one in INSTITUTIONS if one != "alpha"} == {None}
    assert stage.sites["beta"].steps[-1].text == "done with task heart: 2 of 2 rounds contributed"


async def test_training_that_gives_nan_skips_the_round_and_takes_part_in_the_next(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = Broken(stage.scenario.spec.manifest)

    await stage.run_beside(stage.play_two_rounds(skipped=1))

    assert any("BFL307" in text for text in site.said("skip"))
    assert (await stage.scenario.round(1)).absent == ("alpha",)
    assert (await stage.scenario.round(2)).accepted == INSTITUTIONS


class Broken(NumpyTraining):
    """Gives NaN the first time."""

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        values, trained = await super().train(base, request, progress)
        if self.trained == 1:
            values[3] = np.nan
        return values, trained


async def test_a_rule_that_only_the_table_knows_costs_the_round_and_does_not_end_the_agent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = "as the table says"
    new = replace(VALUE_RULES[0], code=Code.EPHEMERAL_KEY, check=lambda _: (), explain=lambda _: explain)
    monkeypatch.setattr(precheck, "VALUE_RULES", (*VALUE_RULES, new))
    await stage.enrol_and_open()

    expected = f"the update would be rejected, so none is sent: BFL422 {explain}"
    assert await stage.run_until_skip() == expected


@pytest.mark.parametrize("code", [code for code in Code if code not in _RETRIED_CODES], ids=lambda code: code.name)
async def test_no_code_that_stands_in_the_way_of_an_update_ends_the_agent(stage: Stage, code: Code) -> None:
    site = stage.sites["alpha"]
    site.encoder = Refusing(code)
    await stage.enrol_and_open()

    assert code.identifier in await stage.run_until_skip()


class Refusing(UpdateEncoder):
    """Finds that no update can be made."""

    def __init__(self, code: Code) -> None:
        self._code = code

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        raise ProtocolError(self._code, "refused")


def rules(**changes: Any) -> NormRules:
    nothing = {"tensors": (), "minimum_l2_micro": 0, "minimum_cosine_micro": None, "adaptive": None}
    return NormRules.model_validate(nothing | changes)


async def test_it_obeys_the_bounds_of_tensors_and_of_each_round_by_itself(tmp_path: Path) -> None:
    """Training gives far more than either allows."""
    tight = rules(
        tensors=(TensorBound(tensor="bias", bound_l2_micro=1_000),),
        adaptive=AdaptiveBound(rounds=1, factor_permille=1000, floor_l2_micro=50_000),
    )
    stage = await make_stage(tmp_path, rounds=3, norms=tight)
    await stage.run_all(3)
    for number in (1, 2, 3):
        assert (await stage.scenario.round(number)).accepted == INSTITUTIONS


async def test_nothing_learnt_is_a_skipped_round_where_the_task_asks_for_a_least_norm(tmp_path: Path) -> None:
    stage = await make_stage(tmp_path, norms=rules(minimum_l2_micro=1_000))
    site = stage.sites["alpha"]
    site.training = Idle(stage.scenario.spec.manifest)

    await stage.run_beside(stage.play_two_rounds(skipped=1))

    (text,) = site.said("skip")
    assert "BFL420 the update's L2 norm is 0, the task asks for at least 0.001" in text
    assert (await stage.scenario.round(1)).absent == ("alpha",)
    assert (await stage.scenario.round(2)).accepted == INSTITUTIONS


async def test_a_step_back_is_a_skipped_round_where_the_task_asks_for_a_least_cosine(tmp_path: Path) -> None:
    stage = await make_stage(tmp_path, norms=rules(minimum_cosine_micro=-990_000))
    site = stage.sites["alpha"]
    site.training = Backwards(stage.scenario.spec.manifest)

    await stage.run_beside(stage.play_two_rounds(skipped=2))

    (text,) = site.said("skip")
    assert "BFL421 the update's cosine to the last global update is -0.99" in text
    assert "the task asks for at least -0.99: this institution's data pull another way" in text
    assert (await stage.scenario.round(1)).accepted == INSTITUTIONS
    assert (await stage.scenario.round(2)).accepted == ("beta", "delta", "gamma")


async def test_an_encoder_of_one_s_own_is_sent_as_it_is(tmp_path: Path) -> None:
    stage = await make_stage(tmp_path, rounds=1, norms=rules(minimum_l2_micro=1_000))
    stage.sites["alpha"].training = Idle(stage.scenario.spec.manifest)
    stage.sites["alpha"].encoder = BoundedEncoder(3)
    with pytest.raises(ExceptionGroup) as ended:
        await stage.run_all(1)
    assert [type(one) for one in ended.value.exceptions] == [NothingContributedError]
    assert (await stage.scenario.update("alpha")).code == Code.NORM_MINIMUM.identifier


class Idle(NumpyTraining):
    """Learns nothing the first time."""

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        values, trained = await super().train(base, request, progress)
        return (base.copy() if self.trained == 1 else values), trained


class Backwards(NumpyTraining):
    """The second time, goes back to where the first began."""

    first: Vector | None = None

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        values, trained = await super().train(base, request, progress)
        if self.first is None:
            self.first = base.copy()
            return values, trained
        return self.first, trained
