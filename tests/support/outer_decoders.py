"""Decoders of the contract's calls and answers, and of files that people write."""

from __future__ import annotations

import asyncio
import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fabric_protos.peer import chaincode_pb2
from google.protobuf.message import DecodeError

from blockfl.cli.economics import read_policy
from blockfl.contract.release import identify_own_package
from blockfl.contract.settings import ContractSettingsError, ServiceSettings, load_opening_key
from blockfl.fabric.client.events import FileCheckpoint
from blockfl.fabric.client.participation import ChannelMembership, _decode_answer
from blockfl.fabric.embedded.settings import NodeSettings
from blockfl.fabric.errors import ConfigError, NodeError, ShimError
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from blockfl.ledger.answer import decode_flags, decode_list
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.description import Description
from blockfl.network.errors import DescriptionError
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.dispute import choose_ephemeral_key
from blockfl.protocol.economics import DEFAULT_ECONOMICS
from blockfl.protocol.records import CommitteeKey
from blockfl.protocol.seal import unwrap_data_key
from support.contract import make_scenario
from support.decoders import Decoder, of
from support.organisation import make_organisation
from support.protocol_decoders import federation
from support.scenario import Scenario
from support.world import Refused, World

CODED = re.compile(r"BFL[1-6][0-9]{2} .+", re.DOTALL)
NOW_MS = 1_800_000_000_000
_ASSESSMENT = Assessment(
    task="heart",
    round=1,
    organisation="alpha",
    member="regulator",
    base_loss_micro=512_000,
    loss_micro=640_000,
    assessed_at_ms=0,
)


@cache
def prepared() -> tuple[World, Scenario, dict[str, list[bytes]]]:
    """A world with an open round and a submitted update, and calls in order."""

    async def prepare() -> tuple[World, Scenario, dict[str, list[bytes]]]:
        scenario, world = await make_scenario()
        await scenario.open()
        signed = await scenario.submit("alpha")
        await world.submit("university", "ClaimWrap", "heart", "1", "alpha")
        other = scenario.sign((await scenario.seal("beta"))[0])
        model = scenario.spec.initial_model
        calls = {
            "RegisterConsortium": [world.consortium.encode()],
            "CreateTask": [scenario.spec.encode()],
            "SubmitUpdate": [other.encode()],
            "AttestAggregate": [b"heart", b"1", model.encode()],
            "ReadModelUpload": [b"heart", model.encode()],
            "ReadSumUpload": [b"heart", b"1", model.encode()],
            "ReportMetrics": [scenario.metrics("alpha", 0, b"model").encode()],
            "AssessUpdate": [_ASSESSMENT.encode()],
            "RegisterCommitteeKey": [b"09" + b"00" * 31],
            "UploadModelChunk": [b"heart", model.chunks[0].encode()],
            "UploadSumChunk": [b"heart", b"1", model.chunks[0].encode()],
            "Enrol": [b"heart", b"5"],
            "OpenRound": [b"heart", b"1"],
            "UploadChunk": [b"heart", b"1", b"0"],
            "JudgeUpdate": [b"heart", b"1", b"alpha"],
            "CloseRound": [b"heart", b"1"],
            "AppraiseVersion": [b"heart", b"0"],
            "PublishModel": [b"heart", b"1", b"ab" * 32],
            "Grant": [b"first", b"alpha", b"5"],
            "Transfer": [b"first", b"beta", b"5"],
            "ReadHeader": [b"heart", b"1", b"alpha"],
            "ListMetrics": [b"heart", b"0"],
            "WithdrawCertificate": [signed.header.certificate_digest.encode()],
            "SettleWrap": [b"heart", b"1", b"alpha", b"university"],
            "ClaimWrap": [b"heart", b"1", b"alpha"],
            "ReadModelChunk": [b"heart", model.chunks[0].encode()],
            "ReadSumChunk": [b"heart", b"1", model.chunks[0].encode()],
            "ReadAccount": [b"alpha"],
            "OverturnPenalty": [b"heart", b"1", b"alpha"],
            "ReadChunk": [b"heart", b"1", b"alpha", b"0"],
        }
        usual = (b"heart", b"1", b"alpha", b"university")
        table = world.contracts["alpha"].table
        calls |= {name: list(usual[: len(one.arguments)]) for name, one in table.items() if name not in calls}
        assert set(calls) == set(table)
        assert all(len(said) == len(table[name].arguments) for name, said in calls.items())
        assert signed.header.organisation == "alpha"
        return world, scenario, calls

    return asyncio.run(prepare())


@cache
def calls() -> Sequence[bytes]:
    """Every transaction and every read, with what goes beside the arguments of some."""
    world, scenario, said = prepared()
    header = scenario.sealed[1, "alpha"][0].header
    key = choose_ephemeral_key(header, unwrap_data_key(header, "regulator", world.opening_keys["regulator"]), "", "")
    transient = {"chunk": scenario.sealed[1, "alpha"][1][0], "ephemeral_key": key}
    table = world.contracts["alpha"].table
    return tuple(
        bytes(
            chaincode_pb2.ChaincodeInput(
                args=[name.encode(), *arguments],
                decorations={field: transient[field] for field in table[name].transient},
            ).SerializeToString()
        )
        for name, arguments in said.items()
    )


def call_contract(content: bytes) -> None:
    """A call: it succeeds, or is refused with a stable code; nothing else comes out of the contract."""
    world = prepared()[0]
    try:
        message = chaincode_pb2.ChaincodeInput.FromString(content)
    except DecodeError as error:
        raise ShimError("no call") from error
    creator = ("alpha", "coordinator", "regulator")[len(content) % 3]
    before = world.snapshot()
    try:
        asyncio.run(
            world.simulate(
                creator, creator, "", raw=list(message.args), transient=dict(message.decorations), timestamp_ms=NOW_MS
            )
        )
    except Refused as refusal:
        if not CODED.fullmatch(refusal.text):
            raise AssertionError(refusal.text) from refusal
        raise
    assert world.snapshot() == before


@cache
def scratch() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="blockfl-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def keep(name: str, content: bytes) -> Path:
    path = scratch() / name
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def describe(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    found = Description.parse(text, "consortium.yaml")
    assert len(found.consortium.committee) >= found.threshold
    assert Description.parse(found.dump(), "again") == found


def descriptions() -> Sequence[bytes]:
    """Short ones: reading YAML takes a microsecond a byte."""
    block = """network: ab  # a name
channel: ch
contract: c-1
threshold: 2
consensus: raft
base_port: 17050

organisations:
  - name: ab
    roles: [coordinator, committee]
    orderer: true
  - name: cd
    roles: [committee, institution]
    host: 127.0.0.1
    ports:
      peer: 19001
"""
    flow = (
        "{network: ab, channel: ch, contract: c-1, threshold: 2, consensus: raft, organisations: "
        "[{name: ab, roles: [coordinator, committee], orderer: true}, {name: cd, roles: [committee, institution]}]}"
    )
    return block.encode(), flow.encode()


def load_profile(content: bytes) -> None:
    found = ConnectionProfile.load(keep("profile.json", content))
    assert Path(found.certificate).is_absolute()


def profiles() -> Sequence[bytes]:
    said = {
        "network": "heart",
        "channel": "federation",
        "contract": "blockfl",
        "organisation": "alpha",
        "endpoint": "127.0.0.1:7051",
        "tls_roots": "../tls.pem",
        "certificate": "certificate.pem",
        "private_key": "key.pem",
    }
    return json.dumps(said).encode(), json.dumps(said | {"opening_key": "k", "genesis": None}).encode()


def load_service(content: bytes) -> None:
    for name, kept in service_files().items():
        keep(name, kept)
    ServiceSettings.load(keep("service.json", content))


@cache
def service_files() -> dict[str, bytes]:
    organisation, key = make_organisation("alpha"), create_private_key()
    certificate = organisation.tls.issue(
        key.public_key(), common_name="service", unit=None, hosts=("127.0.0.1",), tls=True
    )
    return {
        "consortium.json": federation().consortium.encode(),
        "tls.pem": certificate,
        "tls.key": private_key_pem(key),
        "roots.pem": organisation.tls.certificate_pem,
        "opening.hex": b"ab" * 32,
    }


def services() -> Sequence[bytes]:
    said = {
        "organisation": "alpha",
        "consortium": "consortium.json",
        "opening_key": None,
        "package_id": identify_own_package("blockfl"),
        "listen": "127.0.0.1:9999",
        "certificate": "tls.pem",
        "private_key": "tls.key",
        "client_roots": "roots.pem",
    }
    return json.dumps(said).encode(), json.dumps(
        said | {"organisation": "regulator", "opening_key": "opening.hex"}
    ).encode()


def load_node(content: bytes) -> None:
    found = NodeSettings.load(keep("node.json", content))
    assert found.organisations
    assert found.directory.is_absolute()


def nodes() -> Sequence[bytes]:
    endpoint = {
        "msp_id": "alpha",
        "listen": "127.0.0.1:7051",
        "certificate": "c.pem",
        "private_key": "k.pem",
        "tls_certificate": "t.pem",
        "tls_private_key": "u.pem",
    }
    contract = {"address": "127.0.0.1:9999", "tls_roots": "r", "client_certificate": "c", "client_key": "k"}
    said = {
        "directory": "ledger",
        "channel": "federation",
        "genesis": "genesis.block",
        "orderer": endpoint | {"listen": "127.0.0.1:7050"},
        "organisations": [endpoint | {"contract": contract}],
        "time_window_s": 30,
    }
    return (json.dumps(said).encode(),)


def load_policy(content: bytes) -> None:
    assert read_policy(str(keep("policy.json", content))) is not None


def load_checkpoint(content: bytes) -> None:
    found = FileCheckpoint(keep("checkpoint.json", content)).load()
    assert found is not None
    assert found.block_number >= 0


def decode_participation(content: bytes) -> None:
    assert isinstance(ChannelMembership.parse(_decode_answer(content), "127.0.0.1:1").height, int)


def load_key(content: bytes) -> None:
    load_opening_key(keep("opening.key", content))


def listed(content: bytes) -> None:
    encoded = [one.encode() for one in decode_list(CommitteeKey, content)]
    assert json.loads(content) == [json.loads(one) for one in encoded]


def flagged(content: bytes) -> None:
    found = decode_flags(content)
    assert json.loads(content) == [int(one) for one in found]


def lists() -> Sequence[bytes]:
    return b"[]", b"[" + b",".join(one.encode() for one in federation().keys) + b"]"


DECODERS: tuple[Decoder, ...] = (
    of("contract: any call", call_contract, (Refused, ShimError), calls, form="protobuf", max_bytes=8192),
    of("consortium description", describe, (DescriptionError,), descriptions, form="text", max_bytes=1024),
    of("connection profile", load_profile, (LedgerError,), profiles, form="json"),
    of("contract service's settings", load_service, (ContractSettingsError,), services, form="json"),
    of(
        "opening key file",
        load_key,
        (ContractSettingsError,),
        lambda: (b"ab" * 32 + b"\n",),
        form="text",
        max_bytes=256,
    ),
    of("embedded node's settings", load_node, (NodeError,), nodes, form="json"),
    of("economics file", load_policy, (LedgerError, ProtocolError), lambda: (DEFAULT_ECONOMICS.encode(),), form="json"),
    of(
        "checkpoint",
        load_checkpoint,
        (ConfigError,),
        lambda: (b'{"block_number":7,"transaction_id":"ab"}',),
        form="json",
    ),
    of(
        "ordering node's channel",
        decode_participation,
        (NodeError,),
        lambda: (b'{"name":"fed","consensusRelation":"consenter","status":"active","height":7}',),
        form="json",
    ),
    of("list of records from the contract", listed, (LedgerError,), lists, form="json"),
    of("list of flags from the contract", flagged, (LedgerError,), lambda: (b"[1,0]", b"[]"), form="json"),
)
