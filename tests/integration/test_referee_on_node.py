"""Tasks with a referee on a real node: what contradicts its update is left out of the model, or rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockfl.audit.verification import verify_bundles
from blockfl.protocol.codes import Code
from support.contract_network import contract_network
from support.effective_task import EffectiveTask, make_effective_spec
from support.federation import INSTITUTIONS
from support.played_ledger import export
from support.refereed_task import REFEREE, RefereedTask, make_refereed_spec


@pytest.mark.parametrize("least_micro", [None, 200_000], ids=["trusted mean", "least cosine"])
async def test_a_round_with_a_referee_is_published_without_what_contradicts_it(
    tmp_path: Path, ledger_kind: str, least_micro: int | None
) -> None:
    async with contract_network(tmp_path, ledger_kind) as (told, network):
        spec = make_refereed_spec("fail", least_micro=least_micro)
        task = RefereedTask(network, told.consortium, told.signers, told.opening_keys, spec)
        await task.prepare()
        await task.open()
        await task.contribute(REFEREE, "alpha", "beta", "gamma")
        await task.contradict("delta")
        verdict = await task.judge("delta")
        assert verdict.reason == "tenths -10"
        assert verdict.code == ("" if least_micro is None else Code.REFERENCE_COSINE.identifier)
        await task.close()
        await task.attest()
        await task.publish(1, task.initial_model)
        round_ = await task.round()
        assert round_.accepted == (INSTITUTIONS if least_micro is None else ("alpha", "beta", "gamma"))
        assert round_.referee is not None
        assert (round_.state, round_.referee.reference) == ("published", "accepted")


async def test_a_task_about_effect_is_settled_and_its_evidence_verifies(tmp_path: Path, ledger_kind: str) -> None:
    async with contract_network(tmp_path / "network", ledger_kind) as (told, network):
        spec = make_effective_spec()
        task = EffectiveTask(network, told.consortium, told.signers, told.opening_keys, spec)
        first, second = await task.play_story()
        assert first.accepted == INSTITUTIONS
        assert second.effect is not None
        assert (second.accepted, second.effect.harmful) == (("alpha", "beta", "delta"), ("gamma",))
        played = await export(network, tmp_path / "effect.bundle")
    report = await verify_bundles([played.bundle], played.genesis_hash, lambda _: None)
    (proof,) = report.tasks
    assert (proof.rounds, proof.accepted, report.last_block_hash) == (3, 7, played.last_hash)
