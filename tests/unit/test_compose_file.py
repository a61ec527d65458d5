"""``docker-compose.yaml``: current, hardened, without secrets, nothing published beyond this machine unless told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from blockfl.network.compose import render_compose
from blockfl.network.containers import PROVISION, SETUP, TOOLS
from blockfl.network.description import Description, default_description
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.organisation import Ports

ROOT = Path(__file__).parents[2]
COMMITTEE = ["coordinator", "regulator", "university"]
INSTITUTIONS = ["cleveland", "hungary", "longbeach", "switzerland"]
ORGANISATIONS = [*COMMITTEE, *INSTITUTIONS]
ORDERERS = [*COMMITTEE, "cleveland"]
ONCE = {PROVISION, SETUP, TOOLS}


def render(text: str) -> str:
    return render_compose(Description.parse(text, "consortium.yaml"), text)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    return parsed


@pytest.fixture(scope="module")
def services(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = content["services"]
    return found


def sources(service: dict[str, Any]) -> dict[str, str]:
    """What a service mounts from the network's directory, and how: read-only or not."""
    prefix = "${BLOCKFL_STATE:-./network-data}"
    mounts = (one for one in service["volumes"] if isinstance(one, str) and one.startswith(prefix))
    split = (one.removeprefix(prefix).split(":") for one in mounts)
    return {source: rest[1] if len(rest) > 1 else "rw" for source, *rest in split}


def test_the_committed_file_is_what_the_description_gives() -> None:
    assert (ROOT / "docker-compose.yaml").read_text() == render(default_description()), "run: make compose"


def test_it_has_every_part_of_the_consortium(services: dict[str, Any]) -> None:
    assert sorted(services) == sorted(
        [
            *(f"orderer-{name}" for name in ORDERERS),
            *(f"peer-{name}" for name in ORGANISATIONS),
            *(f"contract-{name}" for name in ORGANISATIONS),
            *(f"aggregator-{name}" for name in COMMITTEE),
            *(f"agent-{name}" for name in INSTITUTIONS),
            *ONCE,
        ]
    )


def test_fabric_runs_from_the_official_images_by_version(services: dict[str, Any]) -> None:
    images = {name: one["image"] for name, one in services.items()}
    assert images["peer-cleveland"] == "${FABRIC_PEER_IMAGE:-hyperledger/fabric-peer:3.1.5}"
    assert images["orderer-cleveland"] == "${FABRIC_ORDERER_IMAGE:-hyperledger/fabric-orderer:3.1.5}"
    assert not any("latest" in image for image in images.values())


def test_only_what_trains_or_reads_a_users_model_holds_tensorflow(services: dict[str, Any]) -> None:
    training = {name for name, one in services.items() if "training" in one["image"]}
    assert training == {TOOLS, *(f"agent-{name}" for name in INSTITUTIONS)}


def test_no_container_can_write_its_file_system_or_gain_a_privilege(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert service["mem_limit"], name
        assert "privileged" not in service, name
        assert "docker.sock" not in json.dumps(service), name


def test_no_container_runs_as_root_but_the_one_that_hands_a_new_directory_over(services: dict[str, Any]) -> None:
    users = {name: service["user"] for name, service in services.items()}
    assert users.pop(PROVISION) == "0:0"
    assert set(users.values()) == {"${BLOCKFL_UID:-1000}:${BLOCKFL_GID:-1000}"}
    added = {name: service["cap_add"] for name, service in services.items() if "cap_add" in service}
    assert added == {PROVISION: ["CHOWN", "SETGID", "SETUID"]}
    assert services[PROVISION]["network_mode"] == "none"


def test_everything_that_stays_is_checked_and_started_again(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in ONCE:
            assert service["restart"] == "no"
            assert service["healthcheck"] == {"disable": True}
        else:
            assert service["restart"] == ("on-failure" if name.startswith("agent-") else "unless-stopped"), name
            assert service["healthcheck"]["test"], name
            assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name


def test_every_port_is_published_on_this_machine_only(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert sorted(published) == sorted(
        [*(f"orderer-{name}" for name in ORDERERS), *(f"peer-{name}" for name in ORGANISATIONS)]
    )
    pattern = re.compile(r"127\.0\.0\.1:(\d+):\1")
    ports = [port for one in published.values() for port in one]
    assert all(pattern.fullmatch(port) for port in ports)
    assert len(set(ports)) == len(ports) == 7 + 2 * 4


def test_an_organisation_with_another_address_publishes_there() -> None:
    text = default_description().replace("name: regulator", "name: regulator\n    host: 192.0.2.7")
    services = yaml.safe_load(render(text))["services"]
    assert services["peer-regulator"]["ports"] == ["192.0.2.7:17060:17060"]
    assert services["peer-university"]["ports"] == ["127.0.0.1:17070:17070"]


def test_a_host_name_is_refused_because_docker_publishes_on_addresses() -> None:
    text = default_description().replace("name: regulator", "name: regulator\n    host: node.example")
    with pytest.raises(NetworkError, match=r"organisation regulator has the host node\.example; expected an address"):
        render(text)


def test_too_few_ordering_nodes_are_refused() -> None:
    text = default_description().replace("roles: [institution]\n    orderer: true", "roles: [institution]")
    with pytest.raises(NetworkError, match="needs at least 4"):
        render(text)


def test_no_file_holds_a_secret_or_this_machine() -> None:
    text = (ROOT / "docker-compose.yaml").read_text()
    assert not re.search(r"PRIVATE KEY|BEGIN |[0-9a-f]{32}|password", text)
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_a_container_mounts_its_own_organisations_files_and_no_authoritys_key(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in (PROVISION, SETUP):
            continue
        owner = "coordinator" if name == TOOLS else name.partition("-")[2]
        for source in sources(service):
            assert not re.search(r"/authority(/.*key.*)?$", source), f"{name}: {source}"
            assert source.startswith(f"/organisations/{owner}/"), f"{name}: {source}"


def test_an_administrators_key_is_in_the_set_up_container_only(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name not in (PROVISION, SETUP):
            assert not any("/users/admin" in source for source in sources(service)), name


def test_opening_keys_are_mounted_where_updates_are_opened_and_nowhere_else(services: dict[str, Any]) -> None:
    holders = {name for name, one in services.items() if any("opening-key" in source for source in sources(one))}
    assert holders == {f"{kind}-{name}" for kind in ("contract", "aggregator") for name in COMMITTEE}


def test_keys_are_mounted_read_only_and_only_data_can_be_written(services: dict[str, Any]) -> None:
    for name, service in services.items():
        written = [source for source, mode in sources(service).items() if mode == "rw"]
        if name == PROVISION:
            assert written == [""]
        else:
            kind, _, owner = name.partition("-")
            assert all(source == f"/organisations/{owner}/data/{kind}" for source in written), name


def test_contract_services_agents_and_aggregators_reach_their_own_peer_only(
    content: dict[str, Any], services: dict[str, Any]
) -> None:
    for name, service in services.items():
        kind, _, organisation = name.partition("-")
        if kind in ("contract", "agent", "aggregator"):
            assert list(service["networks"]) == [f"organisation-{organisation}"], name
    rooms = {name: network for name, network in content["networks"].items() if name != "fabric"}
    assert sorted(rooms) == sorted(f"organisation-{name}" for name in ORGANISATIONS)
    assert all(network == {"internal": True} for network in rooms.values())


def test_paths_within_a_network_directory_are_the_ones_that_provisioning_writes(services: dict[str, Any]) -> None:
    place = Layout(Path("/")).organisation("hungary")
    assert str(place.service.parent) in sources(services["contract-hungary"])
    assert str(place.profile("container-agent")) in sources(services["agent-hungary"])


def test_the_safety_settings_of_peers_are_in_the_file(services: dict[str, Any]) -> None:
    for name in ORGANISATIONS:
        environment = services[f"peer-{name}"]["environment"]
        assert environment["CORE_PEER_AUTHENTICATION_TIMEWINDOW"] == "30s"
        assert environment["CORE_PEER_LOCALMSPID"] == name
        assert environment["CORE_VM_ENDPOINT"] == ""
        assert "CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG" not in environment


def test_institutions_take_part_only_when_asked_and_their_data_must_be_there(services: dict[str, Any]) -> None:
    for name in INSTITUTIONS:
        agent = services[f"agent-{name}"]
        assert agent["profiles"] == ["institutions"]
        (data,) = (one for one in agent["volumes"] if isinstance(one, dict))
        assert data["source"] == f"${{BLOCKFL_DATA:-./institution-data}}/{name}"
        assert data["read_only"] is True
        assert data["bind"] == {"create_host_path": False}
    assert all("profiles" not in one for name, one in services.items() if not name.startswith(("agent-", TOOLS)))


def test_the_order_is_provisioning_nodes_set_up_and_then_those_who_use_the_ledger(services: dict[str, Any]) -> None:
    def after(name: str) -> dict[str, str]:
        return {other: said["condition"] for other, said in services[name].get("depends_on", {}).items()}

    provisioned = {PROVISION: "service_completed_successfully"}
    nodes = [name for name in services if name.startswith(("peer-", "orderer-", "contract-"))]
    assert all(after(name) == provisioned for name in nodes)
    assert after(SETUP) == dict.fromkeys(nodes, "service_healthy")
    users = [name for name in services if name.startswith(("agent-", "aggregator-"))]
    assert all(after(name) == {SETUP: "service_completed_successfully"} for name in users)


def test_a_dollar_in_a_description_is_no_variable() -> None:
    text = default_description() + "# costs 5 $A\n"
    assert "costs 5 $$A" in render(text)


def test_every_variable_and_every_port_of_the_file_is_described() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    text = (ROOT / "docker-compose.yaml").read_text()
    variables = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    own = {f"BLOCKFL_{name.upper()}_OPTIONS" for name in INSTITUTIONS}
    assert own < variables
    assert [name for name in sorted(variables - own) if f"`{name}`" not in page] == []
    for offset, name in enumerate(Ports.model_fields):
        assert f"| {offset} | `{name}` |" in page
