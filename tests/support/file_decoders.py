"""Decoders of the files of a network's directory, of what its processes say, and of options on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from blockfl.fabric.channel.changes import add_organisation
from blockfl.fabric.errors import ConfigError
from blockfl.network.builder import BuilderError, build, detect, read_values, release
from blockfl.network.description import Description
from blockfl.network.embedded import decode_status
from blockfl.network.errors import NetworkError
from blockfl.network.founding import load_member
from blockfl.network.layout import Layout
from blockfl.network.member import Membership, MembershipFile
from blockfl.network.network import Network
from blockfl.network.port import format_address, parse_address
from blockfl.network.process import ProcessTable
from blockfl.network.project import ComposeProject
from blockfl.network.setup import _parse_owner
from blockfl.network.volume import claim_volume
from support.decoders import Decoder, of
from support.fabric_decoders import make_channel_config
from support.organisation import make_organisation
from support.outer_decoders import descriptions, scratch

LEDGERS = ("embedded", "local", "compose")


def keep(place: str, content: bytes) -> Path:
    """Write a file below the scratch directory, whose directories are made once."""
    path = scratch() / place
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@cache
def layout() -> Layout:
    keep("network/consortium.yaml", descriptions()[1])
    return Layout(scratch() / "network")


@cache
def description() -> Description:
    return Description.parse(descriptions()[1].decode(), "consortium.yaml")


def network_state(content: bytes) -> None:
    layout().state.write_bytes(content)
    name = ComposeProject.of_machine(description(), layout()).name
    assert name == name.lower()
    assert Network.open(layout().directory).ledger in LEDGERS


def network_states() -> Sequence[bytes]:
    said = ({"ledger": "embedded"}, {"ledger": "compose", "project": "blockfl-heart"}, {"ledger": "local"})
    return tuple(json.dumps(one).encode() + b"\n" for one in said)


def mark_of_a_volume(content: bytes) -> None:
    path = keep("volume/channel.json", content)
    claim_volume(path.parent, b"genesis")
    assert json.loads(content)["genesis"] == json.loads(volume_marks()[0])["genesis"]


@cache
def volume_marks() -> Sequence[bytes]:
    directory = scratch() / "fresh"
    claim_volume(directory, b"genesis")
    return ((directory / "channel.json").read_bytes(),)


def status_of_a_node(content: bytes) -> None:
    found = decode_status(content, "127.0.0.1:1")
    assert found.height is None or found.height >= 0
    assert found.error is None or isinstance(found.error, str)


def statuses_of_nodes() -> Sequence[bytes]:
    said = {
        "kind": "embedded",
        "channel": "fed",
        "height": 7,
        "error": None,
        "orderer": "127.0.0.1:7050",
        "organisations": {"alpha": {"address": "127.0.0.1:7051", "contracts": {"blockfl:00": "connected"}}},
        "not_on_channel": ["beta"],
    }
    return json.dumps(said).encode(), b"{}"


BUILDER_VALUES: dict[str, object] = {"addr": "127.0.0.1:7", "root": "ROOT"}


def package_for_the_builder(content: bytes) -> None:
    """Both of a package's files are these bytes: detected, built and released, or refused."""
    source = keep("builder/source/connection.json", content).parent
    metadata = keep("builder/metadata/metadata.json", content).parent
    output = keep("builder/output/empty", b"").parent
    if detect(metadata):
        build(source, metadata, output)
        release(output, output, BUILDER_VALUES)
        released = json.loads((output / "chaincode" / "server" / "connection.json").read_bytes())
        assert list(released) == list(json.loads(content))
        assert "{{.addr}}" not in released.values()


def packages_for_the_builder() -> Sequence[bytes]:
    said = {"type": "ccaas", "label": "app_1", "address": "{{.addr}}", "root_cert": "{{.root}}", "tls_required": True}
    return json.dumps(said).encode(), b'{"type":"golang"}'


def values_of_the_builder(content: bytes) -> None:
    """What a peer's environment says, filled into a package."""
    values = read_values(content.decode("utf-8", "replace"))
    built = keep("filled/connection.json", b'{"address":"{{.addr}}","key":"{{ .key }}"}').parent
    release(built, built, values)
    released = json.loads((built / "chaincode" / "server" / "connection.json").read_bytes())
    assert all(isinstance(one, str) for one in released.values())


def values_of_builders() -> Sequence[bytes]:
    key = keep("filled/key.pem", b"KEY")
    said = ({"addr": "127.0.0.1:7", "key": {"file": str(key)}}, {"addr": "a", "key": "KEY"})
    return tuple(json.dumps(one).encode() for one in said)


def record_of_a_process(content: bytes) -> None:
    """Such a record never leads to another process than the one that was started."""
    keep("processes/run/one.json", content)
    table = ProcessTable(scratch() / "processes")
    assert table.find("one") is None
    assert table.state("one") in ("stopped", "crashed")


def records_of_processes() -> Sequence[bytes]:
    said = {"pid": 1, "birth": "0a-1/7", "stopped": False, "command": ["/bin/true", "-x"], "environment": {"A": "b"}}
    return json.dumps(said).encode(), json.dumps(said | {"pid": 2**22, "stopped": True}).encode()


def organisation_that_joins(content: bytes) -> None:
    found = load_member(keep("member.json", content)).membership
    config = add_organisation(make_channel_config(), found.spec())
    assert found.name in config.channel_group.groups["Application"].groups


def memberships() -> Sequence[bytes]:
    joining = make_organisation("epsilon")
    found = Membership(
        name="epsilon",
        msp_id="epsilon",
        roles=("institution",),
        signing_roots=(joining.signing.certificate_pem.decode(),),
        tls_roots=(joining.tls.certificate_pem.decode(),),
        peer="127.0.0.1:7051",
        orderer=None,
        opening_key=None,
    )
    return (MembershipFile.sign(found, joining.signer("admin", "admin")).encode(),)


def address(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    host, port = parse_address(text)
    assert host
    assert 1 <= port <= 65535
    assert parse_address(format_address(host, port)) == (host, port)


def owner(content: bytes) -> None:
    uid, gid = _parse_owner(content.decode("utf-8", "replace"))
    assert 0 <= uid < 2**32 - 1
    assert 0 <= gid < 2**32 - 1


def addresses() -> Sequence[bytes]:
    return b"127.0.0.1:7050", b"[::1]:65535", b"peer.example:1"


DECODERS: tuple[Decoder, ...] = (
    of("network's state", network_state, (NetworkError,), network_states, max_bytes=512, form="json"),
    of("mark of a volume", mark_of_a_volume, (NetworkError,), volume_marks, max_bytes=512, form="json"),
    of("status of the embedded node", status_of_a_node, (), statuses_of_nodes, max_bytes=1024, form="json"),
    of(
        "builder: package",
        package_for_the_builder,
        (BuilderError,),
        packages_for_the_builder,
        max_bytes=2048,
        form="json",
    ),
    of("builder: values", values_of_the_builder, (BuilderError,), values_of_builders, max_bytes=512, form="json"),
    of("record of a process", record_of_a_process, (), records_of_processes, max_bytes=512, form="json"),
    of("membership to join", organisation_that_joins, (NetworkError, ConfigError), memberships, form="json"),
    of("address", address, (NetworkError,), addresses, form="text", max_bytes=256),
    of("owner of a directory", owner, (NetworkError,), lambda: (b"1000:1000", b"0:4294967294"), "text", 128),
)
