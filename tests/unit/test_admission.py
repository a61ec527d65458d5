"""Who is let in, by the channel's own policies."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import pytest
from fabric_protos.common import common_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.embedded.endorsing.admission import AccessDenied, Admission, Refused, UnknownChannel
from blockfl.fabric.embedded.endorsing.proposal import SignedProposal
from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.envelope import build_proposal
from blockfl.fabric.validate import SignatureCache
from support.organisation import Organisation, channel_spec, make_organisation

CHANNEL = "testchannel"


@cache
def world() -> tuple[ChannelConfig, Organisation, Organisation]:
    alpha, beta = make_organisation("alpha"), make_organisation("beta")
    return ChannelConfig.from_block(build_genesis_block(channel_spec(alpha, beta))), alpha, beta


def admission(now_s: float | None = None) -> Admission:
    clock = {} if now_s is None else {"clock": lambda: now_s}
    return Admission(lambda: world()[0], time_window_s=30, signatures=SignatureCache(), **clock)


def proposal(channel: str = CHANNEL, timestamp_ms: int | None = None) -> SignedProposal:
    made = build_proposal(channel, "app", [b"Get"], world()[1].signer("client"), timestamp_ms=timestamp_ms)
    return SignedProposal.parse(made.signed_proposal.SerializeToString())


@pytest.mark.parametrize("offset_s", [-30, -1, 0, 30])
def test_clocks_may_differ_by_the_window(offset_s: int) -> None:
    now_s = int(datetime.now(UTC).timestamp())
    admitted = admission(now_s).admit_proposal(proposal(timestamp_ms=(now_s + offset_s) * 1000), "alpha")
    assert admitted.msp_id == "alpha"


@pytest.mark.parametrize("offset_s", [-31, 31, -(10**9), 10**12])
def test_clocks_may_not_differ_by_more(offset_s: int) -> None:
    now_s = int(datetime.now(UTC).timestamp())
    with pytest.raises(Refused, match="synchronise the clocks"):
        admission(now_s).admit_proposal(proposal(timestamp_ms=(now_s + offset_s) * 1000), "alpha")


def test_a_call_without_a_channel_is_for_the_peers_own_organisation() -> None:
    assert admission().admit_proposal(proposal(""), "alpha").msp_id == "alpha"
    with pytest.raises(AccessDenied, match="are for beta's own administrators"):
        admission().admit_proposal(proposal(""), "beta")


def test_another_channel_is_unknown() -> None:
    with pytest.raises(UnknownChannel, match="channel 'other' not found"):
        admission().admit_proposal(proposal("other"), "alpha")


def test_a_proposal_whose_id_is_not_its_own_is_refused() -> None:
    signer = world()[1].signer("client")
    made = build_proposal(CHANNEL, "app", [b"Get"], signer)
    changed = made.proposal_bytes.replace(made.tx_id.encode(), b"0" * 64)
    signed = made.signed_proposal
    signed.proposal_bytes, signed.signature = changed, signer.sign(changed)
    with pytest.raises(BlockError, match="incorrectly computed txid"):
        admission().admit_proposal(SignedProposal.parse(signed.SerializeToString()), "alpha")


def test_a_policy_decides_about_members() -> None:
    _, alpha, _ = world()
    client, admin = alpha.signer("client").identity, alpha.signer("admin", "admin").identity
    judge = admission()
    judge.check_policy(client, "/Channel/Writers")
    with pytest.raises(AccessDenied, match="does not satisfy /Channel/Application/alpha/Admins"):
        judge.check_policy(client, "/Channel/Application/alpha/Admins")
    judge.check_policy(admin, "/Channel/Application/alpha/Admins")
    judge.check_access(client, "peer/Propose")
    with pytest.raises(AccessDenied, match="expected an administrator of alpha"):
        judge.check_admin(client, "alpha", "_lifecycle/InstallChaincode")
    with pytest.raises(AccessDenied, match="expected an administrator of beta"):
        judge.check_admin(admin, "beta", "_lifecycle/InstallChaincode")


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (b"", "payload is empty"),
        (b"\xff", "do not parse"),
        (common_pb2.Envelope(payload=b"\xff").SerializeToString(), "do not parse"),
        (common_pb2.Envelope(payload=bytes(11 << 20)).SerializeToString(), "exceeds maximum allowed"),
    ],
    ids=["empty", "no envelope", "no payload", "too large"],
)
def test_an_envelope_that_makes_no_sense_is_not_ordered(envelope: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        admission().admit_transaction(envelope)
