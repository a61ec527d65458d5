"""The contract on a real ledger: every organisation's service, real policies, real certificates.

Each service can also be told to misbehave: its transaction ``Bend`` writes whatever the caller says. That is what a
malicious organisation's service could endorse, so what it does not achieve, nobody achieves with so many services.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.contract.contract import Contract
from blockfl.contract.definition import contract_definition
from blockfl.contract.settings import ContractSettings
from blockfl.fabric.errors import CommitError, EndorseError, EvaluateError
from blockfl.fabric.gateway import Committed, Gateway
from blockfl.fabric.policy import signature_policy
from blockfl.fabric.shim import Context
from blockfl.ledger.endorsers import Endorsers
from blockfl.protocol import records
from support.consortium import CHANNEL, AnyConsortium, any_consortium
from support.federation import make_consortium
from support.scenario import Scenario
from support.world import Invalid, Refused

_ATTEMPTS = 8


class BendableContract:
    """The contract of an organisation that can be told to write anything."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

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
        self._height = 0

    @property
    def name(self) -> str:
        """The contract's name."""
        return self.record.contract

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
        await self._await_peer(creator, creator)
        for attempt in range(_ATTEMPTS):
            try:
                committed = await gateway.submit(
                    self.name, function, *arguments, transient=transient, organisations=endorsers
                )
                self._height = max(self._height, committed.block_number + 1)
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
        await self._await_peer(creator, peer or creator)
        try:
            return await self.gateways[creator].evaluate(
                self.name, function, *arguments, organisations=[peer or creator]
            )
        except EvaluateError as error:
            raise Refused(creator, _contract_text(error)) from error

    async def _await_peer(self, creator: str, peer: str) -> None:
        """Wait until a peer knows what has been done through others: peers of real Fabric commit one by one."""
        while await self.gateways[creator].peer_height(peer) < self._height:
            await asyncio.sleep(0.02)


def _contract_text(error: EndorseError | EvaluateError) -> str:
    """Return what follows the gateway's own words: the contract's, which begins with a code."""
    text = str(error)
    at = text.find("BFL")
    return text[at:] if at >= 0 else text


@asynccontextmanager
async def contract_network(
    directory: Path, ledger: str = "embedded", spec: tuple[records.TaskSpec, bytes] | None = None
) -> AsyncIterator[tuple[Scenario, ContractNetwork]]:
    """Bring the default consortium up with the contract; nothing is registered yet."""
    record = records.Consortium.model_validate({**dict(make_consortium()), "channel": CHANNEL})
    names = [member.organisation for member in record.members]
    keys = {
        name: X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        for number, name in enumerate(record.committee, 1)
    }
    handlers = {
        name: BendableContract(
            Contract(ContractSettings(organisation=name, consortium=record, opening_key=keys.get(name)))
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
        for name in names:
            running.gateways[name] = await stack.enter_async_context(network.gateway(name))
        signers = {name: network.signer(name) for name in names}
        yield Scenario(running, record, signers, keys, spec), running
