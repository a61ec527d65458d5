"""The external builder as a peer executes it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from blockfl.fabric.transaction.package import MUTUAL_TLS_CONNECTION
from blockfl.network.builder import CONFIGURATION_VARIABLE, BuilderError, build, main, release
from blockfl.network.local import write_builder

VALUES = {"addr": "127.0.0.1:7", "root": "ROOT", "cert": "CERT"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in ("source", "metadata", "built", "released", "key"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "connection.json").write_text(json.dumps(MUTUAL_TLS_CONNECTION))
    (tmp_path / "metadata" / "metadata.json").write_text(json.dumps({"type": "ccaas", "label": "app_1"}))
    (tmp_path / "key" / "key.pem").write_text("KEY")
    return tmp_path


def execute(step: str, package: Path, *names: str, values: object) -> subprocess.CompletedProcess[str]:
    """Run a step the way a peer does: with hardly an environment."""
    environment = {"PATH": os.environ["PATH"], CONFIGURATION_VARIABLE: json.dumps(values)}
    command = [str(package / "builder" / "bin" / step), *(str(package / name) for name in names)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_package_is_detected_built_and_released_with_the_peers_own_values(package: Path) -> None:
    write_builder(package / "builder")
    values = {**VALUES, "key": {"file": str(package / "key" / "key.pem")}}
    assert execute("detect", package, "source", "metadata", values=values).returncode == 0
    assert execute("build", package, "source", "metadata", "built", values=values).returncode == 0
    assert execute("release", package, "built", "released", values=values).returncode == 0
    released = package / "released" / "chaincode" / "server" / "connection.json"
    assert json.loads(released.read_text()) == {
        "address": "127.0.0.1:7",
        "dial_timeout": "10s",
        "tls_required": True,
        "client_auth_required": True,
        "root_cert": "ROOT",
        "client_cert": "CERT",
        "client_key": "KEY",
    }


def test_the_dialling_key_is_once_there_and_readable_for_the_peer_alone(package: Path) -> None:
    build(package / "source", package / "metadata", package / "built")
    release(package / "built", package / "released", {**VALUES, "key": "THE KEY"})
    holding = [path for path in package.rglob("*.json") if "THE KEY" in path.read_text()]
    assert holding == [package / "released" / "chaincode" / "server" / "connection.json"]
    assert holding[0].stat().st_mode & 0o777 == 0o600


def test_indexes_of_a_package_are_released(package: Path) -> None:
    index = package / "source" / "META-INF" / "statedb" / "couchdb" / "indexes" / "one.json"
    index.parent.mkdir(parents=True)
    index.write_text("{}")
    build(package / "source", package / "metadata", package / "built")
    release(package / "built", package / "released", {**VALUES, "key": "KEY"})
    assert (package / "released" / "statedb" / "couchdb" / "indexes" / "one.json").read_text() == "{}"


def test_another_kind_of_package_is_somebody_elses(package: Path) -> None:
    (package / "metadata" / "metadata.json").write_text(json.dumps({"type": "golang", "label": "app_1"}))
    assert main(["detect", str(package / "source"), str(package / "metadata")]) == 1
    with pytest.raises(BuilderError, match="of the type ccaas"):
        build(package / "source", package / "metadata", package / "built")


@pytest.mark.parametrize(
    ("values", "reason"),
    [(VALUES, "says nothing of 'key'"), ({**VALUES, "key": 7}, "expected a text or .* for 'key', got 7")],
)
def test_a_value_that_is_missing_or_none_is_named(package: Path, values: dict[str, object], reason: str) -> None:
    build(package / "source", package / "metadata", package / "built")
    with pytest.raises(BuilderError, match=reason):
        release(package / "built", package / "released", values)


@pytest.mark.parametrize(
    ("name", "content"),
    [("source/connection.json", "[]"), ("source/connection.json", "{"), ("metadata/metadata.json", "")],
)
def test_files_that_are_broken_are_refused(
    package: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / name).write_text(content)
    assert main(["build", *(str(package / part) for part in ("source", "metadata", "built"))]) == 1
    assert Path(name).name in capsys.readouterr().err


def test_a_step_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "here"]) == 1
    assert "expected detect SOURCE METADATA" in capsys.readouterr().err
