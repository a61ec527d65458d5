"""One organisation's part in containers of its own host: the file, and what the set-up container writes for it."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from blockfl.contract.settings import ServiceSettings
from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.backup import back_up
from blockfl.network.compose import render_host_compose
from blockfl.network.containers import CONNECTION
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.network import HostPart, open_part
from blockfl.network.project import ComposeProject, ContainerRestarts
from blockfl.network.setup import main
from support.founded import ROLES, found, say

BASE = 18000
STATE = "${BLOCKFL_STATE:-.}"
PORTS = {"coordinator": BASE, "hospital": BASE + 30}


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hosts")
    founding = found(directory, BASE)
    for name in PORTS:
        say("network", "compose", "-d", directory / name, "--founding", founding)
    return directory


@pytest.fixture
def place(founded: Path, tmp_path: Path) -> OrganisationLayout:
    """The hospital's directory, as its set-up container finds it."""
    shutil.copytree(founded / "hospital", tmp_path / "hospital", symlinks=True)
    return OrganisationLayout(tmp_path / "hospital")


def services(founded: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((founded / name / "docker-compose.yaml").read_text())["services"]
    return content


def provision(place: OrganisationLayout, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert main(["provision", str(place.directory)], {"BLOCKFL_PROJECT": "ours"}) == code
    return capsys.readouterr().err


def test_the_file_has_this_organisations_part_and_no_others(founded: Path) -> None:
    once = ["blockfl", "provision", "setup"]
    kinds = ["orderer", "peer", "contract"]
    hospital, coordinator = services(founded, "hospital"), services(founded, "coordinator")
    assert sorted(hospital) == sorted([*once, "agent-hospital", *(f"{kind}-hospital" for kind in kinds)])
    assert sorted(coordinator) == sorted([*once, "aggregator-coordinator", *(f"{kind}-coordinator" for kind in kinds)])
    text = (founded / "hospital" / "docker-compose.yaml").read_text()
    assert not any(name in text for name in ROLES if name != "hospital")
    assert not re.search(r"PRIVATE KEY|BEGIN |[0-9a-f]{32}", text)
    assert str(founded) not in text


def test_its_containers_are_those_of_the_machine_with_all(founded: Path) -> None:
    """The same code makes both: only names, ports, addresses and the directory differ."""
    whole = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yaml").read_text())["services"]
    for kind, of in (("peer", "hungary"), ("orderer", "cleveland"), ("contract", "hungary"), ("agent", "hungary")):
        here, there = services(founded, "hospital")[f"{kind}-hospital"], whole[f"{kind}-{of}"]
        for name in set(there) - {"environment", "networks", "ports", "volumes", "command"}:
            assert here[name] == there[name], f"{kind}: {name}"
        inside, outside = (
            re.findall(r":(/[^:]+(?::ro)?)$", "\n".join(map(str, one["volumes"])), re.M) for one in (here, there)
        )
        assert inside == outside
        assert here["environment"].keys() == there["environment"].keys()


def test_others_dial_the_hosts_name_and_containers_each_other(founded: Path) -> None:
    hospital = services(founded, "hospital")
    peer, orderer = hospital["peer-hospital"], hospital["orderer-hospital"]
    assert peer["environment"]["CORE_PEER_GOSSIP_EXTERNALENDPOINT"] == "hospital.example:18030"
    assert peer["environment"]["CORE_PEER_ADDRESS"] == "peer.hospital:18030"
    assert peer["environment"]["CORE_PEER_LISTENADDRESS"] == "0.0.0.0:18030"
    assert peer["ports"] == ["127.0.0.1:18030:18030"]
    assert orderer["ports"] == ["127.0.0.1:18033:18033", "127.0.0.1:18034:18034"]
    # Its own peer finds it by the name in the channel's configuration.
    assert orderer["networks"]["fabric"]["aliases"] == ["orderer.hospital", "hospital.example"]
    assert hospital["agent-hospital"]["networks"] == ["organisation-hospital"]


def test_listening_is_apart_from_what_others_dial(tmp_path: Path) -> None:
    directory = tmp_path / "hospital"
    options = ("--host", "hospital.example", "--listen", "0.0.0.0", "--base-port", 18030)
    mapped = ("--peer-address", "gate.example:443", "--orderer-address", "gate.example:444")
    say("network", "member", "hospital", "-d", directory, "--role", "institution", "--orderer", *options, *mapped)
    host = Host.open(directory).in_containers()
    assert host.organisation.peer_address == "gate.example:443"
    assert host.organisation.own_peer_address == "peer.hospital:18030"
    assert host.organisation.publish(18030) == "0.0.0.0:18030:18030"  # type: ignore[attr-defined]
    # Administration stays on the host's loopback interface.
    assert host.organisation.publish_locally(18034) == "127.0.0.1:18034:18034"  # type: ignore[attr-defined]
    # Through the mapped port it is another address: the name alone would lead past it.
    assert host.organisation.orderer_names == ["orderer.hospital"]  # type: ignore[attr-defined]
    assert {"gate.example", "hospital.example", "peer.hospital"} <= set(host.organisation.hosts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "hospital.example"), "on which Docker publishes its containers' ports: `listen` may name one"),
        (("--host", "127.0.0.1"), "others dial hospital at 127.0.0.1:18030, which in a container is that container"),
        (("--host", "::1"), r"others dial hospital at \[::1\]:18030, which in a container is that container"),
        (("--host", "localhost", "--listen", "127.0.0.1"), "others dial hospital at localhost:18030, which in a"),
    ],
)
def test_what_containers_cannot_do_is_refused(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    say("network", "member", "hospital", "-d", tmp_path, "--role", "institution", "--base-port", 18030, *options)
    with pytest.raises(NetworkError, match=said):
        Host.open(tmp_path).in_containers().organisation.require_containers()  # type: ignore[attr-defined]


def test_before_anything_is_founded_it_says_what_to_do(tmp_path: Path) -> None:
    say("network", "member", "hospital", "-d", tmp_path, "--role", "institution", "--base-port", 18030)
    with pytest.raises(NetworkError, match="nothing is founded yet; name the file that all have signed: --founding"):
        HostPart.open(tmp_path, "compose").adopt(None)


def test_every_file_that_a_container_mounts_is_there(
    place: OrganisationLayout, founded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provision(place, capsys)
    mounts = [
        one.removeprefix(f"{STATE}/").split(":")[0]
        for service in services(founded, "hospital").values()
        for one in service["volumes"]
        if isinstance(one, str) and one.startswith(f"{STATE}/")
    ]
    assert len(mounts) > 10
    assert [path for path in mounts if not (place.directory / path).exists()] == []


def test_its_set_up_writes_what_containers_read_and_keys_stay_private(
    place: OrganisationLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    provision(place, capsys)
    assert ServiceSettings.load(place.service).listen == "0.0.0.0:18031"
    assert ConnectionProfile.load(place.profile("agent")).endpoint == "127.0.0.1:18030"
    assert ConnectionProfile.load(place.profile("container-agent")).endpoint == "peer.hospital:18030"
    config = ChannelConfig.from_block(decode_block(place.genesis.read_bytes()))
    assert sorted(str(one.host) for one in config.consenters) == sorted(f"{name}.example" for name in ROLES)
    connection = place.node("peer", CONNECTION)
    assert json.loads(connection.read_text())["addr"] == "contract.hospital:18031"
    secret = [path for path in place.directory.rglob("*") if re.search(r"key(\.pem)?$|connection", path.name)]
    assert len(secret) > 10
    assert [path for path in secret if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    assert stat.S_IMODE(place.directory.stat().st_mode) & 0o077 == 0
    assert json.loads(Layout(place.directory).state.read_text()) == {"ledger": "compose", "project": "ours"}


def test_a_second_time_nothing_changes(place: OrganisationLayout, capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in place.directory.rglob("*") if path.is_file()}

    provision(place, capsys)
    before = read()
    provision(place, capsys)
    assert read() == before


def test_what_was_brought_up_in_containers_is_found_there_again(
    place: OrganisationLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    provision(place, capsys)
    assert open_part(place.directory).ledger == "compose"
    with pytest.raises(NetworkError, match="runs in containers, not as processes"):
        HostPart.open(place.directory, "local")
    backup = back_up(place.directory, place.directory.parent / "copy")
    assert f"peer/{CONNECTION}" in backup.secrets


def test_other_keys_than_the_channel_knows_are_refused(
    place: OrganisationLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    provision(place, capsys)
    other = place.directory.parent / "other"
    where = ("--host", "hospital.example", "--listen", "127.0.0.1", "--base-port", 18030)
    say("network", "member", "hospital", "-d", other, "--role", "institution", "--orderer", *where)
    for path in ("authority", "peer"):
        shutil.rmtree(place.directory / path)
        (other / path).rename(place.directory / path)
    assert "is not one that the channel knows" in provision(place, capsys, 1)


def test_a_changed_record_of_the_members_makes_another_contract_container(founded: Path) -> None:
    host = Host.open(founded / "hospital")
    before = yaml.safe_load(render_host_compose(host))["services"]["contract-hospital"]["environment"]
    record = host.load_consortium()
    host.layout.consortium.write_bytes(record.model_copy(update={"sequence": 2}).encode())
    try:
        after = yaml.safe_load(render_host_compose(host))["services"]["contract-hospital"]["environment"]
    finally:
        host.layout.consortium.unlink()
    assert before["BLOCKFL_RECORD"] != after["BLOCKFL_RECORD"]


def test_renewed_certificates_are_taken_by_containers_made_anew(
    place: OrganisationLayout, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provision(place, capsys)
    said = tmp_path / "said"
    program = tmp_path / "bin" / "docker-compose"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo 2.40.3 || echo "$@" >> {said}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(ComposeProject, "running", lambda _: {"peer-hospital", "contract-hospital"})
    connection, key = place.node("peer", CONNECTION), place.node("contract", "client-key.pem")
    before = key.read_text(), place.node("peer", "tls-certificate.pem").read_bytes()
    with open_part(place.directory).renewal() as renewal:
        renewal.renew(["agent-hospital", "peer-hospital", "dialling-hospital"], lambda _: None)
    anew = [line.partition("--force-recreate ")[2] for line in said.read_text().splitlines()]
    assert anew == ["peer-hospital", "contract-hospital peer-hospital"]
    assert place.node("peer", "tls-certificate.pem").read_bytes() != before[1]
    assert json.loads(connection.read_text())["key"] == key.read_text() != before[0]
    assert stat.S_IMODE(connection.stat().st_mode) == 0o600


def test_an_ordering_node_is_made_anew_although_it_does_not_run(
    place: OrganisationLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(ComposeProject, "running", lambda _: set())
    monkeypatch.setattr(ComposeProject, "compose", lambda _, *words: called.append(words))
    host = Host.open(place.directory)
    restarts = ContainerRestarts(ComposeProject.of_host(host))
    for kind in ("peer", "contract", "agent", "admin", "orderer"):
        restarts.begin_anew(host, kind)
    assert [words[-1] for words in called] == ["orderer-hospital"]
