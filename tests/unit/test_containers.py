"""Containers as Docker tells of them, and what is said where there is no Docker."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blockfl.network.description import Description
from blockfl.network.engine import Container, Engine
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.network.project import ComposeProject, find_compose

HEALTHY: dict[str, Any] = {"Status": "running", "Running": True, "Restarting": False, "Pid": 7, "ExitCode": 0}


def make_container(state: dict[str, Any], log: bytes = b"", statistics: dict[str, Any] | None = None) -> Container:
    api = SimpleNamespace(stats=lambda identifier, **options: statistics or {})
    told = SimpleNamespace(
        attrs={"State": {**HEALTHY, **state}},
        labels={"com.docker.compose.service": "peer-hungary"},
        name="project-peer-hungary-1",
        id="1",
        logs=lambda tail: b"\n".join(log.splitlines()[-tail:]) + b"\n",
        client=SimpleNamespace(api=api),
    )
    return Container(told)


STOPPED = {"Status": "exited", "Running": False, "Pid": 0}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "running"),
        ({"Health": {"Status": "starting"}}, "running"),
        (STOPPED, "stopped"),
        ({**STOPPED, "ExitCode": 143}, "stopped"),
        ({**STOPPED, "ExitCode": 1}, "crashed"),
        ({**STOPPED, "ExitCode": 137}, "crashed"),
        ({"Status": "restarting", "Restarting": True, "ExitCode": 137}, "crashed"),
        ({**STOPPED, "Status": "created"}, "stopped"),
        ({**STOPPED, "Status": "dead"}, "crashed"),
    ],
)
def test_a_container_runs_was_stopped_or_is_gone_without_that(state: dict[str, Any], expected: str) -> None:
    assert make_container(state).state == expected


def test_a_healthy_container_has_no_complaint() -> None:
    container = make_container({"Health": {"Status": "healthy"}}, b"panic\n")
    assert container.complaint == ""
    assert container.pid == 7
    assert container.service == "peer-hungary"


def test_an_unhealthy_one_says_what_its_check_said() -> None:
    health = {"Status": "unhealthy", "Log": [{"Output": "first"}, {"Output": "Error: no connection\nlast words\n"}]}
    assert make_container({"Health": health}).complaint == "unhealthy: last words"


def test_a_crashed_one_says_its_exit_code_and_last_line() -> None:
    container = make_container({**STOPPED, "ExitCode": 2}, b"starting\npanic: no such file\n")
    assert container.complaint == "ended with 2: panic: no such file"
    assert container.pid is None
    assert container.tail(2) == "starting\npanic: no such file"


def test_memory_is_without_what_the_kernel_caches() -> None:
    usage, cached = 100 * 2**20, 40 * 2**20
    for name in ("total_inactive_file", "inactive_file"):
        statistics = {"memory_stats": {"usage": usage, "stats": {name: cached}}}
        assert make_container({}, statistics=statistics).read_memory_mb() == 60.0
    assert make_container({}).read_memory_mb() is None


def test_without_an_engine_the_error_says_what_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(NetworkError, match=r"no Docker engine answers .* DOCKER_HOST"):
        Engine()


@pytest.mark.parametrize("said", ["1.29.2", "v1.29.2", ""])
def test_an_old_compose_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    if said:
        make_program(tmp_path / "docker-compose", f"echo {said}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkError, match="needs Docker Compose 2"):
        find_compose()


def test_compose_is_found_as_a_plugin_and_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_program(tmp_path / "docker-compose", "echo v2.40.3")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(find_compose()) == [str(tmp_path / "docker-compose")]
    make_program(tmp_path / "docker", "echo 2.29.1")
    assert list(find_compose()) == [str(tmp_path / "docker"), "compose"]


def test_a_network_is_not_begun_where_it_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(NetworkError, match="needs Docker Compose 2"):
        Network.prepare(tmp_path / "network", None, "compose")
    assert not (tmp_path / "network").exists()


def test_a_project_is_named_after_its_directory_until_somebody_named_it(tmp_path: Path) -> None:
    description = Description.load_default()
    one, other = (ComposeProject.of_machine(description, Layout(tmp_path / name)) for name in ("one", "other"))
    assert one.name.startswith("blockfl-heart-")
    assert one.name != other.name
    (tmp_path / "one").mkdir()
    Layout(tmp_path / "one").state.write_text('{"ledger": "compose", "project": "ours"}')
    assert one.name == "ours"


def make_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
