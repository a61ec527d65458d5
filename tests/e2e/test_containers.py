"""The network in containers: hardened in fact, looked at through Docker, started again when killed, continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.port_range import reserve_ports

from blockfl.network.engine import Engine
from blockfl.network.network import Network
from blockfl.network.state import NetworkState
from blockfl.network.status import ProcessStatus
from support.federation_processes import PORTS, FederationProcesses
from support.ledgers import LEDGERS

WAIT_S = 300


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationProcesses]:
    if reason := LEDGERS["compose"]():
        pytest.skip(reason)
    running = FederationProcesses(tmp_path_factory.mktemp("containers"), reserve_ports(PORTS), "compose")
    try:
        running.up()
        yield running
    finally:
        running.down()


@pytest.fixture(scope="module")
def network(federation: FederationProcesses) -> Network:
    return Network.open(federation.network)


@pytest.fixture(scope="module")
def directory(federation: FederationProcesses) -> Path:
    return federation.network


@pytest.fixture
def containers(directory: Path) -> Iterator[dict[str, Any]]:
    """Docker's own view of every container that stays, by service."""
    docker = pytest.importorskip("docker")
    client = docker.from_env()
    project = NetworkState.load(directory / "network.json").project
    found = client.containers.list(filters={"label": f"com.docker.compose.project={project}"})
    yield {container.labels["com.docker.compose.service"]: container for container in found}
    client.close()


def run_in(container: Any, script: str) -> tuple[int, str]:
    code, output = container.exec_run(["bash", "-c", script])
    return code, output.decode()


def wait_for(network: Network, name: str, former: int | None) -> ProcessStatus:
    """Wait until a process runs again, as another one."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        row = next(row for row in network.status() if row.name == name)
        if row.state == "running" and row.pid != former and not row.error:
            return row
        time.sleep(0.2)
    raise AssertionError(f"{name} does not come back: {row}")


@pytest.mark.slow
def test_every_node_and_contract_service_runs_and_the_ledger_has_one_height(network: Network) -> None:
    rows = {row.name: row for row in network.status()}
    assert len(rows) == 4 + 7 + 7
    assert {row.state for row in rows.values()} == {"running"}
    assert all(row.memory_mb and row.memory_mb > 5 for row in rows.values())
    heights = {row.height for name, row in rows.items() if not name.startswith("contract-")}
    assert len(heights) == 1
    assert None not in heights


@pytest.mark.slow
def test_no_process_is_root_can_gain_a_right_or_write_its_file_system(containers: dict[str, Any]) -> None:
    assert len(containers) == 18
    for name, container in containers.items():
        code, said = run_in(container, "cat /proc/1/status; touch /usr/x /etc/x /network/x 2>/dev/null; echo $?; id -u")
        assert code == 0, f"{name}: {said}"
        *_, touched, uid = said.split()
        assert touched == "1", name
        assert uid != "0", name
        fields = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0, name
        assert fields["NoNewPrivs"] == "1", name
        assert fields["Seccomp"] == "2", name


@pytest.mark.slow
def test_ports_are_published_on_this_machine_only(containers: dict[str, Any]) -> None:
    published = [
        binding["HostIp"]
        for container in containers.values()
        for bindings in container.attrs["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    ]
    assert published == ["127.0.0.1"] * (7 + 2 * 4)


@pytest.mark.slow
def test_a_contract_service_reaches_its_own_peer_and_nobody_else(network: Network, containers: dict[str, Any]) -> None:
    service = containers["contract-hungary"]
    port = {one.name: one.ports.peer for one in network.description.organisations}

    def reaches(host: str, number: int) -> bool:
        return run_in(service, f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{number}'")[0] == 0

    assert reaches("peer.hungary", port["hungary"])
    peers = containers["peer-regulator"].attrs["NetworkSettings"]["Networks"].values()
    for address in ["peer.regulator", *(one["IPAddress"] for one in peers)]:
        assert not reaches(address, port["regulator"])
    assert not reaches("192.0.2.1", 443)


@pytest.mark.slow
def test_what_docker_is_told_of_the_containers_holds_no_key(directory: Path, containers: dict[str, Any]) -> None:
    keys = [path for path in directory.rglob("*key*") if path.is_file()]
    secrets = [path.read_text().strip().splitlines()[min(1, path.read_text().count("\n") - 1)] for path in keys]
    assert len(secrets) > 60
    told = "".join(str(container.attrs) for container in containers.values())
    assert not any(secret in told for secret in secrets)
    written = (directory / "docker-compose.yaml").read_text() + (directory / ".env").read_text()
    assert not any(secret in written for secret in secrets)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contract-regulator", "peer-hungary", "orderer-university"])
def test_what_is_killed_is_started_again(network: Network, name: str) -> None:
    before = next(row for row in network.status() if row.name == name)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    after = wait_for(network, name, before.pid)
    assert after.height == before.height


@pytest.mark.slow
def test_logs_are_those_of_the_container_and_a_wrong_name_lists_the_right_ones(
    network: Network, directory: Path
) -> None:
    assert "contract service ready: organisation=regulator" in network.logs("contract-regulator", 50)
    finished = subprocess.run(
        [sys.executable, "-m", "blockfl.cli.main", "network", "logs", "peer-nowhere", "--directory", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "no container peer-nowhere; there are contract-cleveland" in finished.stderr


@pytest.mark.slow
def test_a_stopped_network_says_so_and_continues_where_it_was(
    federation: FederationProcesses, network: Network
) -> None:
    before = next(row.height for row in network.status() if row.name == "peer-cleveland")
    assert len(network.stop()) == 18
    rows = network.status()
    assert {row.state for row in rows} == {"stopped"}
    federation.up()
    after = next(row.height for row in network.status() if row.name == "peer-cleveland")
    assert before is not None
    assert after is not None
    assert after >= before


@pytest.mark.slow
def test_a_second_project_on_the_same_ports_is_refused_with_who_has_them(
    federation: FederationProcesses, tmp_path: Path
) -> None:
    up = ["network", "up", "--ledger", "compose", "--directory", str(tmp_path / "other")]
    finished = subprocess.run(
        [sys.executable, "-m", "blockfl.cli.main", *up, "--base-port", str(federation.base_port)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "ports are in use" in finished.stderr


def test_the_engine_is_closed_after_use() -> None:
    if reason := LEDGERS["compose"]():
        pytest.skip(reason)
    with Engine() as engine:
        assert engine.containers("no-such-project") == []
