"""The network under attack, and what only an attacker's own client does: any bytes, any time, any endorser.

One consortium for all attacks. Each task in it goes on round after round; one that an attack has left in disorder is
given up for a new one, so that attacks stay independent of each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attacks.bout import Bout
from attacks.catalogue import Outcome, invalid, refused
from attacks.observation import attempt, name_refusal
from attacks.terms import PLAIN, Terms
from blockfl.contract.definition import contract_definition
from blockfl.fabric.channel.block import decode_metadata
from blockfl.fabric.channel.changes import revoke_certificates
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.client.broadcast import broadcast
from blockfl.fabric.client.deliver import ORDERER_DELIVER, PEER_DELIVER, read_config
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Endorsed, Gateway
from blockfl.fabric.errors import CommitError, SubmitError
from blockfl.fabric.identity.signing import Signer, private_key_pem
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.transaction.envelope import Proposal
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.economics import TREASURY
from blockfl.protocol.records import Consortium
from blockfl.protocol.task import TaskSpec
from support.consortium import CHANNEL
from support.contract_network import Answer, ContractNetwork, contract_network
from support.federation import INSTITUTIONS, make_consortium
from support.scenario import Scenario, Values

_POOL = 1_000_000
_ENDOWMENT = 10_000
_REDIAL_S = 30
_SPREAD_S = 60


class Crowd(Scenario):
    """A scenario whose institutions learn something that they share, and something of their own."""

    def values(self, organisation: str, number: int = 1) -> Values:
        """Return what an institution learnt."""
        dimension = self.spec.manifest.dimension
        return _draw(dimension, number, "shared") + _draw(dimension, number, organisation)


def _draw(dimension: int, number: int, word: str) -> Values:
    generator = np.random.default_rng([number, *word.encode()])
    return generator.integers(-40, 41, dimension, dtype=np.int16)


@dataclass
class Site:
    """A task that goes on: its scenario, the last round, and the model that this made."""

    scenario: Scenario
    number: int
    model: bytes


class Arena:
    """A running consortium.

    Args:
        told: a scenario of the network, for its identities and keys.
        network: the network.
        ledger: its kind.
        directory: for the profiles of clients.
    """

    def __init__(self, told: Scenario, network: ContractNetwork, ledger: str, directory: Path) -> None:
        self.network = network
        self.ledger_kind = ledger
        self.consortium = told.consortium
        self.opening_keys = dict(told.opening_keys)
        self._told = told
        self._directory = directory
        self._sites: dict[Terms, Site] = {}
        self._made = 0

    # Tasks

    async def begin(self, terms: Terms) -> Bout:
        """Return the next round of a task with these terms; nobody has opened it yet."""
        site = self._sites.pop(terms, None) or await self._make_site(terms)
        return Bout(self, terms, site)

    async def begin_anew(self, terms: Terms) -> Bout:
        """Return the first round of a new task."""
        return Bout(self, terms, await self._make_site(terms))

    def keep(self, terms: Terms, site: Site) -> None:
        """Go on with a task that is in order; where stakes are lost, each attack has a task of its own."""
        if not terms.economics:
            self._sites[terms] = site

    async def make_scenario(self, terms: Terms) -> Scenario:
        """Create another task, in which nobody has enrolled."""
        self._made += 1
        return await self.propose_task(*terms.make_spec(f"{terms.name}-{self._made}"))

    async def propose_task(self, spec: TaskSpec, model: bytes) -> Scenario:
        """Create this task."""
        told = self._told
        scenario = Crowd(self.network, told.consortium, told.signers, told.opening_keys, (spec, model))
        await scenario.create()
        return scenario

    async def _make_site(self, terms: Terms) -> Site:
        scenario = await self.make_scenario(terms)
        if terms.economics:
            await self._fund(scenario.task)
        await scenario.enrol()
        return Site(scenario, 0, scenario.initial_model)

    async def _fund(self, task: str) -> None:
        for name in INSTITUTIONS:
            await self.network.submit("coordinator", "Grant", f"{task}-{name}", name, str(_ENDOWMENT))
        await self.network.submit("coordinator", "Grant", f"{task}-pool", TREASURY, str(_POOL))

    @asynccontextmanager
    async def brief_collections(self, blocks: int) -> AsyncIterator[Scenario]:
        """The same contract under another name, whose sealed chunks live for so many blocks; nothing is registered."""
        told = contract_definition(self.consortium)
        collections = tuple(
            replace(one, block_to_live=blocks) if one.name == catalogue.SEALED_COLLECTION else one
            for one in told.collections
        )
        definition = replace(told, name="brief", collections=collections)
        await self.network.network.deploy(definition)
        network = ContractNetwork(self.network.network, self.consortium.model_copy(update={"contract": "brief"}))
        network.gateways = self.network.gateways
        yield Crowd(network, self.consortium, self._told.signers, self._told.opening_keys, PLAIN.make_spec("brief"))

    async def await_peers(self) -> None:
        """Wait until every peer has what is on the ledger so far: peers of real Fabric commit one by one."""
        delta = self.network.gateways["delta"]
        self.network.note_block(await delta.peer_height("delta") - 1)
        await asyncio.gather(*(self.network.await_peer(name, name) for name in self.network.network.organisations))

    # Clients

    @asynccontextmanager
    async def client(self, signer: Signer, organisation: str = "") -> AsyncIterator[Gateway]:
        """A gateway client with an identity of the attacker's choice."""
        endpoint = self.network.network.endpoint(organisation or signer.identity.msp_id)
        async with Gateway(endpoint, signer, CHANNEL) as gateway:
            yield gateway

    @asynccontextmanager
    async def ledger(self, organisation: str) -> AsyncIterator[Ledger]:
        """The product's own client of an organisation, once every peer is up to date; agents would try again."""
        await self.await_peers()
        home = self._directory / "profiles" / organisation
        home.mkdir(parents=True, exist_ok=True)
        signer = self.network.gateways[organisation].signer
        assert isinstance(signer, Signer)
        endpoint = self.network.network.endpoint(organisation)
        (home / "roots.pem").write_bytes(endpoint.tls_roots_pem)
        (home / "certificate.pem").write_bytes(signer.identity.certificate_pem)
        (home / "key.pem").write_bytes(private_key_pem(signer.private_key))
        profile = ConnectionProfile(
            network=self.consortium.network,
            channel=CHANNEL,
            contract=self.consortium.contract,
            organisation=organisation,
            endpoint=endpoint.address,
            tls_roots=str(home / "roots.pem"),
            certificate=str(home / "certificate.pem"),
            private_key=str(home / "key.pem"),
        )
        async with Ledger(profile) as ledger:
            yield ledger

    def make_store(self) -> ModelStore:
        """Return an empty store of models."""
        self._made += 1
        return ModelStore(self._directory / "stores" / str(self._made))

    # The stages of a transaction, one by one

    async def endorse(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Endorsed:
        """Have a transaction endorsed and keep it."""
        await self.await_peers()
        proposal = self.network.propose(creator, function, *arguments, transient=transient)
        return await self.network.gateways[creator].endorse(proposal, endorsers)

    async def order(self, endorsed: Endorsed) -> None:
        """Send a transaction straight to the ordering nodes, and wait for what becomes of it.

        Raises:
            CommitError: it is invalid.
            SubmitError: no ordering node takes it.
        """
        await broadcast(self.network.network.orderer_endpoints(), endorsed.envelope)
        status = await self.network.gateways["beta"].commit_status(endorsed.transaction_id)
        self.network.note_block(status.block_number)
        if not status.is_valid:
            raise CommitError(
                transaction_id=status.transaction_id,
                code=status.code,
                code_name=status.code_name,
                block_number=status.block_number,
            )

    async def bend(
        self,
        creator: str,
        key: str,
        endorsers: Sequence[str],
        *,
        collection: str = "",
        action: str = "write",
        value: bytes = b"bent",
    ) -> None:
        """Write, delete or hand over a record, endorsed by services that endorse anything."""
        await self.network.submit(
            creator, "Bend", action, collection, key, transient={"value": value}, endorsers=endorsers
        )

    async def order_copy(self, endorsed: Endorsed) -> Outcome:
        """Have a transaction that is on the ledger ordered again; say what became of the copy."""
        height = await self.network.gateways["beta"].peer_height("beta")
        try:
            await broadcast(self.network.network.orderer_endpoints(), endorsed.envelope)
        except SubmitError as error:
            return refused(name_refusal(str(error)))
        async for block in self.network.gateways["beta"].blocks(height):
            codes = read_codes(block)
            if endorsed.transaction_id in codes:
                return invalid(codes[endorsed.transaction_id])
        raise AssertionError("blocks have no end")

    def propose(self, creator: str, function: str, *arguments: str | bytes) -> Proposal:
        """Return a signed proposal."""
        return self.network.propose(creator, function, *arguments)

    @contextmanager
    def corrupt(self, organisation: str, make: Callable[[Answer], Answer]) -> Iterator[None]:
        """Have an organisation's service run something else, made from what it should run."""
        service = self.network.services[organisation]
        honest = service.contract
        service.contract = make(honest)
        try:
            yield
        finally:
            service.contract = honest

    @asynccontextmanager
    async def without_service(self, organisation: str) -> AsyncIterator[None]:
        """Switch an organisation's service off for a while."""
        await self.network.network.stop_service(organisation)
        try:
            yield
        finally:
            await self.network.network.start_service(organisation)
            await self._await_service(organisation)

    async def revoke(self, organisation: str, signer: Signer) -> None:
        """Have an organisation's administrators revoke a certificate, and wait until every node knows."""
        network = self.network.network
        config = await read_config(network.endpoint(organisation), CHANNEL, network.signer(organisation))
        revocations = network.organisations[organisation].signing.revoke([signer.identity.certificate_pem])
        wanted = revoke_certificates(config, organisation, revocations)
        update = compute_update(config.config, wanted, CHANNEL)
        admin = network.signer(organisation, "admin")
        await broadcast(network.orderer_endpoints(), build_update_envelope(update, [sign_update(update, admin)], admin))
        reader = network.signer("beta")
        places = [(network.endpoint(name), PEER_DELIVER) for name in network.organisations]
        places += [(endpoint, ORDERER_DELIVER) for endpoint in network.orderer_endpoints()]
        late = {f"{method} of {endpoint.address}" for endpoint, method in places}

        async def wait(endpoint: Endpoint, method: str) -> None:
            await read_config(endpoint, CHANNEL, reader, sequence=config.sequence + 1, method=method)
            late.discard(f"{method} of {endpoint.address}")

        try:
            async with asyncio.timeout(_SPREAD_S):
                await asyncio.gather(*(wait(*place) for place in places))
        except TimeoutError as error:
            text = f"configuration {config.sequence + 1} is missing after {_SPREAD_S} s: {', '.join(sorted(late))}"
            raise AssertionError(text) from error

    async def _await_service(self, organisation: str) -> None:
        """Wait until a peer has found its service again."""
        async with asyncio.timeout(_REDIAL_S):
            while (await attempt(self.network.evaluate(organisation, "ReadConsortium"))).how != "succeeded":
                await asyncio.sleep(0.05)


def read_codes(block: Any) -> dict[str, str]:
    """Return the validation codes of a block's transactions, by id."""
    codes = decode_metadata(block).filter
    ids = [decode_transaction(one).tx_id for one in block.data.data]
    return {tx_id: code_name(code) for tx_id, code in zip(ids, codes, strict=True)}


def make_arena_consortium() -> Consortium:
    """Return the default consortium; two of its committee train, too: Krum wants five institutions, multi-Krum six."""
    record = make_consortium()
    roles = dict.fromkeys(("university", "regulator"), ("committee", "institution"))
    members = [one.model_copy(update={"roles": roles.get(one.organisation, one.roles)}) for one in record.members]
    return record.model_copy(update={"members": tuple(members)})


@asynccontextmanager
async def open_arena(directory: Path, ledger: str) -> AsyncIterator[Arena]:
    """Bring the consortium up and register it."""
    async with contract_network(directory / "network", ledger, consortium=make_arena_consortium()) as (told, network):
        await told.register()
        yield Arena(told, network, ledger, directory)
