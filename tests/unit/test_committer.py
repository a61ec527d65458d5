"""The embedded ledger orders transactions, and refuses what would stop real peers."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import decode_metadata, header_hash, verify_block
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.transaction.envelope import sign_envelope
from blockfl.fabric.transaction.rwset import MetadataWrite
from blockfl.fabric.validate import validate_block
from support.channel import PrivateWrites, make_channel
from support.embedded_ledger import VALID, define, opened, public, submit

# -- ordering


async def test_a_transaction_is_on_disk_and_visible_when_it_is_acknowledged(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        endorsed = channel.write({"k": b"v"})
        status = await ledger.order(endorsed.envelope)
        assert (status.transaction_id, status.code, status.block_number, status.index) == (endorsed.tx_id, 0, 2, 0)
        assert public(ledger, "k") == b"v"
        assert ledger.transaction(endorsed.tx_id) == status
        # What a crash at this moment would leave behind.
        shutil.copytree(tmp_path / "ledger", tmp_path / "crashed")
    with opened(tmp_path / "crashed") as ledger:
        assert ledger.transaction(endorsed.tx_id) == status
        assert public(ledger, "k") == b"v"


async def test_every_block_verifies_like_one_of_a_real_network(ledger: ChannelLedger) -> None:
    channel = make_channel()
    await asyncio.gather(*[ledger.order(channel.write({f"k{n}": b"v"}).envelope) for n in range(20)])
    blocks = [common_pb2.Block.FromString(ledger.block(number)) for number in range(ledger.height)]
    previous = ledger.block(0)
    for number, block in enumerate(blocks[1:], start=1):
        before = blocks[number - 1].header
        verify_block(block, ledger.config, previous_hash=header_hash(before), number=number)
    assert previous == blocks[0].SerializeToString()
    assert header_hash(blocks[-1].header) == ledger.last_header_hash
    assert decode_metadata(blocks[-1]).commit_hash == ledger.last_commit_hash


async def test_another_ledger_takes_the_blocks_and_arrives_at_the_same_state(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "first") as first:
        await define(first)
        for number in range(3):
            await first.order(channel.write({f"k{number}": b"v"}).envelope)
        with ChannelLedger.open(tmp_path / "second", channel.genesis) as second:
            for number in range(1, first.height):
                assert second.append(first.block(number)) == (VALID,)
            assert second.last_commit_hash == first.last_commit_hash
            assert public(second, "k2") == b"v"


async def test_transactions_that_come_while_a_block_is_committed_share_the_next_one(ledger: ChannelLedger) -> None:
    channel = make_channel()
    envelopes = [channel.write({f"k{n}": b"v"}).envelope for n in range(40)]
    statuses = await asyncio.gather(*map(ledger.order, envelopes))
    assert {status.code for status in statuses} == {VALID}
    assert ledger.height < 40
    limit = ledger.config.batch.max_message_count
    assert max(status.index for status in statuses) < limit


async def test_of_two_transactions_that_read_the_same_version_one_is_invalid(ledger: ChannelLedger) -> None:
    channel = make_channel()
    first, second = (channel.write({"k": value}, reads={"k": None}) for value in (b"1", b"2"))
    codes = [status.code for status in await asyncio.gather(*map(ledger.order, (first.envelope, second.envelope)))]
    assert codes == [VALID, transaction_pb2.MVCC_READ_CONFLICT]
    assert public(ledger, "k") == b"1"


async def test_the_same_envelope_again_is_a_duplicate_and_changes_nothing(ledger: ChannelLedger) -> None:
    channel = make_channel()
    endorsed = channel.write({"k": b"v"}, private=[PrivateWrites(collection="sealed", values={"p": b"q"})])
    assert await submit(ledger, endorsed) == VALID
    first = ledger.transaction(endorsed.tx_id)
    assert await submit(ledger, endorsed, ()) == transaction_pb2.DUPLICATE_TXID
    assert ledger.transaction(endorsed.tx_id) == first


async def test_too_few_endorsers_make_a_transaction_invalid(ledger: ChannelLedger) -> None:
    code = await submit(ledger, make_channel().write({"k": b"v"}, endorsers=("alpha",)))
    assert code == transaction_pb2.ENDORSEMENT_POLICY_FAILURE
    assert public(ledger, "k") is None


async def test_the_orderers_identity_must_be_one_that_the_channel_accepts(tmp_path: Path) -> None:
    channel = make_channel()
    with pytest.raises(NodeError, match="do not satisfy /Channel/Orderer/BlockValidation"):
        ChannelLedger.open(tmp_path / "ledger", channel.genesis, orderer=channel.client)


# -- refusing


def malformed_action() -> bytes:
    """An endorsed transaction whose read/write set does not parse; its creator's signature is good."""
    channel = make_channel()
    envelope = common_pb2.Envelope.FromString(channel.write({"some-key": b"v"}).envelope)
    payload = envelope.payload.replace(b"some-key", b"some\xffkey")
    return sign_envelope(payload, channel.client)


def with_type(kind: int) -> bytes:
    channel = make_channel()
    envelope = common_pb2.Envelope.FromString(channel.write({"k": b"v"}).envelope)
    payload = common_pb2.Payload.FromString(envelope.payload)
    header = common_pb2.ChannelHeader.FromString(payload.header.channel_header)
    header.type = kind
    payload.header.channel_header = header.SerializeToString()
    return sign_envelope(payload.SerializeToString(), channel.client)


def for_channel(name: str) -> bytes:
    channel = make_channel()
    envelope = common_pb2.Envelope.FromString(channel.write({"k": b"v"}).envelope)
    payload = common_pb2.Payload.FromString(envelope.payload)
    header = common_pb2.ChannelHeader.FromString(payload.header.channel_header)
    header.channel_id = name
    payload.header.channel_header = header.SerializeToString()
    return sign_envelope(payload.SerializeToString(), channel.client)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no envelope": (lambda: b"\xff\xff", "expected an envelope, got 2 bytes"),
    "an empty envelope": (lambda: b"", "lacks payload or signature"),
    "no signature": (lambda: common_pb2.Envelope(payload=b"x").SerializeToString(), "lacks payload or signature"),
    "trailing fields": (
        lambda: make_channel().write({"k": b"v"}).envelope + b"\x1a\x01x",
        "not canonically encoded",
    ),
    "a payload that does not parse": (
        lambda: common_pb2.Envelope(payload=b"\xff", signature=b"s").SerializeToString(),
        "a part of it does not parse",
    ),
    "a read/write set that does not parse": (malformed_action, "does not parse"),
    "an unknown collection": (
        lambda: make_channel().write_hashes("nowhere").envelope,
        "there is no collection 'nowhere' of chaincode 'app'",
    ),
    "the implicit collection of nobody": (
        lambda: make_channel().write_hashes("_implicit_org_nobody").envelope,
        "there is no collection '_implicit_org_nobody'",
    ),
    "private data that nobody holds": (
        lambda: make_channel().write_hashes("sealed").envelope,
        "no organisation holds its private data for collection 'sealed'",
    ),
    "a policy of a key that does not parse": (
        lambda: (
            make_channel()
            .write({}, policies=[MetadataWrite(key="k", entries=(("VALIDATION_PARAMETER", b"\xff"),))])
            .envelope
        ),
        "expected a signature policy as VALIDATION_PARAMETER of key 'k', got 1 bytes",
    ),
    "a policy of a private key that does not parse": (
        lambda: (
            make_channel()
            .write_private_policy("sealed", MetadataWrite(key="k", entries=(("VALIDATION_PARAMETER", b"\xff"),)))
            .envelope
        ),
        "VALIDATION_PARAMETER of a private key of collection 'sealed'",
    ),
    "a configuration": (lambda: with_type(common_pb2.CONFIG), "expected an endorsed transaction"),
    "another channel": (lambda: for_channel("elsewhere"), "expected channel 'testchannel', got 'elsewhere'"),
    "too many bytes": (
        lambda: make_channel().write({"k": bytes(12 << 20)}).envelope,
        "expected at most .* bytes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_would_stop_real_peers_is_refused_with_a_reason_before_it_is_ordered(
    ledger: ChannelLedger, case: str
) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(BlockError, match=reason) as refused:
        await ledger.order(make())
    assert str(refused.value).startswith("the transaction was not ordered: ")
    assert ledger.height == 2
    assert await submit(ledger, make_channel().write({"k": b"v"})) == VALID


async def test_a_transaction_whose_validation_raises_does_not_stop_the_others(
    ledger: ChannelLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = make_channel()
    poison = channel.write({"poison": b"v"}).envelope

    def raising(block: object, *args: object, **settings: object) -> object:
        if poison in block.data.data:  # type: ignore[attr-defined]
            raise ZeroDivisionError("a case that nobody thought of")
        return validate_block(block, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("blockfl.fabric.embedded.ordering.committer.validate_block", raising)
    others = [channel.write({f"k{n}": b"v"}).envelope for n in range(6)]
    envelopes = [*others[:3], poison, *others[3:]]
    results = await asyncio.gather(*map(ledger.order, envelopes), return_exceptions=True)
    refused = results.pop(3)
    assert isinstance(refused, BlockError)
    assert "validating it failed unexpectedly" in str(refused)
    assert [result.code for result in results if not isinstance(result, BaseException)] == [VALID] * 6
    assert ledger.failure is None
