"""Configuration updates at the embedded ledger: blocks of their own, in force at once and after a crash, or refused."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import decode_metadata, header_hash, verify_block
from blockfl.fabric.channel.changes import add_organisation, change_batch, remove_organisation, revoke_certificates
from blockfl.fabric.channel.config import ChannelConfig, is_config_block
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.validate import validate_block
from blockfl.fabric.validate.memory_state import MemoryState
from support.channel import CONTRACT, ORGANISATIONS, PrivateWrites, make_channel
from support.embedded_ledger import define, opened
from support.organisation import make_organisation

VALID = transaction_pb2.VALID
BAD_CREATOR = transaction_pb2.BAD_CREATOR_SIGNATURE
TWO = ("alpha", "gamma")


def envelope(config: ChannelConfig, wanted: Any, signers: Sequence[str] = ORGANISATIONS[:2]) -> bytes:
    """The update to a configuration, signed by administrators of these organisations and sent by a client."""
    channel = make_channel()
    update = compute_update(config.config, wanted, config.channel_id)
    signatures = [sign_update(update, channel.organisations[name].signer("admin", "admin")) for name in signers]
    return build_update_envelope(update, signatures, channel.client)


def smaller_batches(config: ChannelConfig, count: int = 3) -> Any:
    return change_batch(config, replace(config.batch, max_message_count=count))


def changed(config: ChannelConfig, change: Callable[[Any], None]) -> Any:
    wanted = configtx_pb2.Config()
    wanted.CopyFrom(config.config)
    change(wanted.channel_group)
    return wanted


def set_consensus(group: Any, **fields: Any) -> None:
    value = group.groups["Orderer"].values["ConsensusType"]
    consensus = orderer_pb2.ConsensusType.FromString(value.value)
    for name, field in fields.items():
        setattr(consensus, name, field)
    value.value = consensus.SerializeToString()


async def test_an_update_gets_a_block_of_its_own_that_verifies_and_is_in_force_when_it_is_acknowledged(
    tmp_path: Path,
) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        before, previous_hash = ledger.config, ledger.last_header_hash
        status = await ledger.order(envelope(before, smaller_batches(before)))
        assert (status.code, status.block_number, status.index) == (VALID, 2, 0)
        assert (ledger.config.sequence, ledger.config.batch.max_message_count) == (1, 3)
        assert ledger.transaction(status.transaction_id) == status
        block = common_pb2.Block.FromString(ledger.block(2))
        assert is_config_block(block)
        verify_block(block, before, previous_hash=previous_hash, number=2)
        assert decode_metadata(block).last_config == 2
        assert (await ledger.order(channel.write({"k": b"v"}).envelope)).code == VALID
        after = common_pb2.Block.FromString(ledger.block(3))
        verify_block(after, ledger.config, previous_hash=header_hash(block.header), number=3)
        assert decode_metadata(after).last_config == 2


async def test_another_ledger_and_an_auditor_follow_through_the_configuration(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "first") as first, ChannelLedger.open(tmp_path / "second", channel.genesis) as second:
        await define(first)
        await first.order(envelope(first.config, smaller_batches(first.config)))
        await first.order(channel.write({"k": b"v"}).envelope)
        state, config, commit = MemoryState(), ChannelConfig.from_block(channel.genesis), b""
        for number in range(first.height):
            block = common_pb2.Block.FromString(first.block(number))
            validation = validate_block(block, config, state)
            validation.verify_recorded(block, commit)
            state.apply(validation.updates, validation.tx_ids)
            config, commit = validation.config or config, validation.commit_hash(commit)
            if number:
                assert second.append(first.block(number)) == (VALID,)
        assert second.last_commit_hash == first.last_commit_hash == commit
        assert second.config.sequence == config.sequence == 1


async def test_a_configuration_survives_a_crash_right_after_its_block(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        shutil.copytree(tmp_path / "ledger", tmp_path / "state-behind")
        await ledger.order(envelope(ledger.config, smaller_batches(ledger.config)))
        # What kill -9 leaves behind at this moment; and when only the block had reached the disk.
        shutil.copytree(tmp_path / "ledger", tmp_path / "complete")
        shutil.copytree(tmp_path / "ledger" / "blocks", tmp_path / "state-behind" / "blocks", dirs_exist_ok=True)
    for name in ("complete", "state-behind"):
        with opened(tmp_path / name) as ledger:
            assert (ledger.height, ledger.config.sequence, ledger.config.batch.max_message_count) == (3, 1, 3)
            assert (await ledger.order(channel.write({"k": b"v"}).envelope)).code == VALID
            block = common_pb2.Block.FromString(ledger.block(3))
            assert decode_metadata(block).last_config == 2


async def test_updates_and_transactions_that_come_together_are_all_ordered_and_never_share_a_block(
    tmp_path: Path,
) -> None:
    channel = make_channel()
    writes = [channel.write({f"k{n}": b"v"}).envelope for n in range(12)]
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        update = envelope(ledger.config, smaller_batches(ledger.config))
        statuses = await asyncio.gather(*map(ledger.order, [*writes[:6], update, *writes[6:]]))
        assert {status.code for status in statuses} == {VALID}
        blocks = [status.block_number for status in statuses]
        assert blocks.count(blocks[6]) == 1
        assert ledger.config.sequence == 1


async def test_of_two_updates_of_one_configuration_the_second_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        config = ledger.config
        updates = [envelope(config, smaller_batches(config, count)) for count in (3, 4)]
        first, second = await asyncio.gather(*map(ledger.order, updates), return_exceptions=True)
        assert not isinstance(first, BaseException)
        assert isinstance(second, BlockError)
        assert "gives the value /Channel/Orderer/BatchSize version 1" in str(second)
        assert (ledger.height, ledger.config.sequence, ledger.config.batch.max_message_count) == (2, 1, 3)


async def test_a_revoked_client_is_invalid_from_the_next_block_on_and_after_a_restart(tmp_path: Path) -> None:
    channel = make_channel()
    alpha = channel.organisations["alpha"]
    thief = alpha.signer("thief")
    by_thief = replace(channel, client=thief)
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        early, late = by_thief.write({"k": b"1"}), by_thief.write({"k": b"2"})
        assert (await ledger.order(early.envelope)).code == VALID
        crl = alpha.signing.revoke([thief.identity.certificate_pem])
        await ledger.order(envelope(ledger.config, revoke_certificates(ledger.config, "alpha", crl), ["alpha"]))
        assert (await ledger.order(late.envelope)).code == BAD_CREATOR
    with opened(tmp_path / "ledger") as ledger:
        assert (await ledger.order(by_thief.write({"k": b"3"}).envelope)).code == BAD_CREATOR
        assert (await ledger.order(channel.write({"k": b"4"}).envelope)).code == VALID


async def test_an_organisation_that_joins_keeps_private_data_of_its_own_at_once(tmp_path: Path) -> None:
    channel, epsilon = make_channel(), make_organisation("epsilon")
    joined = replace(channel, peers={**channel.peers, "epsilon": epsilon.signer("peer0", "peer")})
    own = PrivateWrites(collection="_implicit_org_epsilon", values={"k": b"secret"})
    endorsers = ("alpha", "beta", "epsilon")
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        with pytest.raises(NodeError, match="got 'epsilon'"):
            ledger.snapshot("epsilon")
        with pytest.raises(BlockError, match="there is no collection '_implicit_org_epsilon'"):
            await ledger.order(joined.write({}, private=[own]).envelope)
        await ledger.order(envelope(ledger.config, add_organisation(ledger.config, epsilon.spec())))
        endorsed = joined.write({}, private=[own], endorsers=endorsers)
        await ledger.stage_private("epsilon", endorsed.tx_id, endorsed.sets)
        assert (await ledger.order(endorsed.envelope)).code == VALID
        shutil.copytree(tmp_path / "ledger", tmp_path / "crashed")
    for name in ("ledger", "crashed"):
        with opened(tmp_path / name) as ledger, ledger.snapshot("epsilon") as view:
            found = view.private_get("epsilon", CONTRACT, "_implicit_org_epsilon", "k")
            assert found is not None
            assert found.value == b"secret"


async def test_a_transaction_that_waits_is_judged_again_when_the_configuration_has_changed_meanwhile(
    tmp_path: Path,
) -> None:
    channel = make_channel()
    own = PrivateWrites(collection="_implicit_org_gamma", values={"k": b"secret"})
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        endorsed = channel.write({}, private=[own])
        await ledger.stage_private("gamma", endorsed.tx_id, endorsed.sets)
        update = envelope(ledger.config, remove_organisation(ledger.config, "gamma"))
        # Both are checked before either is ordered.
        first, second = await asyncio.gather(
            ledger.order(update), ledger.order(endorsed.envelope), return_exceptions=True
        )
        assert not isinstance(first, BaseException)
        assert isinstance(second, BlockError)
        assert "there is no collection '_implicit_org_gamma'" in str(second)
        assert ledger.height == 3


def revoke_orderer(config: ChannelConfig) -> Any:
    channel = make_channel()
    crl = channel.organisations["alpha"].signing.revoke([channel.orderer.identity.certificate_pem])
    return revoke_certificates(config, "alpha", crl)


def without_policy(group: Any) -> None:
    del group.groups["Application"].policies["Endorsement"]


REFUSED: dict[str, tuple[Callable[[ChannelConfig], bytes], str]] = {
    "too few signatures": (
        lambda config: envelope(config, smaller_batches(config), ["gamma"]),
        "signatures of gamma do not satisfy 'Admins'",
    ),
    "no signatures": (lambda config: envelope(config, smaller_batches(config), []), "signatures of nobody"),
    "another configuration's versions": (
        lambda config: envelope(
            ChannelConfig.from_config(
                changed(config, lambda group: setattr(group.groups["Orderer"].values["BatchSize"], "version", 1)),
                config.channel_id,
            ),
            smaller_batches(config),
        ),
        "gives the value /Channel/Orderer/BatchSize version 2",
    ),
    "BFT": (
        lambda config: envelope(config, changed(config, lambda group: set_consensus(group, type="BFT"))),
        "at least 4 BFT ordering nodes",
    ),
    "maintenance": (
        lambda config: envelope(
            config,
            changed(config, lambda group: set_consensus(group, state=orderer_pb2.ConsensusType.STATE_MAINTENANCE)),
        ),
        "no maintenance mode",
    ),
    "the ordering node revoked": (
        lambda config: envelope(config, revoke_orderer(config), ["alpha"]),
        "ordering node's own certificate would not be valid",
    ),
    "a policy missing": (
        lambda config: envelope(config, changed(config, without_policy)),
        "expected the channel to have the policies /Channel/Application/Endorsement",
    ),
    "unknown capabilities": (
        lambda config: envelope(
            config,
            changed(config, lambda group: setattr(group.values["Capabilities"], "value", b"\n\x06\n\x02V9\x12\x00")),
        ),
        "expected channel capabilities",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_an_update_that_is_not_allowed_or_would_break_the_channel_is_refused_before_it_is_ordered(
    tmp_path: Path, case: str
) -> None:
    make, reason = REFUSED[case]
    with opened(tmp_path / "ledger") as ledger:
        with pytest.raises(BlockError, match=reason) as refused:
            await ledger.order(make(ledger.config))
        assert str(refused.value).startswith("the configuration update was not ordered: ")
        assert (ledger.height, ledger.config.sequence) == (1, 0)
        await ledger.order(envelope(ledger.config, smaller_batches(ledger.config), TWO))
        assert ledger.config.sequence == 1
