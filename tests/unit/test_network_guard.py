"""A guard before an ordering node as a network describes it: addresses, files, the channel's first block, settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update import preview_update
from blockfl.fabric.guard.settings import GuardSettings
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator
from blockfl.network.binaries import FabricBinaries
from blockfl.network.certificates import list_pairs
from blockfl.network.description import Description
from blockfl.network.errors import DescriptionError, NetworkError
from blockfl.network.foundation import found
from blockfl.network.guard import guard_addresses, guard_process
from blockfl.network.host import Host
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.local import LocalLauncher
from blockfl.network.member import MembershipFile, OrderingNode
from blockfl.network.ordering import list_nodes, name_nodes
from blockfl.network.organisation import Organisation, Ports
from blockfl.network.process import ProcessTable
from support.small_network import ORGANISATIONS, describe_small

BASE = 18_400
ENVIRONMENT = "ORDERER_GENERAL_"
NODE = {"name": "hungary", "roles": ["institution"], "orderer": True, "ports": Ports.from_base(BASE)}


def found_small(directory: Path, consensus: str, *, guard: bool = True) -> dict[str, Host]:
    text = describe_small(BASE, consensus=consensus, guard=guard)
    return {host.name: host for host in found(Description.parse(text, "small.yaml", "local"), Layout(directory))}


@pytest.fixture(scope="module", params=["BFT", "raft"])
def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    return found_small(tmp_path_factory.mktemp("network"), request.param)


def read_config(hosts: Mapping[str, Host]) -> ChannelConfig:
    return ChannelConfig.from_block(decode_block(hosts["regulator"].layout.genesis.read_bytes()))


def environment_of(host: Host, directory: Path) -> Mapping[str, str]:
    etc = Path("/etc")
    binaries = FabricBinaries(peer=etc, orderer=etc, peer_configuration=etc, orderer_configuration=etc, version="3.1.5")
    nodes = LocalLauncher([host], ProcessTable(directory)).nodes(host, binaries)
    (environment,) = (one.environment for one in nodes if one.kind == "orderer")
    return environment


def test_the_channel_has_guards_for_peers_and_ordering_nodes_for_each_other(hosts: dict[str, Host]) -> None:
    config = read_config(hosts)
    for name, own in config.orderer_organisations.items():
        organisation = hosts[name].organisation
        assert own.endpoints == (f"127.0.0.1:{organisation.ports.guard}",)
        (node,) = list_nodes(config, own)
        assert (node.host, node.port) == ("127.0.0.1", organisation.ports.orderer)


def test_a_node_that_is_silent_behind_its_guard_is_named_as_the_others_know_it(hosts: dict[str, Host]) -> None:
    config, names = read_config(hosts), ("regulator", "university")
    nodes = [hosts[name].organisation.orderer_address for name in names]
    assert name_nodes(config, [hosts[name].organisation.guard_address for name in names]) == nodes
    assert name_nodes(config, nodes) == nodes
    assert name_nodes(config, ["elsewhere:1"]) == ["elsewhere:1"]


def test_who_leaves_takes_the_ordering_node_behind_its_guard_with_it(tmp_path: Path) -> None:
    hosts = found_small(tmp_path, "raft")
    config = read_config(hosts)
    administrator = Administrator(ConnectionProfile.load(hosts["regulator"].layout.profile("admin")))
    left = preview_update(config, administrator.remove(config, "university"))
    assert len(config.consenters) == 3
    assert [one.port for one in left.consenters] == [
        hosts[name].organisation.ports.orderer for name in ("coordinator", "regulator")
    ]


def test_an_ordering_node_listens_for_its_guard_and_for_the_others_apart(
    hosts: dict[str, Host], tmp_path: Path
) -> None:
    host = hosts["regulator"]
    ports, environment = host.organisation.ports, environment_of(host, tmp_path)
    said = {name.removeprefix(ENVIRONMENT): value for name, value in environment.items()}
    assert (said["LISTENADDRESS"], said["LISTENPORT"]) == ("127.0.0.2", str(ports.guard_operations))
    assert (said["CLUSTER_LISTENADDRESS"], said["CLUSTER_LISTENPORT"]) == ("127.0.0.1", str(ports.orderer))
    assert said["CLUSTER_SERVERCERTIFICATE"] == said["TLS_CERTIFICATE"]
    assert said["CLUSTER_SERVERPRIVATEKEY"] == said["TLS_PRIVATEKEY"]


def test_without_a_guard_nothing_is_as_with_one(tmp_path: Path) -> None:
    host = found_small(tmp_path, "BFT", guard=False)["regulator"]
    environment, member = environment_of(host, tmp_path), json.loads(host.layout.member.read_bytes())
    assert environment["ORDERER_GENERAL_LISTENPORT"] == str(host.organisation.ports.orderer)
    assert not [name for name in environment if name.startswith("ORDERER_GENERAL_CLUSTER_LISTEN")]
    # The file is as it was before there were guards: signatures over such files still hold.
    assert member["membership"]["orderer"].keys() == {"address", "certificate", "tls_certificate"}
    assert not host.layout.node("guard", "x").parent.exists()


def test_its_settings_are_those_that_a_guard_reads(hosts: dict[str, Host]) -> None:
    host = hosts["regulator"]
    place, organisation = host.layout, host.organisation
    spec = guard_process(host)
    settings = GuardSettings.load(Path(spec.command[-1]))
    assert settings.genesis.resolve() == place.genesis.resolve()
    assert [settings.listen, settings.operations_listen] == guard_addresses(organisation)
    assert (settings.orderer, settings.peer) == (organisation.inner_orderer_address, organisation.own_peer_address)
    assert settings.signer().identity.msp_id == "regulator"
    assert settings.endpoint(settings.orderer).server_name in organisation.hosts
    shown, known = settings.tls_certificate.read_bytes(), place.node("orderer", "tls-certificate.pem").read_bytes()
    assert shown != known
    assert guard_process(host) == spec


def test_its_keys_are_its_own_and_renewed_like_the_others(hosts: dict[str, Host]) -> None:
    pairs = [one for one in list_pairs(hosts["regulator"]) if one.holder == "guard-regulator"]
    assert [(one.purpose, one.wanted.unit) for one in pairs] == [("signing", "client"), ("TLS", None)]
    assert all(one.key.stat().st_mode & 0o077 == 0 for one in pairs)
    assert pairs[1].wanted.hosts == tuple(hosts["regulator"].organisation.hosts)


def test_a_membership_file_with_a_guard_is_signed_as_a_whole(hosts: dict[str, Host]) -> None:
    content = hosts["regulator"].layout.member.read_bytes()
    member = MembershipFile.decode(content)
    member.verify()
    orderer = member.membership.orderer
    assert orderer is not None
    assert orderer.endpoint == hosts["regulator"].organisation.guard_address
    moved = content.replace(orderer.endpoint.encode(), b"127.0.0.1:1")
    with pytest.raises(NetworkError, match="is not signed by an administrator"):
        MembershipFile.decode(moved).verify()
    without = OrderingNode(address="a:1", certificate=orderer.certificate, tls_certificate=orderer.tls_certificate)
    assert without.endpoint == "a:1"
    assert "guard" not in without.model_dump()


def test_two_organisations_cannot_have_one_guard(hosts: dict[str, Host]) -> None:
    founding = hosts["regulator"].require_founding()
    first, second = founding.member("regulator"), founding.member("university")
    assert first.membership.orderer is not None
    assert second.membership.orderer is not None
    taken = second.membership.orderer.model_copy(update={"guard": first.membership.orderer.endpoint})
    membership = second.membership.model_copy(update={"orderer": taken})
    both = (first, second.model_copy(update={"membership": membership}))
    with pytest.raises(NetworkError, match="regulator and university have the address"):
        founding.model_copy(update={"members": both})._verify_distinct()


def test_a_directory_from_before_there_were_guards_opens(hosts: dict[str, Host], tmp_path: Path) -> None:
    shutil.copytree(hosts["hospital"].layout.directory, tmp_path / "hospital", symlinks=True)
    path = tmp_path / "hospital" / "host.json"
    content = json.loads(path.read_bytes())
    for name in ("guard", "guard_operations"):
        del content["ports"][name]
    del content["guard"], content["guard_node"]
    path.write_text(json.dumps(content))
    organisation = Host.open(tmp_path / "hospital").organisation
    assert not organisation.guard
    assert organisation.ports == Ports.from_base(organisation.ports.peer)
    Host(organisation, OrganisationLayout(tmp_path / "hospital")).keep_description()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"guard": True, "orderer": False}, "runs no ordering node"),
        ({"guard_node": "10.0.0.1:99"}, "has no guard"),
    ],
)
def test_a_guard_without_an_ordering_node_is_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Organisation.model_validate({**NODE, **settings})


def test_behind_mapped_ports_others_dial_what_is_said(tmp_path: Path) -> None:
    organisation = Organisation.model_validate({**NODE, "guard": True, "guard_node": "outside.example:443"})
    assert organisation.guard_address == "outside.example:443"
    assert "outside.example" in organisation.hosts
    host = Host(organisation, OrganisationLayout(tmp_path / "hungary"))
    told = host.provision().membership.orderer
    assert told is not None
    assert (told.address, told.endpoint) == (f"127.0.0.1:{BASE + 3}", "outside.example:443")


def test_the_inner_address_is_nobody_elses() -> None:
    organisation = Organisation.model_validate({**NODE, "guard": True, "host": "127.0.0.2"})
    assert organisation.inner_orderer_address == f"127.0.0.3:{BASE + 9}"
    addresses = [organisation.inner_orderer_address, *guard_addresses(organisation), organisation.orderer_address]
    assert len(set(addresses)) == 4


def test_the_embedded_node_needs_none_and_containers_have_none_yet() -> None:
    text = describe_small(BASE, guard=True)
    assert all(one.guard for one in Description.parse(text, "small.yaml").orderers)
    embedded = Description.parse(text, "small.yaml").for_ledger("embedded")
    assert [one.name for one in embedded.organisations] == list(ORGANISATIONS)
    assert not any(one.guard for one in embedded.organisations)
    with pytest.raises(DescriptionError, match="there is no container yet for the guard of coordinator"):
        Description.parse(text, "small.yaml", "compose")
