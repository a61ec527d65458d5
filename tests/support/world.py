"""An in-memory ledger that runs the real contract as several organisations, each with settings of its own.

Like Fabric it simulates at every endorser, compares the results, checks who must endorse what was written (the
contract's policy, a key's own, a collection's) and whether what was read has changed, and only then writes. It tells
which records a transaction wrote. Identities are not verified: that is the node's matter, tested elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fabric_protos.common import policies_pb2
from fabric_protos.ledger.queryresult import kv_query_result_pb2
from fabric_protos.msp import msp_principal_pb2
from fabric_protos.peer import chaincode_shim_pb2

from blockfl.contract.contract import FederationContract
from blockfl.contract.definition import contract_definition
from blockfl.contract.settings import ContractSettings
from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.fabric.shim import Context, ContractFault, LedgerRefusal
from blockfl.fabric.shim.messages import VALIDATION_PARAMETER, Invocation, MessageType, Parts
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Consortium
from support.federation import NOW_MS, make_certificate, make_consortium

VALID = "VALID"
POLICY_FAILURE = "ENDORSEMENT_POLICY_FAILURE"
CONFLICT = "MVCC_READ_CONFLICT"

Place = tuple[str, str]
"""(collection, key); the public state is the collection ""."""


class Refused(Exception):
    """The contract refused, or a peer refused the contract."""

    def __init__(self, organisation: str, text: str) -> None:
        super().__init__(f"{organisation}: {text}")
        self.text = text
        self.code = Code.of(text)


class Disagreement(Exception):
    """Two endorsers arrived at different results."""


class Invalid(Exception):
    """The transaction was ordered, but is invalid."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Cell:
    """A value, the version that a read of it records, and the key's own policy."""

    value: bytes
    version: int
    policy: bytes = b""


@dataclass
class Simulation:
    """What one endorser arrived at."""

    payload: bytes = b""
    event: bytes = b""
    reads: dict[Place, int | None] = field(default_factory=dict)
    ranges: list[tuple[str, str, tuple[tuple[str, int], ...]]] = field(default_factory=list)
    writes: dict[Place, bytes] = field(default_factory=dict)
    policies: dict[str, bytes] = field(default_factory=dict)
    private_reads: set[Place] = field(default_factory=set)


@dataclass(frozen=True)
class Transaction:
    """An endorsed transaction."""

    simulation: Simulation
    endorsers: tuple[str, ...]

    @property
    def payload(self) -> bytes:
        """What the contract returned."""
        return self.simulation.payload

    @property
    def written(self) -> list[str]:
        """The keys written, in order; private ones as collection/key."""
        return sorted(key if not collection else f"{collection}/{key}" for collection, key in self.simulation.writes)

    @property
    def event(self) -> str:
        """The name of the event, "" if there is none."""
        name, _, _ = self.simulation.event.partition(b"\0")
        return name.decode()


class World:
    """The organisations of a consortium, their contract services and one ledger."""

    def __init__(self, consortium: Consortium | None = None, *, with_keys: bool = True) -> None:
        self.consortium = consortium or make_consortium()
        self.now_ms = NOW_MS
        self._collections = {one.name: one for one in contract_definition(self.consortium).collections}
        self.opening_keys = {
            name: X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
            for number, name in enumerate(self.consortium.committee, 1)
        }
        self.signers: dict[str, Signer] = {}
        self.contracts: dict[str, FederationContract] = {}
        self.settings: dict[str, ContractSettings] = {}
        for number, member in enumerate(self.consortium.members):
            self.add_organisation(member.organisation, number)
        self.respell: dict[str, Callable[[bytes], bytes]] = {}
        """By organisation: how its peer's state database gives values back; by default as they were written."""
        self._cells: dict[Place, Cell] = {}
        self._private: dict[str, dict[Place, Cell]] = {}
        self._height = 0
        self._calls = 0

    def add_organisation(self, name: str, number: int) -> None:
        """Give an organisation a client and a contract service."""
        key = ec.derive_private_key(number + 100, ec.SECP256R1())
        identity = Identity(msp_id=name, certificate_pem=make_certificate(name, key).encode())
        self.signers[name] = Signer(identity, key)
        self.configure(name, self.consortium)

    def configure(self, name: str, consortium: Consortium, key: X25519PrivateKey | None = None) -> None:
        """Start an organisation's contract service anew with this record, and perhaps another opening key."""
        opening_key = key or self.opening_keys.get(name)
        self.settings[name] = ContractSettings(organisation=name, consortium=consortium, opening_key=opening_key)
        self.contracts[name] = FederationContract(self.settings[name])

    # Calling the contract

    async def evaluate(self, creator: str, function: str, *arguments: str | bytes, peer: str | None = None) -> bytes:
        """Ask the contract at one peer."""
        return (await self.simulate(peer or creator, creator, function, *arguments)).payload

    async def submit(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Transaction:
        """Endorse and commit.

        Raises:
            Refused: an endorser's contract said no.
            Invalid: the transaction is not valid.
        """
        transaction = await self.endorse(creator, function, *arguments, transient=transient, endorsers=endorsers)
        code = self.commit(transaction)
        if code != VALID:
            raise Invalid(code)
        return transaction

    async def endorse(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Transaction:
        """Simulate at every endorser, the committee or a majority if none is named, and compare."""
        names = tuple(endorsers) or self.plan(function)
        results = [await self.simulate(one, creator, function, *arguments, transient=transient) for one in names]
        for name, result in zip(names, results, strict=True):
            if result != results[0]:
                raise Disagreement(f"{names[0]}: {results[0]}; {name}: {result}")
        return Transaction(results[0], names)

    def plan(self, function: str) -> tuple[str, ...]:
        """Return who endorses when nobody is named."""
        if function in ("UploadChunk", "JudgeUpdate", "UploadSumChunk", "AttestAggregate"):
            return self.consortium.committee
        names = tuple(self.signers)
        return names[: len(names) // 2 + 1]

    async def simulate(
        self,
        peer: str,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        identity: Identity | None = None,
        timestamp_ms: int | None = None,
        raw: Sequence[bytes] | None = None,
    ) -> Simulation:
        """Run the contract at one organisation's peer."""
        self._calls += 1
        words = [function, *arguments]
        invocation = Invocation(
            channel=self.consortium.channel,
            tx_id=f"{self._calls:064x}",
            args=tuple(raw) if raw is not None else tuple(w.encode() if isinstance(w, str) else w for w in words),
            creator=(identity or self.signers[creator].identity).serialized,
            transient=transient or {},
            timestamp_ms=self.now_ms if timestamp_ms is None else timestamp_ms,
        )
        run = _Run(self, peer, creator)
        context = Context(invocation, run.ask)
        try:
            run.simulation.payload = await self.contracts[peer](context)
            await context.flush()
        except (ContractFault, LedgerRefusal) as refusal:
            raise Refused(peer, str(refusal)) from refusal
        if context.event:
            run.simulation.event = b"\0".join((context.event[0].encode(), context.event[1]))
        # Whoever has endorsements knows from the event alone whether there is anything to commit.
        assert bool(run.simulation.event) == bool(run.simulation.writes)
        return run.simulation

    # Validation

    def commit(self, transaction: Transaction) -> str:
        """Validate and apply a transaction; return its code."""
        simulation = transaction.simulation
        if not self._is_endorsed(simulation, transaction.endorsers):
            return POLICY_FAILURE
        if any(self.version(at) != version for at, version in simulation.reads.items()):
            return CONFLICT
        if any(self.scan(start, end) != found for start, end, found in simulation.ranges):
            return CONFLICT
        self._height += 1
        for (collection, key), value in simulation.writes.items():
            self._apply(collection, key, value)
        for key, policy in simulation.policies.items():
            cell = self._cells["", key]
            self._cells["", key] = Cell(cell.value, self._height, policy)
        return VALID

    def _apply(self, collection: str, key: str, value: bytes) -> None:
        at = (collection, key)
        if not collection:
            self._cells[at] = Cell(value, self._height, self._cells[at].policy if at in self._cells else b"")
            return
        if not value:  # no private value is empty: it is purged
            self.expire(collection, key)
            return
        self._cells[at] = Cell(hashlib.sha256(value).digest(), self._height)
        for name in self.members(collection):
            self._private.setdefault(name, {})[at] = Cell(value, self._height)

    def _is_endorsed(self, simulation: Simulation, endorsers: Sequence[str]) -> bool:
        majority = len(self.signers) // 2 + 1
        needs = [self._need(collection, key) for collection, key in simulation.writes]
        needs += [self._need("", key) for key in simulation.policies]
        # A transaction that writes nothing needs the contract's own policy.
        for need in needs or [(majority, tuple(self.signers))]:
            count, names = need
            if len(set(endorsers) & set(names)) < count:
                return False
        return True

    def _need(self, collection: str, key: str) -> tuple[int, tuple[str, ...]]:
        if collection:
            return decode_policy(self._collections[collection].endorsement_policy)
        cell = self._cells.get(("", key))
        if cell and cell.policy:
            return decode_policy(cell.policy)
        return len(self.signers) // 2 + 1, tuple(self.signers)

    def members(self, collection: str) -> tuple[str, ...]:
        """The organisations that hold a collection."""
        return self._collections[collection].members

    def is_member_only_read(self, collection: str) -> bool:
        """Whether only members' clients may read a collection."""
        return self._collections[collection].member_only_read

    # The ledger, for tests to look at and to damage

    def get(self, key: str) -> bytes | None:
        """The value of a public key."""
        cell = self._cells.get(("", key))
        return cell.value if cell else None

    def policy(self, key: str) -> tuple[int, tuple[str, ...]] | None:
        """A key's own policy: how many of whom."""
        cell = self._cells.get(("", key))
        return decode_policy(cell.policy) if cell and cell.policy else None

    def version(self, at: Place) -> int | None:
        """The version of a key, or of the hash of a private one."""
        cell = self._cells.get(at)
        return cell.version if cell else None

    def cell(self, at: Place) -> Cell | None:
        """What a read of a key finds."""
        return self._cells.get(at)

    def held(self, organisation: str, at: Place) -> Cell | None:
        """What an organisation's peer holds of a private key."""
        return self._private.get(organisation, {}).get(at)

    def lose(self, organisation: str, collection: str, key: str) -> None:
        """Let one organisation's peer lose private bytes whose hash stays on the ledger."""
        del self._private[organisation][collection, key]

    def force(self, collection: str, key: str, value: bytes) -> None:
        """Write past all policies, as organisations that collude in sufficient number could."""
        self._height += 1
        self._apply(collection, key, value)

    def expire(self, collection: str, key: str) -> None:
        """Purge a private key everywhere, as the end of its blocks to live does."""
        del self._cells[collection, key]
        for name in self.members(collection):
            self.lose(name, collection, key)

    def scan(self, start: str, end: str) -> tuple[tuple[str, int], ...]:
        """The public keys of a range with their versions."""
        keys = sorted(key for collection, key in self._cells if not collection and start <= key < end)
        return tuple((key, self._cells["", key].version) for key in keys)

    def snapshot(self) -> dict[Place, Cell]:
        """Everything on the ledger."""
        return dict(self._cells)


class _Run:
    """The peer's side of one simulation."""

    def __init__(self, world: World, peer: str, creator: str) -> None:
        self.simulation = Simulation()
        self._world = world
        self._peer = peer
        self._creator = creator

    async def ask(self, kind: int, payload: Parts) -> memoryview:
        """Answer one ledger call."""
        return memoryview(self._answer(kind, b"".join(payload)))

    def _answer(self, kind: int, payload: bytes) -> bytes:
        if kind == MessageType.GET_STATE:
            said = chaincode_shim_pb2.GetState.FromString(payload)
            return self._read_private(said.collection, said.key) if said.collection else self._read("", said.key)
        if kind == MessageType.GET_PRIVATE_DATA_HASH:
            said = chaincode_shim_pb2.GetState.FromString(payload)
            return self._read(said.collection, said.key)
        if kind == MessageType.PUT_STATE:
            said = chaincode_shim_pb2.PutState.FromString(payload)
            self.simulation.writes[said.collection, said.key] = said.value
            return b""
        if kind == MessageType.PURGE_PRIVATE_DATA:
            gone = chaincode_shim_pb2.PurgePrivateState.FromString(payload)
            self.simulation.writes[gone.collection, gone.key] = b""
            return b""
        if kind == MessageType.PUT_STATE_METADATA:
            said = chaincode_shim_pb2.PutStateMetadata.FromString(payload)
            assert (said.collection, said.metadata.metakey) == ("", VALIDATION_PARAMETER)
            self.simulation.policies[said.key] = said.metadata.value
            return b""
        if kind == MessageType.GET_STATE_BY_RANGE:
            said = chaincode_shim_pb2.GetStateByRange.FromString(payload)
            assert not said.collection
            return self._range(said.startKey, said.endKey)
        raise AssertionError(f"the contract asked for something unexpected: {MessageType.Name(kind)}")

    def _read(self, collection: str, key: str) -> bytes:
        cell = self._world.cell((collection, key))
        self.simulation.reads[collection, key] = cell.version if cell else None
        return self._respell(cell.value) if cell else b""

    def _read_private(self, collection: str, key: str) -> bytes:
        if self._world.is_member_only_read(collection) and self._creator not in self._world.members(collection):
            raise LedgerRefusal(f"tx creator does not have read access permission on collection {collection}")
        self.simulation.private_reads.add((collection, key))
        announced = self._read(collection, key)
        held = self._world.held(self._peer, (collection, key))
        if announced and (held is None or held.version != self._world.version((collection, key))):
            raise LedgerRefusal("private data matching public hash version is not available")
        return self._respell(held.value) if held else b""

    def _respell(self, value: bytes) -> bytes:
        respell = self._world.respell.get(self._peer)
        return respell(value) if respell else value

    def _range(self, start: str, end: str) -> bytes:
        found = self._world.scan(start, end)
        self.simulation.ranges.append((start, end, found))
        rows: list[Any] = []
        for key, _ in found:
            value = self._respell(self._world.get(key) or b"")
            entry = kv_query_result_pb2.KV(namespace="blockfl", key=key, value=value)
            rows.append(chaincode_shim_pb2.QueryResultBytes(resultBytes=entry.SerializeToString()))
        return bytes(chaincode_shim_pb2.QueryResponse(results=rows, has_more=False).SerializeToString())


def decode_policy(policy: Any) -> tuple[int, tuple[str, ...]]:
    """Return how many of which organisations' peers a key's or a collection's policy wants."""
    envelope = policies_pb2.SignaturePolicyEnvelope.FromString(policy) if isinstance(policy, bytes) else policy
    names = []
    for principal in envelope.identities:
        role = msp_principal_pb2.MSPRole.FromString(principal.principal)
        assert role.role == msp_principal_pb2.MSPRole.PEER
        names.append(role.msp_identifier)
    assert [rule.signed_by for rule in envelope.rule.n_out_of.rules] == list(range(len(names)))
    return envelope.rule.n_out_of.n, tuple(names)
