"""The same things done to a ledger and what was seen of it: one story per subject, told to the embedded node and to
real Fabric.

Each story is a function of the running network (four organisations, the operations contract, `support.operations`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.events import MemoryCheckpoint
from blockfl.fabric.client.gateway import Endorsed, Gateway
from blockfl.fabric.errors import GatewayError
from blockfl.fabric.identity.signing import Identity, Signer, create_private_key
from blockfl.fabric.transaction.envelope import build_proposal
from support.consortium import CHANNEL, CONTRACT, FOUR, AnyConsortium
from support.observation import endorse, outcome
from support.operations import CALLS, POPULATION, SECRET
from support.operations_contract import Operation, encode_operations

Story = Callable[[AnyConsortium], Awaitable[Any]]


async def settle(network: AnyConsortium, organisations: Sequence[str] = FOUR) -> None:
    """Waits until every peer has what the first has: real peers commit one after the other."""
    first = organisations[0]
    async with network.gateway(first) as gateway:
        height = await gateway.peer_height(first)
        for name in organisations:
            while await gateway.peer_height(name) < height:
                await asyncio.sleep(0.05)


async def write(
    network: AnyConsortium,
    *operations: Operation,
    by: str = "alpha",
    transient: dict[str, bytes] | None = None,
    endorsers: tuple[str, ...] = (),
) -> Any:
    """Submits operations and waits until every peer has them."""
    async with network.gateway(by) as gateway:
        seen = await outcome(_submit(gateway, *operations, transient=transient, endorsers=endorsers))
    await settle(network)
    return seen


async def _submit(
    gateway: Gateway,
    *operations: Operation,
    transient: dict[str, bytes] | None = None,
    endorsers: tuple[str, ...] = (),
) -> bytes:
    committed = await gateway.submit(
        CONTRACT, "Run", encode_operations(*operations), transient=transient, organisations=endorsers
    )
    return committed.payload


async def _endorse(gateway: Gateway, *operations: Operation, endorsers: tuple[str, ...] = ()) -> Endorsed:
    return await gateway.endorse(gateway.propose(CONTRACT, "Run", encode_operations(*operations)), endorsers)


async def populate(network: AnyConsortium) -> None:
    """The ledger that the stories find."""
    await settle(network)
    for operations in POPULATION:
        seen = await write(network, *operations, transient=SECRET)
        assert "result" in seen, seen


async def read_write_sets(network: AnyConsortium) -> Any:
    """Every kind of read and write, endorsed by one peer."""
    return {name: await endorse(network, "alpha", *calls, transient=SECRET) for name, calls in CALLS.items()}


async def sets_of_a_peer_outside_the_collection(network: AnyConsortium) -> Any:
    """What a peer says that does not hold the private data."""
    return [
        await endorse(network, "beta", ["hashPrivate", "sealed", "s1"]),
        await endorse(network, "beta", ["getPrivate", "sealed", "s1"]),
        await endorse(network, "beta", ["listPrivate", "sealed", "", ""]),
        await endorse(network, "beta", ["putPrivate", "sealed", "s7", "value"], transient=SECRET),
    ]


async def members_only(network: AnyConsortium) -> Any:
    """Reads of a member's private data by somebody else's client."""
    return [
        await endorse(network, "alpha", ["getPrivate", "sealed", "s1"], by="beta"),
        await endorse(network, "alpha", ["hashPrivate", "sealed", "s1"], by="beta"),
        await endorse(network, "alpha", ["getPrivate", "notes", "n2"], by="beta"),
    ]


async def key_level_policies(network: AnyConsortium) -> Any:
    """Who may write a key that has its own policy."""
    return [
        await write(network, ["put", "p1", "x"], ["protect", "p1", "beta", "delta"]),
        await write(network, ["put", "p1", "y"], endorsers=("alpha", "beta", "gamma")),
        await write(network, ["put", "p1", "z"], endorsers=("beta", "delta"), by="beta"),
        await write(network, ["put", "p1", "z"], ["put", "q1", "z"], endorsers=("beta", "delta"), by="beta"),
        await write(network, ["put", "p1", "by itself"]),
        await write(network, ["delete", "p1"], endorsers=("alpha",)),
        await write(network, ["delete", "p1"], endorsers=("beta", "delta"), by="delta"),
        await write(network, ["put", "p1", "new"], endorsers=("beta", "delta"), by="beta"),
    ]


async def collection_policies(network: AnyConsortium) -> Any:
    """Who may write private data, with and without a policy of the collection's own."""
    put: Operation = ["putPrivate", "sealed", "s3", "value"]
    note: Operation = ["putPrivate", "notes", "n9", "value"]
    return [
        await write(network, put, transient=SECRET, endorsers=("alpha",)),
        await write(network, put, transient=SECRET, endorsers=("alpha", "gamma")),
        await write(network, put, ["put", "beside", "x"], transient=SECRET, endorsers=("alpha", "gamma")),
        await write(network, put, transient=SECRET),
        await write(network, note, transient=SECRET, endorsers=("alpha", "gamma")),
        await write(network, note, transient=SECRET, endorsers=("alpha", "beta", "delta")),
        await write(network, ["put", "only", "two"], endorsers=("alpha", "beta")),
        await write(network, ["get", "k000"], endorsers=("alpha",)),
        await write(network, ["putPrivate", "nowhere", "k", "value"], transient=SECRET),
    ]


async def conflicts(network: AnyConsortium) -> Any:
    """Two transactions endorsed on the same state, and committed one after the other."""
    pairs: dict[str, tuple[list[Operation], list[Operation]]] = {
        "both write": ([["put", "c1", "1"]], [["put", "c1", "2"]]),
        "the second has read what the first writes": ([["put", "k100", "1"]], [["get", "k100"], ["put", "c2", "2"]]),
        "a key that was not there": ([["put", "c3", "1"]], [["get", "c3"], ["put", "c4", "2"]]),
        "a range grows": ([["put", "k0105", "1"]], [["list", "k010", "k011"], ["put", "c5", "2"]]),
        "a range of batches grows": ([["put", "k0501", "1"]], [["list", "k000", "k199"], ["put", "c6", "2"]]),
        "a range loses a key": ([["delete", "k120"]], [["list", "k119", "k122"], ["put", "c7", "2"]]),
        "a page that the change is not in": ([["put", "k1505", "1"]], [["page", "k140", "k160", 3, ""]]),
        "a hash that changes": ([["putPrivate", "notes", "n2", "value"]], [["hashPrivate", "notes", "n2"]]),
        "a policy that changes": ([["protect", "k130", "alpha"]], [["put", "k130", "2"]]),
    }
    seen: dict[str, Any] = {}
    async with network.gateway("alpha") as gateway:
        for name, (first, second) in pairs.items():
            proposals = [
                gateway.propose(CONTRACT, "Run", encode_operations(*one), transient=SECRET) for one in (first, second)
            ]
            endorsed = [await gateway.endorse(one, ("alpha", "beta", "gamma")) for one in proposals]
            seen[name] = [await outcome(_payload(gateway, one)) for one in endorsed]
            await settle(network)
    return seen


async def _payload(gateway: Gateway, endorsed: Endorsed) -> bytes:
    return (await gateway.commit(endorsed)).payload


async def repeated_transactions(network: AnyConsortium) -> Any:
    """The same transaction id again, in a copy and in a new proposal."""
    seen = []
    async with network.gateway("alpha") as gateway:
        signer = network.signer("alpha")
        args = [b"Run", encode_operations(["put", "twice", "1"]).encode()]
        proposal = build_proposal(CHANNEL, CONTRACT, args, signer, nonce=b"n" * 24)
        endorsed = await gateway.endorse(proposal)
        seen.append(await outcome(_payload(gateway, endorsed)))
        await settle(network)
        seen.append(await outcome(_payload(gateway, endorsed)))
        again = build_proposal(CHANNEL, CONTRACT, args, signer, nonce=b"n" * 24)
        seen.append(await outcome(gateway.endorse(again)))
        status = await gateway.commit_status(endorsed.transaction_id)
        seen.append(status.code_name)
    return seen


async def a_copy_sent_again(network: AnyConsortium) -> Any:
    """The orderers' answer to a transaction that they have ordered already."""
    async with network.gateway("alpha") as gateway:
        proposal = gateway.propose(CONTRACT, "Run", encode_operations(["put", "thrice", "1"]))
        endorsed = await gateway.endorse(proposal)
        await gateway.commit(endorsed)
        await settle(network)
        return _kind(await outcome(gateway.send(endorsed)))


async def errors(network: AnyConsortium) -> Any:
    """What a client is told when something does not work out."""
    refuse = encode_operations(["refuse", "BFL104 round 7 is closed"])
    get = encode_operations(["get", "k000"])
    async with network.gateway("alpha") as gateway:
        return {
            "the contract refuses, evaluated": await outcome(gateway.evaluate(CONTRACT, "Run", refuse)),
            "the contract refuses, endorsed": await outcome(gateway.submit(CONTRACT, "Run", refuse)),
            "refused by named endorsers": await outcome(
                gateway.submit(CONTRACT, "Run", refuse, organisations=("beta", "gamma"))
            ),
            "an unknown chaincode, evaluated": await outcome(gateway.evaluate("nothing", "Run", get)),
            "an unknown chaincode, endorsed": await outcome(gateway.submit("nothing", "Run", get)),
            "an unknown organisation, evaluated": await outcome(
                gateway.evaluate(CONTRACT, "Run", get, organisations=("nobody",))
            ),
            "an unknown organisation, endorsed": await outcome(
                gateway.submit(CONTRACT, "Run", get, organisations=("nobody",))
            ),
        }


async def strangers(network: AnyConsortium) -> Any:
    """Who is not let in: other authorities, expired certificates, wrong times, wrong channels, no signature."""
    seen: dict[str, Any] = {}
    for name, signer in {
        "a stranger's authority": _stranger(network),
        "an expired certificate": _expired(network),
        "a certificate without a unit": network.organisations["alpha"].signer("nobody", None),
    }.items():
        gateway = Gateway(network.endpoint("alpha"), signer, CHANNEL)
        async with gateway:
            seen[f"{name}, evaluated"] = _kind(await outcome(gateway.evaluate(CONTRACT, "Run", encode_operations())))
            seen[f"{name}, endorsed"] = _kind(await outcome(gateway.submit(CONTRACT, "Run", encode_operations())))
    async with Gateway(network.endpoint("alpha"), network.signer("alpha"), "elsewhere") as gateway:
        seen["another channel"] = _kind(await outcome(gateway.evaluate(CONTRACT, "Run", encode_operations())))
    signer = network.signer("alpha")
    async with Endorser(network.endpoint("alpha"), signer) as endorser:
        for seconds in (-3600, -10, 3600):
            when = int((datetime.now(UTC) + timedelta(seconds=seconds)).timestamp() * 1000)
            args = [b"Run", encode_operations(["get", "k000"]).encode()]
            proposal = build_proposal(CHANNEL, CONTRACT, args, signer, timestamp_ms=when)
            seen[f"a time {seconds} s from now"] = await _accepted(endorser, proposal)
    return seen


async def _accepted(endorser: Endorser, proposal: Any) -> str:
    try:
        await endorser.process(proposal)
    except GatewayError as error:
        return error.status.name
    return "accepted"


def _kind(seen: Any) -> Any:
    """Error and status alone: real peers hide from strangers why."""
    return {name: seen[name] for name in ("error", "status", "result") if name in seen}


def _stranger(network: AnyConsortium) -> Signer:
    other = network.organisations["beta"].signer("intruder", "client")
    return Signer(Identity(msp_id="alpha", certificate_pem=other.identity.certificate_pem), other.private_key)


def _expired(network: AnyConsortium) -> Signer:
    key = create_private_key()
    now = datetime.now(UTC)
    authority = network.organisations["alpha"].signing
    start = authority.certificate.not_valid_before_utc
    pem = authority.issue(
        key.public_key(), common_name="late", unit="client", valid_from=start, valid_until=now - timedelta(seconds=1)
    )
    return Signer(Identity(msp_id="alpha", certificate_pem=pem), key)


async def events(network: AnyConsortium) -> Any:
    """Events as they come, again from the start, and from a checkpoint on."""
    async with network.gateway("beta") as gateway:
        start = await gateway.height()
        for number in range(4):
            await write(network, ["put", f"e{number}", "x"], ["emit", f"stored {number}", str(number)])
            await write(network, ["put", f"f{number}", "without an event"])
        async with gateway.events(CONTRACT, start_block=start) as stream:
            first = [await anext(stream) for _ in range(4)]
        checkpoint = MemoryCheckpoint()
        async with gateway.events(CONTRACT, start_block=start, checkpoint=checkpoint) as stream:
            for _ in range(2):
                await anext(stream)
            await anext(stream)
        async with gateway.events(CONTRACT, checkpoint=checkpoint) as stream:
            rest = [await anext(stream) for _ in range(2)]
    return {
        "first": [[one.name, one.payload.decode(), one.chaincode, one.block_number - start] for one in first],
        "rest": [[one.name, one.payload.decode()] for one in rest],
    }


async def a_service_that_is_down(network: AnyConsortium) -> Any:
    """What clients are told while an organisation's contract service does not run, and after it has come back."""
    await network.stop_service("delta")
    try:
        async with network.gateway("alpha") as gateway:
            named = await outcome(_endorse(gateway, ["put", "d1", "x"], endorsers=("alpha", "beta", "delta")))
            chosen = await outcome(_submit(gateway, ["put", "d1", "x"]))
        async with network.gateway("delta") as gateway:
            own = await outcome(gateway.evaluate(CONTRACT, "Run", encode_operations(["get", "k000"])))
    finally:
        await network.start_service("delta")
    async with network.gateway("delta") as gateway, asyncio.timeout(30):
        while "result" not in (await outcome(_submit(gateway, ["put", "d2", "back"], endorsers=FOUR))):
            await asyncio.sleep(0.5)
    await settle(network)
    return {"named": _kind(named) | {"who": [msp_id for msp_id, _ in named.get("said", ())]},
            "chosen": chosen, "own": own.get("result") or _kind(own)}  # fmt: skip


STORIES: Final[dict[str, Story]] = {
    story.__name__: story
    for story in (
        read_write_sets,
        sets_of_a_peer_outside_the_collection,
        members_only,
        key_level_policies,
        collection_policies,
        conflicts,
        repeated_transactions,
        a_copy_sent_again,
        errors,
        strangers,
        events,
        a_service_that_is_down,
    )
}
