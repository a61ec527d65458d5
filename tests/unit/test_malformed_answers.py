"""What does not parse: answers of nodes, definitions on the ledger, files. Each is refused by name."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fabric_protos.common import configtx_pb2
from fabric_protos.msp import msp_config_pb2, msp_principal_pb2
from fabric_protos.peer import collection_pb2
from fabric_protos.peer.lifecycle import db_pb2

from blockfl.fabric.channel.changes import revoke_certificates
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.difference import describe_difference
from blockfl.fabric.channel.spec import OrganisationSpec, check_organisations
from blockfl.fabric.client.broadcast import _read_answer
from blockfl.fabric.client.deliver import _decode_answer
from blockfl.fabric.client.events import FileCheckpoint, decode_events
from blockfl.fabric.client.participation import _decode_answer as _decode_participation
from blockfl.fabric.client.streams import Patience
from blockfl.fabric.embedded.endorsing.lifecycle_state import Parameters
from blockfl.fabric.embedded.endorsing.simulator import SimulationError
from blockfl.fabric.embedded.ordering.reconfiguration import build_config_transaction
from blockfl.fabric.embedded.storage.blocks import BlockStore
from blockfl.fabric.embedded.storage.definition import decode_state_data, read_collection, read_definition
from blockfl.fabric.embedded.storage.files import Files
from blockfl.fabric.embedded.storage.store import Savepoint, StateStore
from blockfl.fabric.errors import BlockError, ConfigError, GatewayError, NodeError
from blockfl.fabric.transaction.collection import decode_collections
from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate import StateValue
from blockfl.fabric.validate.memory_state import MemoryState
from blockfl.institution.frames import FrameError
from blockfl.institution.vector import decode_vector
from blockfl.network.builder import BuilderError, detect, read_values, release
from blockfl.network.description import Description
from blockfl.network.embedded import decode_status
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.network.port import parse_address
from blockfl.network.process import ProcessTable
from blockfl.network.project import ComposeProject
from blockfl.network.setup import _parse_owner, provision
from blockfl.network.volume import claim_volume
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.scoring import decode_values
from blockfl.protocol.sums import decode_randomness
from support.answer_decoders import drive, endpoint
from support.channel import make_channel
from support.node_decoders import system_contracts
from support.organisation import make_organisation

GARBAGE = b"\x0a\xff"
DEEP = b"[" * 100_000


def test_a_block_that_does_not_parse_ends_the_stream_for_good() -> None:
    with pytest.raises(GatewayError, match="cannot read blocks: the answer does not parse; is this a peer") as refused:
        _decode_answer(GARBAGE)
    with pytest.raises(GatewayError):
        drive(Patience("blocks").wait(refused.value))


def test_events_that_do_not_parse_end_the_stream_for_good() -> None:
    with pytest.raises(GatewayError, match="cannot read events: the answer does not parse") as refused:
        decode_events(GARBAGE)
    assert refused.value.status is grpc.StatusCode.DATA_LOSS
    with pytest.raises(GatewayError):
        drive(Patience("events").wait(refused.value))


def test_an_ordering_node_that_answers_something_else_does_not_take_the_envelope() -> None:
    found = _read_answer(endpoint(), GARBAGE)
    assert found is not None
    assert (found.address, found.message) == (
        endpoint().address,
        "its answer does not parse; is this an ordering node of Fabric?",
    )


@pytest.mark.parametrize("content", [DEEP, b"[]", b"\xff", b'{"block_number":"7","transaction_id":""}'])
def test_a_checkpoint_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_bytes(content)
    with pytest.raises(ConfigError, match="delete it to read the events from the beginning"):
        FileCheckpoint(tmp_path / "checkpoint.json").load()


# --- definitions and memberships


@pytest.mark.parametrize("field", [GARBAGE, db_pb2.StateData(Bytes=GARBAGE).SerializeToString()])
def test_collections_on_the_ledger_that_do_not_parse_are_damaged(field: bytes) -> None:
    with pytest.raises(BlockError, match="the collections of a chaincode's definition do not parse"):
        decode_collections(field)
    state: Any = MemoryState()
    state.get = lambda namespace, key: StateValue(value=field, version=Version(1, 0), metadata=b"")
    with pytest.raises(NodeError, match="definition on the ledger is damaged: the collections"):
        read_collection(state, "app", "sealed", frozenset())


@pytest.mark.parametrize("damaged", ["Sequence", "EndorsementInfo", "ValidationInfo", "Collections"])
def test_a_definition_on_the_ledger_that_does_not_parse_is_damaged(damaged: str) -> None:
    def get(_: str, key: str) -> bytes:
        return b"there" if "metadata" in key else GARBAGE if key.endswith(damaged) else b""

    with pytest.raises(NodeError, match="definition on the ledger is damaged"):
        read_definition(get, "app")


def test_what_the_lifecycle_has_stored_and_does_not_parse_is_damaged() -> None:
    class Garbage:
        def get(self, key: str) -> bytes:
            return GARBAGE

        def put(self, key: str, value: bytes) -> None:
            raise AssertionError(key)

    with pytest.raises(NodeError, match="no StateData"):
        Parameters.read("app", Garbage())
    with pytest.raises(NodeError, match="no StateData"):
        decode_state_data(GARBAGE)


def test_a_malformed_member_of_a_collection_is_nobody() -> None:
    kinds = msp_principal_pb2.MSPPrincipal
    static = collection_pb2.StaticCollectionConfig(name="sealed")
    policy = static.member_orgs_policy.signature_policy
    policy.identities.add(principal_classification=kinds.ROLE, principal=GARBAGE)
    role = msp_principal_pb2.MSPRole(msp_identifier="alpha").SerializeToString()
    policy.identities.add(principal_classification=kinds.ROLE, principal=role)
    package = collection_pb2.CollectionConfigPackage(config=[{"static_collection_config": static}])
    field = db_pb2.StateData(Bytes=package.SerializeToString()).SerializeToString()
    assert decode_collections(field)["sealed"].organisations == {"alpha"}


def test_principals_combined_as_deep_as_anybody_likes_are_judged() -> None:
    kinds, role = msp_principal_pb2.MSPPrincipal, msp_principal_pb2.MSPRole
    alpha = make_organisation("alpha")
    client = alpha.signer("client").identity
    for wanted, satisfied in ((role.MEMBER, True), (role.PEER, False)):
        inner = kinds(principal=role(msp_identifier="alpha", role=wanted).SerializeToString())
        for _ in range(2 * sys.getrecursionlimit()):
            both = msp_principal_pb2.CombinedPrincipal(principals=[inner])
            inner = kinds(principal_classification=kinds.COMBINED, principal=both.SerializeToString())
        assert alpha.msp().satisfies(client, inner) is satisfied


def test_an_organisation_whose_membership_does_not_parse_is_refused() -> None:
    spec = OrganisationSpec(name="alpha", msp_config=msp_config_pb2.MSPConfig(config=GARBAGE))
    with pytest.raises(ConfigError, match="organisation 'alpha' is refused: its membership does not parse"):
        check_organisations("application", [spec])


def test_an_organisation_whose_tls_authority_is_none_is_refused() -> None:
    config = make_organisation("alpha").msp_config()
    fabric = msp_config_pb2.FabricMSPConfig.FromString(config.config)
    fabric.tls_root_certs.append(b"none")
    config.config = fabric.SerializeToString()
    with pytest.raises(ConfigError, match="expected a certificate in PEM for the TLS authorities"):
        check_organisations("application", [OrganisationSpec(name="alpha", msp_config=config)])


def test_a_configuration_update_that_is_no_envelope_is_not_ordered() -> None:
    channel = make_channel()
    with pytest.raises(BlockError, match="the configuration update was not ordered"):
        build_config_transaction(GARBAGE, ChannelConfig.from_block(channel.genesis), channel.orderer)


def test_a_revocation_list_with_an_issuer_that_cannot_be_read_is_refused() -> None:
    channel = make_channel()
    alpha = channel.organisations["alpha"]
    good = x509.load_pem_x509_crl(alpha.signing.revoke([alpha.signer("thief").identity.certificate_pem]))
    der = good.public_bytes(Encoding.DER)
    assert der.count(b"\x0c\x08ca.alpha") == 1
    text = base64.encodebytes(der.replace(b"\x0c\x08ca.alpha", b"\x81\x08ca.alpha"))
    broken = b"-----BEGIN X509 CRL-----\n" + text + b"-----END X509 CRL-----\n"
    with pytest.raises(ConfigError, match="expected a certificate revocation list in PEM, cannot parse it"):
        revoke_certificates(ChannelConfig.from_block(channel.genesis), "alpha", broken)


def test_an_update_with_an_authority_that_cannot_be_read_is_not_described() -> None:
    """Whoever is to sign must not be shown half of what it means."""
    before = ChannelConfig.from_block(make_channel().genesis)
    wanted = configtx_pb2.Config()
    wanted.CopyFrom(before.config)
    value = wanted.channel_group.groups["Application"].groups["alpha"].values["MSP"]
    membership = msp_config_pb2.MSPConfig.FromString(value.value)
    fabric = msp_config_pb2.FabricMSPConfig.FromString(membership.config)
    fabric.tls_root_certs.append(b"none")
    membership.config = fabric.SerializeToString()
    value.value = membership.SerializeToString()
    after = replace(before, config=wanted)
    with pytest.raises(ConfigError, match=r"a membership in the configuration cannot be read: .*; do not sign this"):
        describe_difference(before, after)


@pytest.mark.parametrize("content", [DEEP, b"[", b"\xff", b"no"])
def test_what_an_ordering_node_says_that_is_no_json_is_its_text(content: bytes) -> None:
    assert _decode_participation(content) == content.decode(errors="replace")
    assert _decode_participation(b"") is None
    assert _decode_participation(b"{}") == {}


# --- the embedded node


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-1", "", "1e3"])
def test_what_is_no_number_of_a_block_is_refused(number: str) -> None:
    with pytest.raises(SimulationError, match="failed to get block number"):
        system_contracts().invoke("qscc", (b"GetBlockByNumber", b"fed", number.encode()))


WHOLE = json.loads(Savepoint(height=3, private_heights={"alpha": 1}).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        DEEP,
        json.dumps(WHOLE | {"height": "3"}).encode(),
        json.dumps(WHOLE | {"height": True}).encode(),
        json.dumps(WHOLE | {"config_block": -1}).encode(),
        json.dumps(WHOLE | {"header_hash": "zz"}).encode(),
        json.dumps(WHOLE | {"private_heights": {"alpha": 1.5}}).encode(),
        json.dumps({name: value for name, value in WHOLE.items() if name != "commit_hash"}).encode(),
    ],
)
def test_how_far_the_state_is_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="how far the state is cannot be read"):
        Savepoint.decode(content)
    blocks = BlockStore(tmp_path / "blocks", Files())
    blocks.load(0, lambda number, block: None)
    store = StateStore(tmp_path / "state.sqlite", blocks)
    with store._database.transaction() as connection:
        connection.execute("INSERT INTO meta VALUES ('committed', ?, x'00')", (content,))
    with pytest.raises(NodeError, match=r"state.sqlite is damaged: how far .* move this file"):
        store.committed()
    store.close()
    blocks.close()


# --- bytes between processes, and sums


def test_half_a_value_is_no_value() -> None:
    with pytest.raises(FrameError, match="expected values of 4 bytes each, got 7 bytes"):
        decode_vector(bytes(7))


@pytest.mark.parametrize("decode", [decode_values, decode_randomness])
def test_a_sum_that_is_too_short_is_refused_with_a_code(decode: Callable[[bytes, int], object]) -> None:
    with pytest.raises(ProtocolError, match="got 7") as refused:
        decode(bytes(7), 2)
    assert refused.value.code is Code.SUM_MISMATCH


# --- a network's files


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path)
    found.description.write_text(Description.load_default(18000).dump())
    return found


@pytest.mark.parametrize(
    "content",
    [b"[]", b"1", b"{}", DEEP, b'{"ledger":"raft"}', b'{"ledger":["local"]}', b'{"ledger":"local","project":"A b"}'],
)
def test_a_networks_state_that_is_none_is_refused_by_name(content: bytes, layout: Layout) -> None:
    layout.state.write_bytes(content)
    with pytest.raises(NetworkError, match=r"network.json: .*; the file says which ledger runs the network: write"):
        Network.open(layout.directory)
    with pytest.raises(NetworkError, match=r"network.json: .*; without it the project's name is not known"):
        assert ComposeProject.of_machine(Description.load(layout.description), layout).name


def test_a_network_without_a_state_is_none(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="holds no network; bring one up"):
        Network.open(tmp_path)


def test_a_project_with_a_name_that_compose_refuses_is_not_provisioned(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="expected the name of a Compose project in BLOCKFL_PROJECT"):
        provision(tmp_path, Description.load_default(18000), "A b")


@pytest.mark.parametrize("content", [DEEP, b"[]", b"1", b"\xff", b'{"genesis":{}}'])
def test_a_mark_of_a_volume_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "channel.json").write_bytes(content)
    with pytest.raises(NetworkError, match=r"cannot be read|another channel"):
        claim_volume(tmp_path, b"genesis")


@pytest.mark.parametrize(
    "content", [b"", b"[]", DEEP, b'{"organisations":5}', b'{"not_on_channel":1}', b'{"height":"7"}', b'{"error":[]}']
)
def test_what_is_no_status_of_a_node_says_so(content: bytes) -> None:
    found = decode_status(content, "127.0.0.1:7")
    assert (found.height, found.organisations) == (None, {})
    assert found.error == "127.0.0.1:7 answers something else than a node's status: is it another program?"


def test_fields_that_a_later_node_tells_are_passed_over() -> None:
    assert decode_status(b'{"kind":"embedded","height":7,"more":[]}', "").height == 7


@pytest.mark.parametrize("content", [DEEP, b"[]", b"1", b"\xff"])
def test_a_package_or_values_that_are_no_object_are_refused_by_the_builder(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(BuilderError, match=r"metadata.json"):
        detect(tmp_path)
    with pytest.raises(BuilderError, match="CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG"):
        read_values(content.decode("utf-8", "replace"))


def test_a_key_file_that_cannot_be_read_is_named_by_the_builder(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text('{"key":"{{.key}}"}')
    for path in ("/nowhere/key.pem", "a\0b"):
        with pytest.raises(BuilderError, match="cannot be read"):
            release(tmp_path, tmp_path, {"key": {"file": path}})


RECORD = {"pid": 1, "birth": "0a-1/7", "stopped": False, "command": ["/bin/true"], "environment": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": -1},
        {"pid": 0},
        {"pid": 2**70},
        {"birth": 1.5},
        {"birth": "yesterday"},
        {"command": []},
        {"command": ["a\0b"]},
        {"environment": {"A": "\0"}},
    ],
)
def test_a_record_that_no_process_has_is_as_good_as_none(changes: dict[str, object], tmp_path: Path) -> None:
    """With -1 as a pid every child would be waited for; with NaN as its beginning any process would be the one."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "one.json").write_text(json.dumps(RECORD))
    assert ProcessTable(tmp_path).state("one") == "crashed"
    (tmp_path / "run" / "one.json").write_text(json.dumps(RECORD | changes))
    assert ProcessTable(tmp_path).find("one") is None
    assert ProcessTable(tmp_path).state("one") == "stopped"
    assert not ProcessTable(tmp_path).restart("one")


@pytest.mark.parametrize("text", ["", "7050", ":7050", "a:", "a:0", "a:65536", "a:\u00b2", "a:-1", "a:" + "1" * 5000])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(NetworkError, match="expected an address as host:port"):
        parse_address(text)


@pytest.mark.parametrize("text", ["", "1000", "1:", "-1:1", "\u0661:1", "1:4294967295", "1:" + "9" * 5000])
def test_what_is_no_owner_is_refused(text: str) -> None:
    with pytest.raises(NetworkError, match="expected numbers in BLOCKFL_UID and BLOCKFL_GID"):
        _parse_owner(text)


def test_an_owner_is_read() -> None:
    assert _parse_owner("1000:4294967294") == (1000, 2**32 - 2)
