"""What a Python contract does on the ledger through the shim, with a peer that speaks the official bindings."""

from __future__ import annotations

import asyncio
import hashlib

from fabric_protos.peer import chaincode_shim_pb2

from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import Identity, create_private_key
from blockfl.fabric.shim import Context, ContractFault, LedgerRefusal
from support.shim_peer import BATCH, Message, event_of, serving

# field 1: takes batches of writes, field 2: of up to this many
BATCHES_OF_TWO = b"\x08\x01\x10\x02"
# field 3: takes reads of several keys, field 4: of up to this many
READS_OF_TWO = b"\x18\x01\x20\x02"


async def test_a_contract_reads_the_call_as_the_client_signed_it() -> None:
    seen: list[Context] = []
    creator = Identity(
        msp_id="alpha",
        certificate_pem=Authority.create("ca", "alpha").issue(
            create_private_key().public_key(), common_name="agent", unit="client"
        ),
    )

    async def contract(context: Context) -> bytes:
        seen.append(context)
        return b"done"

    async with serving(contract) as peer:
        transient = {"chunk": bytes(range(256)) * 20_000, "empty": b"", "ключ": b"v"}
        response, event = await peer.call(
            "Upload", b"\x00\xff", "", creator=creator, transient=transient, seconds=1_700_000_000, nanos=5_999_999
        )
    (context,) = seen
    assert (response.status, response.payload, event) == (200, b"done", None)
    assert (context.function, context.args) == ("Upload", (b"\x00\xff", b""))
    assert (context.channel, context.tx_id) == ("fed", "t1")
    assert context.transient == transient
    assert context.creator == creator
    assert context.timestamp_ms == 1_700_000_000_005


async def test_public_state_is_written_read_and_deleted() -> None:
    async def contract(context: Context) -> bytes:
        assert await context.get_state("missing") is None
        await context.put_state("a", b"1")
        await context.delete_state("b")
        return await context.get_state("a") or b""

    async with serving(contract) as peer:
        peer.state["", "b"] = b"2"
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (200, b"1")
        assert peer.state == {("", "a"): b"1"}
        assert peer.operations == [("get", "", "missing"), ("put", "", "a"), ("delete", "", "b"), ("get", "", "a")]


async def test_private_data_is_written_read_hashed_and_purged() -> None:
    async def contract(context: Context) -> bytes:
        await context.put_private("notes", "new", context.transient["data"])
        await context.delete_private("notes", "old")
        await context.purge_private("notes", "older")
        assert await context.get_private("notes", "new") == context.transient["data"]
        return await context.get_private_hash("notes", "new") or b""

    async with serving(contract) as peer:
        peer.state = {("notes", "old"): b"1", ("notes", "older"): b"2"}
        chunk = b"\x01" * 5_000_000
        response, _ = await peer.call("Run", transient={"data": chunk})
        assert (response.status, response.payload) == (200, hashlib.sha256(chunk).digest())
        assert peer.state == {("notes", "new"): chunk}


async def test_key_level_policies_of_public_and_private_keys() -> None:
    async def contract(context: Context) -> bytes:
        assert await context.get_state_policy("a") is None
        await context.set_state_policy("a", b"policy")
        await context.set_private_policy("notes", "b", b"other")
        assert await context.get_private_policy("notes", "b") == b"other"
        return await context.get_state_policy("a") or b""

    async with serving(contract) as peer:
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (200, b"policy")
        assert peer.metadata["", "a"] == {"VALIDATION_PARAMETER": b"policy"}


async def test_a_range_fetches_batches_and_needs_no_closing_when_read_to_its_end() -> None:
    async def contract(context: Context) -> bytes:
        return b",".join([key.encode() + b"=" + value async for key, value in context.range("", "k9")])

    async with serving(contract) as peer:
        peer.state = {("", f"k{i}"): b"%d" % i for i in range(2 * BATCH)} | {("notes", "k0"): b"private"}
        response, _ = await peer.call("Run")
        assert response.payload == b"k0=0,k1=1,k2=2,k3=3,k4=4,k5=5"
        # An empty start means the first simple key; composite keys begin with \x00.
        assert peer.operations == [("range", "", "\x01", "k9"), ("next",)]


async def test_a_range_can_be_left_early() -> None:
    async def contract(context: Context) -> bytes:
        entries = context.private_range("notes", "", "")
        first = await anext(entries)
        await entries.aclose()
        return first[1]

    async with serving(contract) as peer:
        peer.state = {("notes", f"k{i}"): b"%d" % i for i in range(2 * BATCH)}
        response, _ = await peer.call("Run")
        assert response.payload == b"0"
        assert peer.operations == [("range", "notes", "\x01", ""), ("close",)]


async def test_pages_follow_each_other_by_their_bookmarks() -> None:
    async def contract(context: Context) -> bytes:
        first = await context.page("", "", 2)
        second = await context.page("", "", 2, first.bookmark)
        assert second.bookmark == ""
        return b"".join(value for _, value in first.entries + second.entries)

    async with serving(contract) as peer:
        peer.state = {("", f"k{i}"): b"%d" % i for i in range(3)}
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (200, b"012")


async def test_the_last_event_set_is_emitted_and_none_when_the_contract_refuses() -> None:
    async def contract(context: Context) -> bytes:
        context.set_event("first", b"1")
        context.set_event("second", b"2")
        if context.function == "Refuse":
            raise ContractFault("BFL104 round 7 is closed")
        return b""

    async with serving(contract) as peer:
        _, event = await peer.call("Accept")
        assert event_of(event) == ("second", b"2")
        response, event = await peer.call("Refuse")
        assert (response.status, response.message, event) == (500, "BFL104 round 7 is closed", None)


async def test_another_chaincode_is_called() -> None:
    async def contract(context: Context) -> bytes:
        answer = await context.invoke_chaincode(context.args[0].decode(), "Ping", b"1")
        return answer.payload

    async with serving(contract) as peer:
        response, _ = await peer.call("Run", "other")
        assert (response.status, response.payload) == (200, b"pong")
        assert peer.operations == [("invoke", "other", "Ping", "1")]
        response, _ = await peer.call("Run", "unknown")
        assert (response.status, response.message) == (500, "no such chaincode")


async def test_an_operation_that_the_peer_refuses_reaches_the_client_in_the_peers_words() -> None:
    caught: list[str] = []

    async def contract(context: Context) -> bytes:
        try:
            await context.get_private("sealed", "forbidden")
        except LedgerRefusal as refusal:
            caught.append(str(refusal))
            raise
        return b""

    async with serving(contract) as peer:
        peer.refused_keys.add("forbidden")
        response, _ = await peer.call("Run")
        expected = "GET_STATE failed: tx creator does not have read access permission"
        assert (response.status, response.message, caught) == (500, expected, [expected])


async def test_operations_that_are_awaited_together_reach_the_peer_one_after_the_other() -> None:
    async def contract(context: Context) -> bytes:
        values = await asyncio.gather(*(context.get_state(f"k{i}") for i in range(10)))
        return b"".join(value or b"?" for value in values)

    async with serving(contract) as peer:
        peer.state = {("", f"k{i}"): b"%d" % i for i in range(10)}
        response, _ = await peer.call("Run")
        assert response.payload == b"0123456789"


async def test_writes_travel_in_batches_where_the_peer_takes_them() -> None:
    async def contract(context: Context) -> bytes:
        await context.put_state("a", b"1")
        await context.delete_state("b")
        await context.put_private("notes", "c", b"3")
        await context.purge_private("notes", "d")
        await context.set_state_policy("a", b"policy")
        return b""

    async with serving(contract, ready_payload=BATCHES_OF_TWO) as peer:
        peer.state = {("", "b"): b"2", ("notes", "d"): b"4"}
        response, _ = await peer.call("Run")
        assert response.status == 200
        assert peer.state == {("", "a"): b"1", ("notes", "c"): b"3"}
        assert peer.metadata == {("", "a"): {"VALIDATION_PARAMETER": b"policy"}}
        assert [o for o in peer.operations if o[0] == "batch"] == [("batch", "2"), ("batch", "2"), ("batch", "1")]


async def test_several_keys_are_read_at_once_where_the_peer_takes_them() -> None:
    async def contract(context: Context) -> bytes:
        values = await context.get_states(["a", "missing", "b"])
        assert await context.get_privates("notes", ["c"]) == (b"3",)
        return b",".join(value or b"-" for value in values)

    state = {("", "a"): b"1", ("", "b"): b"2", ("notes", "c"): b"3"}
    async with serving(contract, ready_payload=READS_OF_TWO) as peer:
        peer.state = dict(state)
        assert (await peer.call("Run"))[0].payload == b"1,-,2"
        assert [o for o in peer.operations if o[1] == ""] == [
            ("get multiple", "", "a", "missing"),
            ("get multiple", "", "b"),
        ]
    async with serving(contract) as peer:
        peer.state = dict(state)
        assert (await peer.call("Run"))[0].payload == b"1,-,2"
        assert {operation[0] for operation in peer.operations} == {"get"}


async def test_a_batch_that_the_peer_refuses_fails_the_transaction() -> None:
    async def contract(context: Context) -> bytes:
        await context.put_state("forbidden", b"1")
        return b"written"

    async with serving(contract, ready_payload=BATCHES_OF_TWO) as peer:
        peer.refused_keys.add("forbidden")
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (500, b"")
        assert response.message.startswith("WRITE_BATCH_STATE failed")


def test_the_batch_record_types_are_those_of_the_messages() -> None:
    # The shim passes the type of the single operation on as the type of the record.
    records = dict(chaincode_shim_pb2.WriteRecord.Type.items())
    assert all(records[name] == Message.Type.Value(name) for name in records if name != "UNDEFINED")
