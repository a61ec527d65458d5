"""A contract on the official Node library writes what the Python shim's writes, called by either ledger.

Two organisations run the contract in Python, two run it on Node.js. The same signed proposal goes to a peer of each
kind; what they would sign (read/write set, response, event, proposal hash) must be the same bytes. Transactions that
need three organisations then pass only because both kinds agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from examples.port_range import reserve_ports

from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.lifecycle import package_contract, package_id
from blockfl.fabric.errors import EndorseError
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from blockfl.fabric.transaction.envelope import assemble_transaction, build_proposal, sign_envelope
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import decode_read_write_set
from support.consortium import CHANNEL, CONTRACT, AnyConsortium, any_consortium
from support.node_runtime import NodeChaincode, NodeRuntime
from support.operations import CALLS, DEFINITION, POPULATION, SECRET
from support.operations_contract import Operation, encode_operations, operations_contract
from support.stories import settle

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="module")]

PYTHON, NODE = ("alpha", "beta"), ("gamma", "delta")


class Mixed:
    """The running network and a connection to one peer of each kind."""

    def __init__(self, network: AnyConsortium, python: Endorser, node: Endorser) -> None:
        self.network = network
        self.python = python
        self.node = node

    async def endorse(self, *operations: Operation, transient: dict[str, bytes] | None = None) -> tuple[Any, Any, Any]:
        """Sends one proposal to both kinds; returns it and both answers."""
        args = [b"Run", encode_operations(*operations).encode()]
        proposal = build_proposal(CHANNEL, CONTRACT, args, self.network.signer("alpha"), transient)
        answers = await asyncio.gather(self.python.process(proposal), self.node.process(proposal))
        return proposal, *answers

    async def write(self, *operations: Operation, transient: dict[str, bytes] | None = None) -> None:
        async with self.network.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Run", encode_operations(*operations), transient=transient)
        await settle(self.network)


def issue_tls(network: AnyConsortium, organisation: str, name: str) -> tuple[bytes, bytes]:
    key = create_private_key()
    certificate = network.organisations[organisation].tls.issue(
        key.public_key(), common_name=name, unit=None, hosts=("127.0.0.1",), tls=True
    )
    return certificate, private_key_pem(key)


@asynccontextmanager
async def node_chaincode(
    network: AnyConsortium, runtime: NodeRuntime, organisation: str, home: Path
) -> AsyncIterator[bytes]:
    """Starts an organisation's contract on Node.js and yields the package that says where it is."""
    home.mkdir()
    certificate, key = issue_tls(network, organisation, "node")
    client_certificate, client_key = issue_tls(network, organisation, "peer")
    chaincode = NodeChaincode(runtime, f"127.0.0.1:{reserve_ports()}", home, network.organisations[organisation])
    package = package_contract(
        f"node_{organisation}",
        {
            "address": chaincode.address,
            "dial_timeout": "20s",
            "tls_required": True,
            "client_auth_required": True,
            "root_cert": network.organisations[organisation].tls.certificate_pem.decode(),
            "client_cert": client_certificate.decode(),
            "client_key": client_key.decode(),
        },
    )
    await chaincode.start(package_id(package), certificate, key)
    try:
        yield package
    finally:
        await chaincode.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mixed(
    node_runtime: NodeRuntime, tmp_path_factory: pytest.TempPathFactory, ledger_kind: str
) -> AsyncIterator[Mixed]:
    directory = tmp_path_factory.mktemp("network")
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(
            any_consortium(ledger_kind, directory, handlers=dict.fromkeys(PYTHON, operations_contract), deploy=False)
        )
        packages = dict.fromkeys(PYTHON, network.package)
        for organisation in NODE:
            packages[organisation] = await stack.enter_async_context(
                node_chaincode(network, node_runtime, organisation, directory / f"node-{organisation}")
            )
        await network.deploy(DEFINITION, packages)
        signer = network.signer("alpha")
        python = await stack.enter_async_context(Endorser(network.endpoint("alpha"), signer))
        node = await stack.enter_async_context(Endorser(network.endpoint("gamma"), signer))
        mixed = Mixed(network, python, node)
        await settle(network)
        for operations in POPULATION:
            await mixed.write(*operations, transient=SECRET)
        yield mixed


async def test_both_shims_give_the_same_bytes_to_be_signed(mixed: Mixed) -> None:
    differing: list[str] = []
    for name, operations in CALLS.items():
        _, python, node = await mixed.endorse(*operations, transient=SECRET)
        if python.payload != node.payload:
            differing.append(f"{name}:\n  python {python.payload.hex()}\n  node   {node.payload.hex()}")
    assert not differing, "\n".join(differing)


async def test_the_compared_sets_hold_what_they_are_about(mixed: Mixed) -> None:
    # Equal bytes would prove little if both sets were empty.
    proposal, python, node = await mixed.endorse(
        ["list", "k000", "k999"],
        ["put", "new", "1"],
        ["protect", "new", "alpha"],
        ["putPrivate", "sealed", "s9", "value"],
        ["emit", "stored", "new"],
        transient=SECRET,
    )
    payload = assemble_transaction(proposal, [python, node])
    transaction = decode_transaction(sign_envelope(payload, mixed.network.signer("alpha")))
    assert transaction.event is not None
    assert (transaction.event.name, transaction.event.tx_id) == ("stored", proposal.tx_id)
    namespaces = {one.namespace: one for one in decode_read_write_set(transaction.results).namespaces}
    written = namespaces[CONTRACT]
    assert [query.start_key for query in written.range_queries] == ["k000"]
    assert [write.key for write in written.writes] == ["new"]
    assert [write.key for write in written.metadata_writes] == ["new"]
    assert [collection.collection for collection in written.collections] == ["sealed"]
    assert len(transaction.endorsements) == 2


async def test_transactions_that_need_both_kinds_are_committed(mixed: Mixed) -> None:
    await mixed.write(["put", "a", "1"], ["emit", "stored", "a"])
    await mixed.write(["putPrivate", "sealed", "s", "other"], transient=SECRET)
    async with mixed.network.gateway("gamma") as gateway:
        result = await gateway.evaluate(CONTRACT, "Run", encode_operations(["get", "a"], ["getPrivate", "sealed", "s"]))
    assert result == b'["' + b"1".hex().encode() + b'","' + SECRET["other"].hex().encode() + b'"]'


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (["refuse", "BFL104 round 7 is closed"], "BFL104 round 7 is closed"),
        (["getPrivate", "nowhere", "key"], "nowhere"),
    ],
)
async def test_both_shims_pass_the_reason_of_a_refusal_on(mixed: Mixed, operation: Operation, text: str) -> None:
    args = [b"Run", encode_operations(operation).encode()]
    proposal = build_proposal(CHANNEL, CONTRACT, args, mixed.network.signer("alpha"))
    asked = (mixed.python.process(proposal), mixed.node.process(proposal))
    reasons = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(reason, EndorseError) and text in str(reason) for reason in reasons), reasons
