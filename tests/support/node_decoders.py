"""Decoders of what contracts tell the embedded node, and of what it finds on its ledger."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fabric_protos.peer import chaincode_event_pb2, chaincode_pb2, chaincode_shim_pb2, proposal_response_pb2
from fabric_protos.peer.lifecycle import lifecycle_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.lifecycle import CollectionSpec
from blockfl.fabric.counters import Counters
from blockfl.fabric.embedded.endorsing.contract_host import ContractHost
from blockfl.fabric.embedded.endorsing.contract_stream import ContractStream, _scan_message, _settle
from blockfl.fabric.embedded.endorsing.installation import Installation
from blockfl.fabric.embedded.endorsing.lifecycle_contract import LifecycleContract, LifecycleRefusal
from blockfl.fabric.embedded.endorsing.lifecycle_state import Parameters
from blockfl.fabric.embedded.endorsing.operations import Operations
from blockfl.fabric.embedded.endorsing.simulator import SimulationError, Simulator
from blockfl.fabric.embedded.endorsing.system_contracts import SystemContracts
from blockfl.fabric.embedded.storage.blocks import BlockStore
from blockfl.fabric.embedded.storage.definition import LIFECYCLE, _decode_definition, field_key
from blockfl.fabric.embedded.storage.files import Files
from blockfl.fabric.embedded.storage.store import Savepoint
from blockfl.fabric.errors import NodeError, ShimError
from blockfl.fabric.identity.policy import signature_policy
from support.answer_decoders import drive
from support.decoders import Decoder, of
from support.recording import recorded_block_bytes
from support.replay import replayed
from support.shim_decoders import recorded_state

ORGANISATION = "HospitalAMSP"


# --- definitions


def read_arguments(content: bytes, refusal: type[Exception]) -> tuple[bytes, ...]:
    try:
        return tuple(chaincode_pb2.ChaincodeInput.FromString(content).args)
    except DecodeError as error:
        raise refusal("no arguments") from error


def encode_arguments(*arguments: bytes) -> bytes:
    return bytes(chaincode_pb2.ChaincodeInput(args=arguments).SerializeToString())


FIELDS = ("Sequence", "EndorsementInfo", "ValidationInfo", "Collections")


def definition_on_the_ledger(content: bytes) -> None:
    """Four fields as the state holds them: whoever reads them reads the same."""
    fields = (*read_arguments(content, NodeError), b"", b"", b"", b"")[:4]
    found = _decode_definition("app", *fields)
    state: Any = Held({field_key("app", name): value for name, value in zip(FIELDS, fields, strict=True)})
    parameters = Parameters.read("app", state)
    assert (found.version, found.policy) == (parameters.version, parameters.policy)
    assert all(isinstance(one.organisations, frozenset) for one in found.collections.values())


class Held:
    """Values that are read by their keys."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    def get(self, key: str) -> bytes:
        """A value; empty when there is none."""
        return self._values.get(key, b"")


def definitions() -> Sequence[bytes]:
    state = replayed().steps[-1].state
    found = []
    for name in ("app", "nodeapp"):
        values = [state.get(LIFECYCLE, field_key(name, one)) for one in FIELDS]
        found.append(encode_arguments(*(b"" if value is None else value.value for value in values)))
    return found


@cache
def directory() -> Path:
    found = Path(tempfile.mkdtemp(prefix="blockfl-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, found, ignore_errors=True)
    return found


@cache
def lifecycle() -> LifecycleContract:
    installation = Installation(directory() / "packages", ContractHost(), {"addr": "127.0.0.1:9"})
    return LifecycleContract(ORGANISATION, installation, recorded_config, list)


@cache
def recorded_config() -> ChannelConfig:
    return replayed().steps[-1].config


def make_simulator() -> Simulator:
    return Simulator(
        recorded_state(),
        organisation=ORGANISATION,
        channel="fed",
        organisations=recorded_config().application_msp_ids,
        is_member=lambda policy: True,
    )


def call_lifecycle(content: bytes) -> None:
    simulator = make_simulator()
    arguments = read_arguments(content, LifecycleRefusal)
    if arguments[:1] == (b"InstallChaincode",):
        raise LifecycleRefusal("writes a file: see the package's own decoder")
    assert isinstance(lifecycle().invoke(arguments, simulator), bytes)
    assert isinstance(simulator.result().public, bytes)


def lifecycle_calls() -> Sequence[bytes]:
    pb = lifecycle_pb2
    members = recorded_config().application_msp_ids[:2]
    collection = CollectionSpec(
        name="c1", members=members, endorsement_policy=signature_policy(1, members, "peer"), maximum_peer_count=1
    ).encode()
    new = {"name": "other", "version": "1.0", "sequence": 1, "collections": {"config": [collection]}}
    upgrade = {"name": "app", "version": "3.0", "sequence": 3}
    said = {
        "ApproveChaincodeDefinitionForMyOrg": pb.ApproveChaincodeDefinitionForMyOrgArgs(**new),
        "CheckCommitReadiness": pb.CheckCommitReadinessArgs(**new),
        "CommitChaincodeDefinition": pb.CommitChaincodeDefinitionArgs(**upgrade),
        "QueryChaincodeDefinition": pb.QueryChaincodeDefinitionArgs(name="app"),
        "QueryChaincodeDefinitions": pb.QueryChaincodeDefinitionsArgs(),
        "QueryApprovedChaincodeDefinition": pb.QueryApprovedChaincodeDefinitionArgs(name="app", sequence=2),
        "QueryApprovedChaincodeDefinitions": pb.QueryApprovedChaincodeDefinitionsArgs(),
        "QueryInstalledChaincode": pb.QueryInstalledChaincodeArgs(package_id="app_1.0:00"),
        "QueryInstalledChaincodes": pb.QueryInstalledChaincodesArgs(),
        "GetInstalledChaincodePackage": pb.GetInstalledChaincodePackageArgs(package_id="app_1.0:00"),
    }
    calls = [encode_arguments(name.encode(), request.SerializeToString()) for name, request in said.items()]
    upgraded = pb.ApproveChaincodeDefinitionForMyOrgArgs(**upgrade).SerializeToString()
    return *calls, encode_arguments(b"ApproveChaincodeDefinitionForMyOrg", upgraded)


# --- queries and writes


@cache
def system_contracts() -> SystemContracts:
    blocks = recorded_block_bytes()
    status = SimpleNamespace(block_number=1, index=0, code=0)
    ledger: Any = SimpleNamespace(
        channel_id="fed",
        height=len(blocks),
        config=recorded_config(),
        block=blocks.__getitem__,
        transaction=lambda tx_id: status if tx_id == "ab" * 32 else None,
    )
    return SystemContracts(ledger)


def query_ledger(content: bytes) -> None:
    name, *arguments = read_arguments(content, SimulationError) or (b"",)
    assert system_contracts().invoke(name.decode(errors="replace"), tuple(arguments)).status == 200


def ledger_queries() -> Sequence[bytes]:
    said = (
        (b"qscc", b"GetChainInfo", b"fed"),
        (b"qscc", b"GetBlockByNumber", b"fed", b"3"),
        (b"qscc", b"GetTransactionByID", b"fed", b"ab" * 32),
        (b"qscc", b"GetBlockByTxID", b"fed", b"ab" * 32),
        (b"cscc", b"GetChannels"),
        (b"cscc", b"GetConfigBlock", b"fed"),
        (b"cscc", b"GetChannelConfig", b"fed"),
    )
    return tuple(encode_arguments(*one) for one in said)


def write_batch(content: bytes) -> None:
    simulator = make_simulator()
    invoke: Any = None
    kind = chaincode_shim_pb2.ChaincodeMessage.WRITE_BATCH_STATE
    assert drive(Operations(simulator, "app", invoke).serve(kind, memoryview(content))) == b""
    assert isinstance(simulator.result().public, bytes)


def batches() -> Sequence[bytes]:
    record, policy = chaincode_shim_pb2.WriteRecord, chaincode_shim_pb2.StateMetadata
    metadata = policy(metakey="VALIDATION_PARAMETER", value=b"x")
    records = [
        record(key="k", value=b"v", type=record.PUT_STATE),
        record(key="k000", type=record.DEL_STATE),
        record(key="k000", metadata=metadata, type=record.PUT_STATE_METADATA),
        record(key="s1", value=b"v", collection="sealed", type=record.PUT_STATE),
        record(key="s1", collection="sealed", type=record.PURGE_PRIVATE_DATA),
    ]
    made = [chaincode_shim_pb2.WriteBatchState(rec=some) for some in (records, records[:1], records[3:])]
    return tuple(bytes(one.SerializeToString()) for one in made)


class Registering:
    """A connection on which a contract service says this first."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.written: list[bytes] = []

    async def read(self) -> bytes:
        """What it says."""
        return self._content

    async def write(self, message: bytes) -> None:
        """What it is told."""
        self.written.append(message)


def registration(content: bytes) -> None:
    service_side = Registering(content)
    drive(ContractStream(service_side, "app:00", Counters()).register())
    assert len(service_side.written) == 2


def registrations() -> Sequence[bytes]:
    kinds = chaincode_shim_pb2.ChaincodeMessage
    payload = chaincode_pb2.ChaincodeID(name="app:00").SerializeToString()
    return tuple(bytes(kinds(type=kind, payload=payload).SerializeToString()) for kind in (kinds.REGISTER, kinds.READY))


class Settled:
    """Takes an answer, or why there is none."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def set_result(self, answer: Any) -> None:
        """An answer."""
        self.given.append(answer)

    def set_exception(self, error: Exception) -> None:
        """No answer."""
        raise error


def contract_answer(content: bytes) -> None:
    answer: Any = Settled()
    kind, *_ = _scan_message(content)
    _settle(answer, kind, content)
    (found,) = answer.given
    assert found.message == content
    assert isinstance(found.response.status, int)


def contract_answers() -> Sequence[bytes]:
    kinds = chaincode_shim_pb2.ChaincodeMessage
    event = chaincode_event_pb2.ChaincodeEvent(chaincode_id="app", tx_id="ab", event_name="E")
    payload = proposal_response_pb2.Response(status=200, payload=b"v").SerializeToString()
    done = kinds(type=kinds.COMPLETED, payload=payload, txid="ab", channel_id="fed", chaincode_event=event)
    failed = kinds(type=kinds.ERROR, payload=b"no", txid="ab", channel_id="fed")
    return bytes(done.SerializeToString()), bytes(failed.SerializeToString())


def committed(content: bytes) -> None:
    found = Savepoint.decode(content)
    assert min(found.height, found.config_block, *found.private_heights.values()) >= 0
    assert Savepoint.decode(found.encode()) == found


def heights() -> Sequence[bytes]:
    full = Savepoint(
        height=7, header_hash=b"h" * 32, commit_hash=b"c" * 32, config_block=2, private_heights={"alpha": 3, "beta": 0}
    )
    return full.encode(), Savepoint().encode()


BLOCKS = tuple(bytes([number]) * (10 + number) for number in range(3))


def file_of_blocks(content: bytes) -> None:
    """Of three blocks two were acknowledged: they are there, or the file is damaged."""
    place = directory() / "blocks" / "000000.blocks"
    place.write_bytes(content)
    store = BlockStore(place.parent, Files())
    try:
        store.load(2, require_block)
        assert store.height >= 2
        assert tuple(map(store.read, range(store.height))) == BLOCKS[: store.height]
        assert place.read_bytes() == content[: place.stat().st_size]
    finally:
        store.close()


def require_block(number: int, block: bytes) -> None:
    if BLOCKS[number : number + 1] != (block,):
        raise NodeError("it does not follow its predecessor")


def files_of_blocks() -> Sequence[bytes]:
    records = [len(one).to_bytes(4, "big") + sha256(one).digest() + one for one in BLOCKS]
    (directory() / "blocks").mkdir(exist_ok=True)
    return b"".join(records), b"".join(records)[:-5], b"".join(records[:2])


DECODERS: tuple[Decoder, ...] = (
    of("node: definition on the ledger", definition_on_the_ledger, (NodeError,), definitions),
    of("node: call of the lifecycle", call_lifecycle, (LifecycleRefusal,), lifecycle_calls, max_bytes=1024),
    of("node: query of the ledger", query_ledger, (SimulationError,), ledger_queries, max_bytes=512),
    of("node: contract's batch of writes", write_batch, (SimulationError,), batches, max_bytes=1024),
    of("node: contract's registration", registration, (ShimError,), registrations, max_bytes=256),
    of("node: contract's answer", contract_answer, (ShimError, ValueError), contract_answers, max_bytes=512),
    of("node: file of blocks", file_of_blocks, (NodeError,), files_of_blocks, form="bytes", max_bytes=256),
    of("node: how far the state is", committed, (NodeError,), heights, form="json", max_bytes=512),
)
