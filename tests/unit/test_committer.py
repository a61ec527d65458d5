"""The embedded node's ledger in one process: ordering, refusing, private data, views, waiting, faults."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import decode_metadata, header_hash, verify_block
from blockfl.fabric.embedded.ordering.committer import CommitterOptions
from blockfl.fabric.embedded.ordering.ledger import Ledger, PrivateSet
from blockfl.fabric.embedded.storage.files import Files
from blockfl.fabric.embedded.storage.private_store import PrivateStore
from blockfl.fabric.embedded.storage.store import StateStore
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.transaction.envelope import sign_envelope
from blockfl.fabric.transaction.rwset import MetadataWrite, Version
from blockfl.fabric.validate import validate_block
from support.channel import CONTRACT, Endorsed, PrivateWrites, make_channel
from support.faults import FaultyFiles

VALID = transaction_pb2.VALID
LARGE = bytes(range(256)) * 200


@contextmanager
def opened(directory: Path, files: Files | None = None, *, page_limit: int | None = None) -> Iterator[Ledger]:
    channel = make_channel()
    options = CommitterOptions(files=files or Files(), page_limit=page_limit)
    with Ledger.open(directory, channel.genesis, orderer=channel.orderer, options=options) as ledger:
        yield ledger


async def define(ledger: Ledger) -> None:
    status = await ledger.order(make_channel().define("sealed", ("brief", 2)).envelope)
    assert status.code == VALID


async def submit(ledger: Ledger, endorsed: Endorsed, organisations: Sequence[str] = ("alpha", "beta")) -> int:
    for name in organisations if endorsed.sets else ():
        await ledger.stage_private(name, endorsed.tx_id, endorsed.sets)
    return (await ledger.order(endorsed.envelope)).code


def public(ledger: Ledger, key: str) -> bytes | None:
    with ledger.snapshot() as view:
        found = view.get(CONTRACT, key)
        return None if found is None else found.value


def private(ledger: Ledger, organisation: str, key: str, collection: str = "sealed") -> bytes | None:
    with ledger.snapshot(organisation) as view:
        found = view.private_get(organisation, CONTRACT, collection, key)
        return None if found is None else found.value


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


async def test_every_block_verifies_like_one_of_a_real_network(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
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
        with Ledger.open(tmp_path / "second", channel.genesis) as second:
            for number in range(1, first.height):
                assert second.append(first.block(number)) == (VALID,)
            assert second.last_commit_hash == first.last_commit_hash
            assert public(second, "k2") == b"v"


async def test_transactions_that_come_while_a_block_is_committed_share_the_next_one(tmp_path: Path) -> None:
    channel = make_channel()
    envelopes = [channel.write({f"k{n}": b"v"}).envelope for n in range(40)]
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        statuses = await asyncio.gather(*map(ledger.order, envelopes))
        assert {status.code for status in statuses} == {VALID}
        assert ledger.height < 40
        limit = ledger.config.batch.max_message_count
        assert max(status.index for status in statuses) < limit


async def test_of_two_transactions_that_read_the_same_version_one_is_invalid(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        first, second = (channel.write({"k": value}, reads={"k": None}) for value in (b"1", b"2"))
        codes = [status.code for status in await asyncio.gather(*map(ledger.order, (first.envelope, second.envelope)))]
        assert codes == [VALID, transaction_pb2.MVCC_READ_CONFLICT]
        assert public(ledger, "k") == b"1"


async def test_the_same_envelope_again_is_a_duplicate_and_changes_nothing(tmp_path: Path) -> None:
    channel = make_channel()
    endorsed = channel.write({"k": b"v"}, private=[PrivateWrites(collection="sealed", values={"p": b"q"})])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
        first = ledger.transaction(endorsed.tx_id)
        assert await submit(ledger, endorsed, ()) == transaction_pb2.DUPLICATE_TXID
        assert ledger.transaction(endorsed.tx_id) == first


async def test_too_few_endorsers_make_a_transaction_invalid(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        code = await submit(ledger, make_channel().write({"k": b"v"}, endorsers=("alpha",)))
        assert code == transaction_pb2.ENDORSEMENT_POLICY_FAILURE
        assert public(ledger, "k") is None


async def test_the_orderers_identity_must_be_one_that_the_channel_accepts(tmp_path: Path) -> None:
    channel = make_channel()
    with pytest.raises(NodeError, match="do not satisfy /Channel/Orderer/BlockValidation"):
        Ledger.open(tmp_path / "ledger", channel.genesis, orderer=channel.client)


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
    tmp_path: Path, case: str
) -> None:
    make, reason = REFUSED[case]
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        with pytest.raises(BlockError, match=reason) as refused:
            await ledger.order(make())
        assert str(refused.value).startswith("the transaction was not ordered: ")
        assert ledger.height == 2
        assert await submit(ledger, make_channel().write({"k": b"v"})) == VALID


async def test_a_transaction_whose_validation_raises_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = make_channel()
    poison = channel.write({"poison": b"v"}).envelope

    def raising(block: object, *args: object, **settings: object) -> object:
        if poison in block.data.data:  # type: ignore[attr-defined]
            raise ZeroDivisionError("a case that nobody thought of")
        return validate_block(block, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("blockfl.fabric.embedded.ordering.committer.validate_block", raising)
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        others = [channel.write({f"k{n}": b"v"}).envelope for n in range(6)]
        envelopes = [*others[:3], poison, *others[3:]]
        results = await asyncio.gather(*map(ledger.order, envelopes), return_exceptions=True)
        refused = results.pop(3)
        assert isinstance(refused, BlockError)
        assert "validating it failed unexpectedly" in str(refused)
        assert [result.code for result in results if not isinstance(result, BaseException)] == [VALID] * 6
        assert ledger.failure is None


# -- private data


async def test_members_hold_private_data_and_others_do_not(tmp_path: Path) -> None:
    secret = b"known to the members alone" * 1000
    endorsed = make_channel().write({}, private=[PrivateWrites(collection="sealed", values={"k": secret})])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed, ("alpha",)) == VALID
        assert private(ledger, "alpha", "k") == private(ledger, "beta", "k") == secret
        with pytest.raises(NodeError, match="gamma does not hold the private value in collection 'sealed'"):
            private(ledger, "gamma", "k")
        assert [part.rwset for part in ledger.private_sets("beta", 2)] == [endorsed.sets[0].rwset]
        assert ledger.private_sets("gamma", 2) == ()
    holders = {
        path.relative_to(tmp_path / "ledger").parts[:2]
        for path in (tmp_path / "ledger").rglob("*")
        if path.is_file() and secret[:26] in path.read_bytes()
    }
    assert holders == {("organisations", "alpha"), ("organisations", "beta")}


async def test_an_endorser_that_is_no_member_does_not_keep_what_it_staged(tmp_path: Path) -> None:
    endorsed = make_channel().write({}, private=[PrivateWrites(collection="sealed", values={"k": LARGE})])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed, ("gamma",)) == VALID
        assert private(ledger, "alpha", "k") == LARGE
    with opened(tmp_path / "ledger"):
        assert not list((tmp_path / "ledger" / "organisations" / "gamma").glob("payloads/*/*"))


async def test_private_data_of_an_invalid_transaction_are_not_kept(tmp_path: Path) -> None:
    writes = PrivateWrites(collection="sealed", values={"k": LARGE})
    endorsed = make_channel().write({}, private=[writes], endorsers=("alpha",))
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == transaction_pb2.ENDORSEMENT_POLICY_FAILURE
        assert private(ledger, "alpha", "k") is None
    with opened(tmp_path / "ledger"):
        assert not list((tmp_path / "ledger").glob("organisations/*/payloads/*/*"))


async def test_blocks_to_live_remove_value_and_hash(tmp_path: Path) -> None:
    channel = make_channel()
    endorsed = channel.write({}, private=[PrivateWrites(collection="brief", values={"k": LARGE})])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
        for number in range(3):
            assert private(ledger, "alpha", "k", "brief") == LARGE
            await ledger.order(channel.write({"tick": b"%d" % number}).envelope)
        assert private(ledger, "alpha", "k", "brief") is None
        assert not list((tmp_path / "ledger").glob("organisations/*/payloads/*/*"))


async def test_a_purge_removes_the_bytes_from_every_member(tmp_path: Path) -> None:
    channel = make_channel()
    secret = b"to be forgotten" * 2000
    first = channel.write({}, private=[PrivateWrites(collection="sealed", values={"k": secret, "l": b"kept"})])
    purge = channel.write({}, private=[PrivateWrites(collection="sealed", values={"k": None}, purges=("k",))])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, first) == VALID
        assert await submit(ledger, purge) == VALID
        for name in ("alpha", "beta"):
            assert private(ledger, name, "k") is None
            assert private(ledger, name, "l") == b"kept"
        # Staged copies go with each organisation's next change.
        assert (
            await submit(ledger, channel.write({}, private=[PrivateWrites(collection="sealed", values={"m": b"n"})]))
            == VALID
        )
    assert not list((tmp_path / "ledger").glob("organisations/*/payloads/*/*"))


async def test_a_private_range_gives_what_the_organisation_holds_in_order(tmp_path: Path) -> None:
    values = {f"k{number:03d}": b"v%d" % number for number in range(250)}
    endorsed = make_channel().write({}, private=[PrivateWrites(collection="sealed", values=values)])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
        with ledger.snapshot("alpha", "gamma") as view:
            found = {k: v.value for k, v in view.private_range("alpha", CONTRACT, "sealed", "", "")}
            assert found == values
            assert list(found) == sorted(values)
            part = [key for key, _ in view.private_range("alpha", CONTRACT, "sealed", "k010", "k012")]
            assert part == ["k010", "k011"]
            assert list(view.private_range("gamma", CONTRACT, "sealed", "", "")) == []


async def test_damaged_private_data_are_never_served(tmp_path: Path) -> None:
    endorsed = make_channel().write({}, private=[PrivateWrites(collection="sealed", values={"k": LARGE})])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
        path = next((tmp_path / "ledger" / "organisations" / "alpha").glob("payloads/*/*"))
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(NodeError, match="does not have its hash on the ledger"):
            private(ledger, "alpha", "k")
    with pytest.raises(NodeError, match=f"{path.name} is damaged"), opened(tmp_path / "ledger"):
        pass


async def test_key_level_policies_of_private_keys_give_the_value_its_new_version(tmp_path: Path) -> None:
    channel = make_channel()
    first = channel.write({}, private=[PrivateWrites(collection="sealed", values={"k": b"v"})])
    policy = signature_policy(2, ("alpha", "beta"), "peer").SerializeToString()
    metadata = MetadataWrite(key="k", entries=(("VALIDATION_PARAMETER", policy),))
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, first) == VALID
        change = channel.write_private_policy("sealed", metadata)
        assert await submit(ledger, change) == VALID
        with ledger.snapshot("alpha") as view:
            found = view.private_get("alpha", CONTRACT, "sealed", "k")
        assert found is not None
        assert (found.value, found.version) == (b"v", Version(3, 0))


async def test_an_unknown_organisation_is_named(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        with pytest.raises(NodeError, match=r"expected an organisation .*alpha, beta, gamma.*, got 'delta'"):
            ledger.snapshot("delta")
        part = PrivateSet(namespace=CONTRACT, collection="sealed", rwset=b"")
        with pytest.raises(NodeError, match="got 'delta'"):
            await ledger.stage_private("delta", "tx", [part])
        with ledger.snapshot("alpha") as view, pytest.raises(NodeError, match=r"\(alpha\), got 'beta'"):
            view.private_get("beta", CONTRACT, "sealed", "k") or next(
                view.private_range("beta", CONTRACT, "sealed", "", "")
            )


# -- views and waiting


async def test_public_and_private_values_of_a_snapshot_belong_together(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)

        async def write() -> None:
            for number in range(25):
                value = b"%d" % number
                writes = PrivateWrites(collection="sealed", values={"k": value})
                assert await submit(ledger, channel.write({"k": value}, private=[writes])) == VALID

        writing = asyncio.create_task(write())
        seen = set()
        while not writing.done():
            await asyncio.sleep(0)
            with ledger.snapshot("alpha", "beta") as view:
                found = view.get(CONTRACT, "k")
                for name in ("alpha", "beta"):
                    held = view.private_get(name, CONTRACT, "sealed", "k")
                    assert (held and held.value) == (found and found.value)
                    assert (held and held.version) == (found and found.version)
                seen.add(view.height)
        await writing
        assert len(seen) > 5


async def test_whoever_waits_for_a_transaction_or_a_height_is_woken(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        endorsed = channel.write({"k": b"v"})
        waiting = [asyncio.create_task(ledger.wait_for_transaction(endorsed.tx_id)) for _ in range(3)]
        heights = [asyncio.create_task(ledger.wait_for_height(height)) for height in (2, 3)]
        await asyncio.sleep(0)
        status = await ledger.order(endorsed.envelope)
        assert await asyncio.gather(*waiting) == [status] * 3
        await asyncio.gather(*heights)
        assert await ledger.wait_for_transaction(endorsed.tx_id) == status
        await ledger.wait_for_height(1)


async def test_waiting_can_be_given_up(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        for waiting in (ledger.wait_for_transaction("never"), ledger.wait_for_height(99)):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.01)
        assert not ledger._transaction_waiters
        await define(ledger)


async def test_a_client_that_gives_up_stops_nobody(tmp_path: Path) -> None:
    channel = make_channel()
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        for round_number in range(10):
            envelopes = [channel.write({f"k{round_number}-{n}": b"v"}).envelope for n in range(4)]
            tasks = [asyncio.create_task(ledger.order(envelope)) for envelope in envelopes]
            # Given up before it is queued, while it waits, while its block is being committed.
            for _ in range(round_number):
                await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[2].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [result.code for result in results if not isinstance(result, BaseException)][-2:] == [VALID] * 2
        assert ledger.failure is None


async def test_whoever_waits_when_the_ledger_closes_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        waiting = [
            asyncio.create_task(ledger.wait_for_transaction("never")),
            asyncio.create_task(ledger.wait_for_height(99)),
        ]
        await asyncio.sleep(0)
    for task in waiting:
        with pytest.raises(NodeError, match="the ledger is closed"):
            await task
    with pytest.raises(NodeError, match="the ledger is closed"):
        await ledger.order(make_channel().write({"k": b"v"}).envelope)


# -- one directory, one ledger


async def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "ledger"),
        pytest.raises(NodeError, match="in use by another process"),
        opened(tmp_path / "ledger"),
    ):
        pass
    with opened(tmp_path / "ledger") as ledger:
        assert ledger.height == 1


async def test_a_ledger_begins_with_a_genesis_block_and_keeps_to_it(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="holds no ledger yet: expected a configuration block 0"):
        Ledger.open(tmp_path / "ledger")
    with opened(tmp_path / "ledger") as ledger:
        assert (ledger.channel_id, ledger.height) == ("testchannel", 1)
    with Ledger.open(tmp_path / "ledger") as ledger:
        assert ledger.height == 1
    other = common_pb2.Block.FromString(make_channel().genesis.SerializeToString())
    other.header.data_hash = b"\x01" * 32
    with pytest.raises(NodeError, match="the ledger of another network"):
        Ledger.open(tmp_path / "ledger", other)


async def test_the_state_of_another_ledger_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with opened(tmp_path / name) as ledger:
            await ledger.order(make_channel().define("sealed").envelope)
    shutil.copy(tmp_path / "one" / "state.sqlite", tmp_path / "two" / "state.sqlite")
    with pytest.raises(NodeError, match=r"state\.sqlite is not the state of the blocks beside it"):
        opened(tmp_path / "two").__enter__()


async def test_private_data_that_were_lost_are_noticed_at_the_start(tmp_path: Path) -> None:
    endorsed = make_channel().write({}, private=[PrivateWrites(collection="sealed", values={"k": LARGE})])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
    for path in (tmp_path / "ledger" / "organisations" / "beta").glob("private.sqlite*"):
        path.unlink()
    with pytest.raises(NodeError, match=r"beta/private\.sqlite is damaged: .*up to block 2 were acknowledged"):
        opened(tmp_path / "ledger").__enter__()


# -- faults


class Crash(BaseException):
    """The process is gone at this point."""


async def run_until_fault(directory: Path, files: FaultyFiles) -> tuple[dict[str, bytes], NodeError | None]:
    """Write keys until the file layer fails; returns what was acknowledged."""
    channel = make_channel()
    acknowledged: dict[str, bytes] = {}
    with opened(directory, files) as ledger:
        try:
            await define(ledger)
            for number in range(3):
                value = b"%d" % number * 20_000
                writes = PrivateWrites(collection="sealed", values={f"p{number}": value})
                endorsed = channel.write({f"k{number}": value}, private=[writes])
                assert await submit(ledger, endorsed) == VALID
                acknowledged[f"{number}"] = value
        except NodeError as error:
            if ledger.failure:
                with pytest.raises(NodeError, match="stopped accepting"):
                    await ledger.order(channel.write({"x": b"y"}).envelope)
            return acknowledged, error
    return acknowledged, None


async def test_a_disk_that_is_full_at_any_operation_loses_nothing_acknowledged(tmp_path: Path) -> None:
    counter = FaultyFiles()
    everything, error = await run_until_fault(tmp_path / "counted", counter)
    assert error is None
    assert len(everything) == 3
    with opened(tmp_path / "fresh", created := FaultyFiles()):
        start = created.count
    told = 0
    for operation in range(start, counter.count):
        directory = tmp_path / str(operation)
        acknowledged, error = await run_until_fault(directory, FaultyFiles(operation))
        assert error is not None
        assert "no room to write" in str(error)
        assert "free space" in str(error)
        told += 1
        with opened(directory) as ledger:
            for name, value in acknowledged.items():
                assert public(ledger, f"k{name}") == value
                assert private(ledger, "alpha", f"p{name}") == private(ledger, "beta", f"p{name}") == value
            if ledger.height == 1:
                await define(ledger)
            assert await submit(ledger, make_channel().write({"after": b"restart"})) == VALID
        shutil.rmtree(directory)
    assert told >= 20


async def test_a_full_sqlite_file_stops_the_node_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    channel = make_channel()
    acknowledged = 0

    async def fill(ledger: Ledger) -> None:
        nonlocal acknowledged
        for number in range(1000):
            assert await submit(ledger, channel.write({f"k{number}": b"v" * 5000})) == VALID
            acknowledged = number + 1

    with opened(tmp_path / "ledger", page_limit=60) as ledger:
        await define(ledger)
        with pytest.raises(NodeError, match=r"no room to write .*state\.sqlite") as stopped:
            await fill(ledger)
        assert "whether this transaction is committed shows after the restart" in str(stopped.value)
        assert ledger.failure is not None
        assert public(ledger, "k0") == b"v" * 5000
        with pytest.raises(NodeError, match="the node has stopped accepting"):
            await ledger.order(channel.write({"x": b"y"}).envelope)
        with pytest.raises(NodeError, match="the node has stopped accepting"):
            await ledger.wait_for_height(10_000)
    assert acknowledged > 10
    with opened(tmp_path / "ledger") as ledger:
        for number in range(acknowledged):
            assert public(ledger, f"k{number}") == b"v" * 5000
        assert await submit(ledger, channel.write({"after": b"restart"})) == VALID


async def test_whoever_waits_when_the_disk_is_full_is_told(tmp_path: Path) -> None:
    channel = make_channel()
    files = FaultyFiles()
    with opened(tmp_path / "ledger", files) as ledger:
        await define(ledger)
        waiting = asyncio.create_task(ledger.wait_for_transaction("never"))
        await asyncio.sleep(0)
        files.fail_at = files.count
        envelopes = [channel.write({f"k{n}": b"v"}).envelope for n in range(5)]
        results = await asyncio.gather(*map(ledger.order, envelopes), return_exceptions=True)
        assert all(isinstance(result, NodeError) for result in results)
        with pytest.raises(NodeError, match="stopped accepting: no room to write"):
            await waiting


async def test_a_crash_between_block_and_state_is_repaired_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block is stored; then private data of none, of some, of all organisations; never the state."""
    channel = make_channel()
    for reached in range(3):
        directory = tmp_path / f"crashed{reached}"
        endorsed = channel.write(
            {"k": LARGE}, private=[PrivateWrites(collection="sealed", values={"p": LARGE, "q": b"small"})]
        )
        with opened(directory) as ledger:
            await define(ledger)
            commits = 0

            def crashing(
                store: object,
                *args: object,
                reached: int = reached,
                original: Callable[..., None] = PrivateStore.commit,
            ) -> None:
                nonlocal commits
                if commits == reached:
                    raise RuntimeError("crash")
                commits += 1
                original(store, *args)

            with monkeypatch.context() as patch:
                patch.setattr(PrivateStore, "commit", crashing)
                if reached == 2:
                    patch.setattr(StateStore, "commit", crashing)
                with pytest.raises(NodeError, match="whether this transaction is committed shows"):
                    await submit(ledger, endorsed, ("alpha",))
        with opened(directory) as ledger:
            status = ledger.transaction(endorsed.tx_id)
            assert status is not None
            assert status.code == VALID
            assert public(ledger, "k") == LARGE
            for name in ("alpha", "beta"):
                assert private(ledger, name, "p") == LARGE
                assert private(ledger, name, "q") == b"small"
            assert await submit(ledger, channel.write({"after": b"restart"})) == VALID
