"""How Fabric's nodes are configured: what must not be left at its default, and what a node needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from blockfl.fabric.client.endpoint import CLIENT_OPTIONS
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.shim.server import SERVER_OPTIONS
from blockfl.network.binaries import FabricBinaries
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import found, list_hosts
from blockfl.network.layout import Layout
from blockfl.network.local import LocalLauncher
from blockfl.network.node import Node, require_files
from blockfl.network.process import ProcessTable

DESCRIPTION = Description.load_default(18000)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("network"))
    found(DESCRIPTION, layout)
    return layout


@pytest.fixture(scope="module")
def nodes(layout: Layout) -> dict[str, Node]:
    binaries = FabricBinaries(
        peer=Path("/bin/peer"),
        orderer=Path("/bin/orderer"),
        peer_configuration=Path("/etc/peer"),
        orderer_configuration=Path("/etc/orderer"),
        version="3.1.5",
    )
    hosts = list_hosts(DESCRIPTION, layout)
    launcher = LocalLauncher(hosts, ProcessTable(layout.directory))
    return {node.name: node for host in hosts for node in launcher.nodes(host, binaries)}


def test_there_is_a_peer_of_each_organisation_and_an_ordering_node_of_four(nodes: dict[str, Node]) -> None:
    assert [name for name in nodes if name.startswith("orderer-")] == [
        *("orderer-coordinator", "orderer-regulator", "orderer-university", "orderer-cleveland")
    ]
    assert sum(node.kind == "peer" for node in nodes.values()) == 7


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CORE_PEER_AUTHENTICATION_TIMEWINDOW", "30s"),
        ("CORE_PEER_GOSSIP_PVTDATA_SKIPPULLINGINVALIDTRANSACTIONSDURINGCOMMIT", "true"),
        ("CORE_PEER_GOSSIP_PVTDATA_PULLRETRYTHRESHOLD", "5s"),
        ("CORE_PEER_GOSSIP_PVTDATA_RECONCILESLEEPINTERVAL", "5s"),
        ("CORE_LEDGER_PVTDATASTORE_DEPRIORITIZEDDATARECONCILERINTERVAL", "30s"),
        ("CORE_CHAINCODE_STARTUPTIMEOUT", "12s"),
        ("CORE_PEER_TLS_ENABLED", "true"),
        ("CORE_VM_ENDPOINT", ""),
        ("CORE_PEER_PROFILE_ENABLED", "false"),
        ("CORE_PEER_GOSSIP_EXTERNALENDPOINT", "127.0.0.1:18010"),
        ("CORE_PEER_LISTENADDRESS", "127.0.0.1:18010"),
        ("CORE_PEER_CHAINCODELISTENADDRESS", "127.0.0.1:18016"),
        ("CORE_OPERATIONS_LISTENADDRESS", "127.0.0.1:18012"),
        ("GOGC", "50"),
    ],
)
def test_a_peer_has_the_settings_that_are_not_the_default(nodes: dict[str, Node], variable: str, value: str) -> None:
    assert nodes["peer-regulator"].environment[variable] == value


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORDERER_GENERAL_BOOTSTRAPMETHOD", "none"),
        ("ORDERER_CHANNELPARTICIPATION_ENABLED", "true"),
        ("ORDERER_GENERAL_TLS_ENABLED", "true"),
        ("ORDERER_ADMIN_TLS_ENABLED", "true"),
        ("ORDERER_ADMIN_TLS_CLIENTAUTHREQUIRED", "true"),
        ("ORDERER_ADMIN_LISTENADDRESS", "127.0.0.1:18014"),
        ("ORDERER_OPERATIONS_LISTENADDRESS", "127.0.0.1:18015"),
        ("ORDERER_GENERAL_CLUSTER_RPCTIMEOUT", "1s"),
    ],
)
def test_an_ordering_node_has_the_settings_that_are_not_the_default(
    nodes: dict[str, Node], variable: str, value: str
) -> None:
    assert nodes["orderer-regulator"].environment[variable] == value


def test_no_two_nodes_share_an_address_or_a_directory(nodes: dict[str, Node]) -> None:
    addresses = [address for node in nodes.values() for address in node.addresses.values()]
    assert len(set(addresses)) == len(addresses)
    assert len({node.data for node in nodes.values()}) == len(nodes)


def test_nothing_listens_on_every_interface(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        listening = {name: value for name, value in node.environment.items() if "LISTEN" in name}
        assert listening
        assert not any(value.startswith(("0.0.0.0", ":")) for value in listening.values()), node.name


def test_every_file_that_a_variable_names_is_there(nodes: dict[str, Node], layout: Layout) -> None:
    named = {
        Path(part)
        for node in nodes.values()
        for value in node.environment.values()
        for part in value.strip("[]").split(",")
        if part.startswith(str(layout.directory)) and not {"data", "builder"} & set(Path(part).parts)
    }
    assert len(named) > 20
    assert [path for path in named if not path.exists()] == []


def test_no_environment_holds_a_private_key(nodes: dict[str, Node]) -> None:
    assert not any("PRIVATE" in value for node in nodes.values() for value in node.environment.values())


def test_the_ordering_nodes_administrators_have_an_authority_of_their_own(
    nodes: dict[str, Node], layout: Layout
) -> None:
    environment = nodes["orderer-regulator"].environment
    trusted = Path(environment["ORDERER_ADMIN_TLS_CLIENTROOTCAS"].strip("[]")).read_bytes()
    place = layout.organisation("regulator")
    assert trusted == place.admin_tls_authority("certificate").read_bytes()
    assert trusted not in (place.tls_roots.read_bytes(), place.signing_authority("certificate").read_bytes())
    administrator = Identity(
        msp_id="regulator", certificate_pem=place.user("admin", "tls-certificate.pem").read_bytes()
    )
    authority = Identity(msp_id="regulator", certificate_pem=trusted)
    administrator.certificate.verify_directly_issued_by(authority.certificate)


def test_the_ordering_nodes_trust_the_tls_authorities_of_all_of_them(nodes: dict[str, Node], layout: Layout) -> None:
    path = nodes["orderer-cleveland"].environment["ORDERER_GENERAL_CLUSTER_ROOTCAS"].strip("[]")
    bundle = Path(path).read_bytes()
    for organisation in DESCRIPTION.orderers:
        assert layout.organisation(organisation.name).tls_roots.read_bytes() in bundle


def test_the_builder_gets_the_service_and_the_files_of_the_dialling_key(nodes: dict[str, Node]) -> None:
    environment = nodes["peer-hungary"].environment
    (builder,) = json.loads(environment["CORE_CHAINCODE_EXTERNALBUILDERS"])
    values = json.loads(environment["CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG"])
    assert builder["propagateEnvironment"] == ["CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG"]
    assert values["addr"] == "127.0.0.1:18041"
    assert b"PRIVATE KEY" in Path(values["key"]["file"]).read_bytes()


@pytest.mark.parametrize(("organisation", "kind"), [("regulator", "orderer"), ("hungary", "peer")])
def test_a_membership_directory_has_units_roots_and_the_nodes_own_pair(
    layout: Layout, organisation: str, kind: str
) -> None:
    place = layout.organisation(organisation)
    directory = place.node(kind, "msp")
    units = yaml.safe_load((directory / "config.yaml").read_text())["NodeOUs"]
    assert units["Enable"] is True
    assert {units[f"{name}OUIdentifier"]["OrganizationalUnitIdentifier"] for name in ("Client", "Peer", "Admin")} == {
        *("client", "peer", "admin")
    }
    assert (directory / "keystore/key.pem").read_bytes() == place.node(kind, "key.pem").read_bytes()
    assert (directory / "signcerts/certificate.pem").read_bytes() == place.node(kind, "certificate.pem").read_bytes()
    assert (directory / "cacerts/signing.pem").read_bytes() == place.signing_authority("certificate").read_bytes()


def test_private_keys_are_their_owners_alone(layout: Layout) -> None:
    keys = [path for path in layout.directory.rglob("*key*") if path.is_file() and not path.is_symlink()]
    assert len(keys) > 50
    assert {path.stat().st_mode & 0o077 for path in keys} == {0}


def test_a_missing_file_is_named_with_its_node(nodes: dict[str, Node], layout: Layout) -> None:
    missing = layout.organisation("hungary").node("peer", "tls-key.pem")
    content = missing.read_bytes()
    missing.unlink()
    try:
        with pytest.raises(NetworkError, match=rf"peer-hungary needs {missing}, which is missing"):
            require_files(list(nodes.values()))
    finally:
        missing.write_bytes(content)
        missing.chmod(0o600)
    require_files(list(nodes.values()))


def test_nobody_is_sent_away_for_pinging(nodes: dict[str, Node]) -> None:
    """Each side that pings does so less often than the other expects it at most; our own servers do not count."""
    orderer, peer = nodes["orderer-regulator"].environment, nodes["peer-hungary"].environment

    def seconds(environment: Mapping[str, str], name: str) -> int:
        return int(environment[name].removesuffix("s"))

    at_peers = seconds(peer, "CORE_PEER_KEEPALIVE_MININTERVAL")
    at_orderers = seconds(orderer, "ORDERER_GENERAL_KEEPALIVE_SERVERMININTERVAL")
    # Timers are not exact, and a ping may be late while the next one is not.
    assert seconds(peer, "CORE_PEER_KEEPALIVE_CLIENT_INTERVAL") >= 2 * max(at_peers, at_orderers)
    assert seconds(peer, "CORE_PEER_KEEPALIVE_DELIVERYCLIENT_INTERVAL") >= 2 * at_orderers
    assert dict(CLIENT_OPTIONS)["grpc.keepalive_time_ms"] >= 2000 * max(at_peers, at_orderers)
    assert dict(SERVER_OPTIONS)["grpc.http2.max_ping_strikes"] == 0
