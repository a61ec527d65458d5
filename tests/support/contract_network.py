"""The contract on a real ledger: every organisation's service, real policies, real certificates.

Each service can also be told to misbehave: its transaction ``Bend`` writes whatever the caller says. That is what a
malicious organisation's service could endorse, so what it does not achieve, nobody achieves with so many services.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.contract.contract import FederationContract
from blockfl.contract.definition import contract_definition
from blockfl.contract.settings import ContractSettings
from blockfl.fabric.client.gateway import Committed, Gateway
from blockfl.fabric.errors import CommitError, EndorseError, EvaluateError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.shim import Context
from blockfl.fabric.transaction.envelope import Proposal, build_proposal
from blockfl.ledger.client import Ledger
from blockfl.ledger.deliveries import Deliveries
from blockfl.ledger.endorsers import Endorsers
from blockfl.ledger.memory import Memory
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol import records
from blockfl.protocol.task import TaskSpec
from support.consortium import CHANNEL, AnyConsortium, any_consortium
from support.federation import make_consortium
from support.scenario import Scenario
from support.world import Invalid, Refused

_ATTEMPTS = 8


Answer = Callable[[Context], Awaitable[bytes]]


class BendableContract:
    """The contract of an organisation that can be told to write anything."""

    def __init__(self, contract: FederationContract) -> None:
        self.contract: Answer = contract

    async def __call__(self, context: Context) -> bytes:
        """Run the contract, or what a malicious organisation would run."""
        if context.function == "Bend":
            await self._bend(context)
            return b""
        if context.function == "Peek":
            collection, key = (argument.decode() for argument in context.args)
            return await context.get_private(collection, key) or b""
        return await self.contract(context)

    async def _bend(self, context: Context) -> None:
        action, collection, key = (argument.decode() for argument in context.args)
        value = context.transient.get("value", b"bent")
        if action == "policy":
            policy = signature_policy(1, ["alpha"]).SerializeToString(deterministic=True)
            await context.set_state_policy(key, policy)
        elif action == "delete":
            await context.delete_state(key)
        elif collection:
            await context.put_private(collection, key, value)
        else:
            await context.put_state(key, value)


class ContractNetwork:
    """A running consortium as a ``Scenario`` calls it."""

    def __init__(self, network: AnyConsortium, record: records.Consortium) -> None:
        self.network = network
        self.record = record
        self.opening_keys: dict[str, X25519PrivateKey] = {}
        self.gateways: dict[str, Gateway] = {}
        self.services: dict[str, BendableContract] = {}
        self._height = 0
        self._shifts_ms: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The contract's name."""
        return self.record.contract

    @contextmanager
    def clock(self, organisation: str, shift_s: float) -> Iterator[None]:
        """Let an organisation's client state times that are this far from the true ones."""
        self._shifts_ms[organisation] = int(1000 * shift_s)
        try:
            yield
        finally:
            del self._shifts_ms[organisation]

    def propose(
        self, creator: str, function: str, *arguments: str | bytes, transient: Mapping[str, bytes] | None = None
    ) -> Proposal:
        """Return a signed proposal that states the time of its creator's clock."""
        encoded = [one.encode() if isinstance(one, str) else one for one in (function, *arguments)]
        now_ms = time.time_ns() // 1_000_000 + self._shifts_ms.get(creator, 0)
        signer = self.gateways[creator].signer
        return build_proposal(CHANNEL, self.name, encoded, signer, transient, timestamp_ms=now_ms)

    def note_block(self, number: int) -> None:
        """Have later calls wait for this block at the peers that they ask."""
        self._height = max(self._height, number + 1)

    async def submit(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Committed:
        """Submit a transaction.

        Raises:
            Refused: the contract said no.
            Invalid: the transaction is on the ledger, but invalid.
        """
        gateway = self.gateways[creator]
        others = Endorsers(gateway, creator)
        await self.await_peer(creator, creator)
        for attempt in range(_ATTEMPTS):
            try:
                proposal = self.propose(creator, function, *arguments, transient=transient)
                committed = await gateway.commit(await gateway.endorse(proposal, endorsers))
                self.note_block(committed.block_number)
                return committed
            except EndorseError as error:
                # As clients do: what a peer says that is behind does not count.
                if attempt == _ATTEMPTS - 1 or not await others.is_worth_another_try(error, attempt):
                    raise Refused(creator, _contract_text(error)) from error
            except CommitError as error:
                raise Invalid(error.code_name) from error
        raise AssertionError("unreachable")

    async def evaluate(self, creator: str, function: str, *arguments: str | bytes, peer: str | None = None) -> bytes:
        """Ask the contract at one organisation's peer.

        Raises:
            Refused: the contract or the peer said no.
        """
        await self.await_peer(creator, peer or creator)
        try:
            return await self.gateways[creator].evaluate(
                self.name, function, *arguments, organisations=[peer or creator]
            )
        except EvaluateError as error:
            raise Refused(creator, _contract_text(error)) from error

    async def await_peer(self, creator: str, peer: str) -> None:
        """Wait until a peer knows what has been done through others: peers of real Fabric commit one by one."""
        while await self.gateways[creator].peer_height(peer) < self._height:
            await asyncio.sleep(0.02)


class ClientOfNetwork(Ledger):
    """The product's client on a network of the tests."""

    def __init__(self, network: ContractNetwork, organisation: str) -> None:
        self.profile = ConnectionProfile(
            network=network.record.network,
            channel=network.record.channel,
            contract=network.name,
            organisation=organisation,
            endpoint="127.0.0.1:1",
            tls_roots="roots.pem",
            certificate="certificate.pem",
            private_key="key.pem",
        )
        self.gateway = network.gateways[organisation]
        self.signer = network.network.signer(organisation)
        self._endorsers = Endorsers(self.gateway, organisation)
        self._consortium = None
        self._jitter = random.Random(0)
        self._memory = Memory()
        self._deliveries = Deliveries(self.gateway, network.name)


def _contract_text(error: EndorseError | EvaluateError) -> str:
    """Return what follows the gateway's own words: the contract's, which begins with a code."""
    text = str(error)
    at = text.find("BFL")
    return text[at:] if at >= 0 else text


@asynccontextmanager
async def contract_network(
    directory: Path,
    ledger: str = "embedded",
    spec: tuple[TaskSpec, bytes] | None = None,
    consortium: records.Consortium | None = None,
) -> AsyncIterator[tuple[Scenario, ContractNetwork]]:
    """Bring a consortium up with the contract, the default one if none is given; nothing is registered yet."""
    record = records.Consortium.model_validate({**dict(consortium or make_consortium()), "channel": CHANNEL})
    names = [member.organisation for member in record.members]
    keys = {
        name: X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        for number, name in enumerate(record.committee, 1)
    }
    handlers = {
        name: BendableContract(
            FederationContract(ContractSettings(organisation=name, consortium=record, opening_key=keys.get(name)))
        )
        for name in names
    }
    definition = contract_definition(record)
    async with (
        any_consortium(ledger, directory, handlers=handlers, organisations=names, definition=definition) as network,
        AsyncExitStack() as stack,
    ):
        running = ContractNetwork(network, record)
        running.opening_keys = keys
        running.services = handlers
        for name in names:
            running.gateways[name] = await stack.enter_async_context(network.gateway(name))
        signers = {name: network.signer(name) for name in names}
        yield Scenario(running, record, signers, keys, spec), running
