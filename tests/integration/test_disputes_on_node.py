"""Withdrawn certificates and disputes about wraps on a real node; a key that is shown and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockfl.contract.authority import compute_creator_digest
from blockfl.protocol.claims import Dispute
from blockfl.protocol.codes import Code
from support.contract import refused
from support.contract_network import contract_network
from support.world import POLICY_FAILURE, Invalid


async def test_a_false_claim_is_refuted_before_a_majority_and_the_key_is_nowhere(
    tmp_path: Path, ledger_kind: str
) -> None:
    async with contract_network(tmp_path, ledger_kind) as (scenario, network):
        await scenario.prepare()
        await scenario.open()
        await scenario.submit("alpha")
        await scenario.upload("alpha")
        await network.submit("university", "ClaimWrap", "heart", "1", "alpha")
        key = scenario.ephemeral_key("alpha", "university")
        words = ("SettleWrap", "heart", "1", "alpha", "university")
        shown = {"ephemeral_key": key}
        with pytest.raises(Invalid) as caught:
            await network.submit("alpha", *words, transient=shown, endorsers=["coordinator", "regulator"])
        assert caught.value.code == POLICY_FAILURE
        await network.submit("alpha", *words, transient=shown)
        listed = await network.evaluate("beta", "ListDisputes", "heart", "1")
        dispute = Dispute.decode(listed[1:-1])
        assert (dispute.state, dispute.settled_by) == ("refuted", "alpha")
        assert (await scenario.judge("alpha")).state == "accepted"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert key not in content, path
            assert key.hex().encode() not in content, path


async def test_a_withdrawn_certificate_is_refused_by_every_peer_from_the_next_transaction_on(
    tmp_path: Path, ledger_kind: str
) -> None:
    async with contract_network(tmp_path, ledger_kind) as (scenario, network):
        await scenario.prepare()
        await scenario.open()
        header, _ = await scenario.seal("gamma")
        digest = header.certificate_digest
        await network.submit("gamma", "WithdrawCertificate", digest)
        with refused(Code.CERTIFICATE_WITHDRAWN, digest):
            await network.submit("gamma", "SubmitUpdate", scenario.sign(header).encode())
        for peer in ("alpha", "university"):
            with refused(Code.CERTIFICATE_WITHDRAWN):
                await network.evaluate("gamma", "ReadConsortium", peer=peer)
        await scenario.contribute("alpha", "beta", "delta")


async def test_an_institution_is_back_with_another_certificate(tmp_path: Path, ledger_kind: str) -> None:
    async with contract_network(tmp_path, ledger_kind) as (scenario, network):
        await scenario.prepare()
        before = compute_creator_digest(network.gateways["gamma"].signer.identity)
        async with network.network.gateway("gamma", "client", "successor") as successor:
            old, network.gateways["gamma"] = network.gateways["gamma"], successor
            await network.submit("gamma", "WithdrawCertificate", before)
            opened = await scenario.open()
            assert [one.organisation for one in opened.participants] == ["alpha", "beta", "delta"]
            with refused(Code.TASK_BUSY):
                await network.submit("gamma", "Enrol", "heart", "30")
            await scenario.contribute("alpha", "beta", "delta")
            await scenario.close()
            with network.clock("gamma", 28):
                await network.submit("gamma", "Enrol", "heart", "30")
            await scenario.attest()
            await scenario.publish(1, scenario.initial_model)
            part = (await scenario.open(2)).participant("gamma")
            assert part is not None
            assert part.certificate_digest == compute_creator_digest(successor.signer.identity) != before
            network.gateways["gamma"] = old
