"""Before an agent enrols: the task, its tensors and columns, the local policy, the certificate, the role."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from blockfl.contract.authority import compute_creator_digest
from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.institution.agent import AgentSettings
from blockfl.institution.errors import (
    NothingContributedError,
    SettingsError,
    TrainingError,
)
from blockfl.institution.policy import LocalPolicy
from blockfl.ledger.errors import RefusedError
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.model import manifest_of
from blockfl.protocol.task import TaskSpec
from support.agent_stage import Site, Stage
from support.federation import INSTITUTIONS, make_certificate
from support.training import NumpyTraining


async def test_a_model_with_other_tensors_is_refused_before_enrolling(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = NumpyTraining(
        manifest_of({"kernel": np.zeros((2, 4), np.float32), "bias": np.zeros(2, np.float32)})
    )

    with pytest.raises(ProtocolError, match=r"BFL306 .*tensor 1 is expected to be kernel \(8,\), got kernel \(2, 4\)"):
        await site.agent().run()

    assert await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart")) == ()


async def test_what_a_rehearsal_finds_wrong_ends_the_agent_before_it_enrols(stage: Stage) -> None:
    async def refuse(spec: TaskSpec) -> tuple[str, ...]:
        assert spec == stage.scenario.spec
        raise TrainingError("the data cannot be used: column 'chol' is not there")

    with pytest.raises(TrainingError, match="column 'chol' is not there"):
        await stage.sites["alpha"].agent(rehearse=refuse).run()

    assert await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart")) == ()


async def test_a_table_that_does_not_fit_a_task_that_is_over_is_told_that_it_is_over(stage: Stage) -> None:
    async def refuse(spec: TaskSpec) -> tuple[str, ...]:
        raise TrainingError("the data cannot be used: column 'chol' is not there")

    alpha = stage.sites["alpha"]
    async with stage.running("beta", "delta", "gamma"):
        await stage.referee.wait_for_enrolments(3)
        await stage.referee.open(1)
        await stage.hub.ledger("coordinator").end_task("heart", "wrong columns")
        with pytest.raises(TrainingError):  # a round is open
            await alpha.agent(rehearse=refuse).run()
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
        await stage.referee.settle(1)

    over = "coordinator has ended task heart after round 1: wrong columns: there is nothing left to take part in"
    with pytest.raises(NothingContributedError, match=f"^{over}. Besides: .* column 'chol' is not there$"):
        await alpha.agent(rehearse=refuse).run()
    beta = stage.sites["beta"]
    await beta.agent(rehearse=refuse).run()  # its update is part of the last round
    assert any(text.startswith(over) for text in beta.said("wait"))


async def test_what_is_to_be_known_of_the_samples_is_told_before_the_institution_enrols(stage: Stage) -> None:
    async def tell(spec: TaskSpec) -> tuple[str, ...]:
        return ("the columns are put into the task's order",)

    site = stage.sites["alpha"]
    running = asyncio.create_task(site.agent(rehearse=tell).run())
    await stage.referee.wait_for_enrolments(1)
    running.cancel()

    stages = [step.stage for step in site.steps]
    first, second, *_ = (step.text for step in site.steps)
    assert first.startswith("reading model and data")
    assert second == "the columns are put into the task's order"
    assert "enrol" in stages[2:]


async def test_a_local_policy_limits_the_updates_of_a_task_and_what_left_is_recorded(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.settings = replace(site.settings, policy=LocalPolicy(tasks=("heart",), rounds=1))
    await stage.run_beside(stage.play_two_rounds(skipped=2))

    assert (await stage.scenario.round(1)).accepted == INSTITUTIONS
    assert (await stage.scenario.round(2)).absent == ("alpha",)
    assert "the local policy allows 1 updates of heart, and so many have left" in site.said("skip")
    left = [json.loads(line) for line in (site.directory / "left.jsonl").read_text().splitlines()]
    assert [(one["what"], one.get("version", one["round"])) for one in left] == [
        ("enrolment", 0), ("update", 1), ("sealed chunks", 1), ("metrics", 0), ("metrics", 1), ("metrics", 2),
    ]  # fmt: skip
    header = await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha"))
    assert left[1]["header"] == header.header.record_digest
    assert left[2]["bytes"] == header.header.payload_bytes


async def test_a_task_that_the_local_policy_does_not_allow_is_not_joined(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.settings = replace(site.settings, policy=LocalPolicy(tasks=("lungs-*",)))
    with pytest.raises(SettingsError, match=r"allows the tasks lungs-\*, not heart"):
        await site.agent().run()
    assert await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart")) == ()


async def test_outside_its_hours_an_agent_waits_and_does_not_train(stage: Stage) -> None:
    site = stage.sites["alpha"]
    moment = datetime.now(UTC).time().replace(microsecond=0)
    site.settings = replace(site.settings, policy=LocalPolicy(hours=((moment, moment),)))
    async with stage.running("alpha", "beta", "delta"):
        await stage.referee.wait_for_enrolments(3)
        await stage.referee.open(1)
        await stage.referee.wait_for_uploads(1, "beta", "delta")
        async with asyncio.timeout(10):
            while not any("the local policy trains at" in text for text in site.said("wait")):
                await asyncio.sleep(0.01)
    assert site.training.trained == 0


async def test_another_certificate_is_enrolled_when_no_round_is_open(stage: Stage) -> None:
    await stage.enrol_and_open()
    site = stage.sites["alpha"]
    rotated = make_rotated_signer(stage)
    ledger = stage.hub.ledger("alpha")
    ledger.signer = stage.hub.world.signers["alpha"] = rotated
    agent = asyncio.create_task(site.agent(ledger).run())
    async with stage.running("beta", "delta", "gamma"):
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
        await site.skipped()
        stage.hub.world.now_ms += 61_000
        await stage.referee.settle(1)
        enrolled = rotated.identity.certificate_pem.decode()
        async with stage.hub.changed:
            while enrolled not in {
                one.certificate for one in await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart"))
            }:
                await stage.hub.changed.wait()
        await stage.referee.open(2)
        await stage.referee.wait_for_uploads(2, *INSTITUTIONS)
        await stage.referee.settle(2)
        await agent

    assert "another certificate" in site.said("skip")[0]
    assert (await stage.scenario.round(2)).accepted == INSTITUTIONS


def make_rotated_signer(stage: Stage) -> Signer:
    key = stage.hub.world.signers["beta"].private_key
    identity = Identity(msp_id="alpha", certificate_pem=make_certificate("alpha", key).encode())  # type: ignore[arg-type]
    return Signer(identity, key)


async def test_an_agent_whose_certificate_was_withdrawn_ends_and_says_what_to_do(stage: Stage) -> None:
    site = stage.sites["alpha"]
    digest = compute_creator_digest(stage.hub.world.signers["alpha"].identity)
    await stage.hub.ledger("alpha").withdraw_certificate(digest)
    with pytest.raises(
        RefusedError, match=r"BFL208 alpha withdrew the certificate .* use another one of its"
    ) as caught:
        await site.agent().run()
    assert caught.value.code is Code.CERTIFICATE_WITHDRAWN
    assert site.training.trained == 0


async def test_an_organisation_that_is_no_institution_of_the_task_is_told_so(stage: Stage) -> None:
    site = Site(stage.hub, "university", stage.sites["alpha"].directory, stage.sites["alpha"].training)

    with pytest.raises(ProtocolError, match="BFL203 university is not an institution of task heart"):
        await site.agent().run()


async def test_an_unknown_task_is_told_so(stage: Stage) -> None:
    stage.sites["alpha"].settings = AgentSettings(task="hart")

    with pytest.raises(RefusedError, match="BFL101"):
        await stage.sites["alpha"].agent().run()


async def test_more_samples_than_there_are_cannot_be_declared(stage: Stage) -> None:
    stage.sites["alpha"].settings = AgentSettings(task="heart", samples=101)

    with pytest.raises(SettingsError, match="101 samples declared: expected 1 to 100"):
        await stage.sites["alpha"].agent().run()
