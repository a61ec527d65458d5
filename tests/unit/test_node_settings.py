"""The embedded node's settings file: what it may say, and what each mistake is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockfl.fabric.embedded.settings import NodeSettings
from blockfl.fabric.errors import NodeError


def endpoint(**changes: Any) -> dict[str, Any]:
    settings = {
        "msp_id": "alpha",
        "listen": "127.0.0.1:7051",
        "certificate": "peer.pem",
        "private_key": "peer.key",
        "tls_certificate": "tls.pem",
        "tls_private_key": "tls.key",
    }
    return settings | changes


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "directory": "node",
        "channel": "fed",
        "genesis": "genesis.block",
        "orderer": endpoint(listen="127.0.0.1:7050"),
        "organisations": [endpoint()],
    } | changes


def load(tmp_path: Path, content: Any) -> NodeSettings:
    path = tmp_path / "node.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return NodeSettings.load(path)


def test_relative_paths_count_from_the_files_directory(tmp_path: Path) -> None:
    contract = {"address": "127.0.0.1:9000", "tls_roots": "roots.pem"}
    loaded = load(tmp_path, settings(organisations=[endpoint(contract=contract)], genesis="/elsewhere/genesis.block"))
    assert loaded.directory == tmp_path / "node"
    assert loaded.genesis == Path("/elsewhere/genesis.block")
    assert loaded.orderer.certificate == tmp_path / "peer.pem"
    (organisation,) = loaded.organisations
    assert organisation.contract is not None
    assert organisation.contract.tls_roots == tmp_path / "roots.pem"
    assert loaded.time_window_s == 30


def test_settings_survive_being_written_and_read(tmp_path: Path) -> None:
    loaded = load(tmp_path, settings(time_window_s=5, operations_listen="127.0.0.1:9443"))
    assert load(tmp_path, loaded.model_dump_json()) == loaded


def test_a_contracts_values_are_its_files_contents(tmp_path: Path) -> None:
    for name in ("roots", "cert", "key"):
        (tmp_path / name).write_text(f"PEM of {name}")
    contract = {"address": "h:1", "tls_roots": "roots", "client_certificate": "cert", "client_key": "key"}
    (organisation,) = load(tmp_path, settings(organisations=[endpoint(contract=contract)])).organisations
    assert organisation.contract is not None
    assert organisation.contract.values() == {
        "addr": "h:1",
        "root": "PEM of roots",
        "cert": "PEM of cert",
        "key": "PEM of key",
    }
    (tmp_path / "key").unlink()
    with pytest.raises(NodeError, match=str(tmp_path / "key")):
        organisation.contract.values()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"organisations": []}, "organisations: .*at least 1"),
        ({"organisations": [endpoint(), endpoint(listen="127.0.0.1:7052")]}, "each organisation once, got alpha"),
        ({"organisations": [endpoint(listen="127.0.0.1:7050")]}, "a port of its own .* 127.0.0.1:7050 twice"),
        ({"organisations": [endpoint(listen="0.0.0.0:7051")]}, "refusing to listen on 0.0.0.0:7051"),
        ({"organisations": [endpoint(listen="[::]:7051")]}, "refusing to listen"),
        ({"organisations": [endpoint(listen="example.org:7051")]}, "refusing to listen"),
        ({"organisations": [endpoint(listen="7051")]}, "expected host:port, got '7051'"),
        ({"organisations": [endpoint(listen="127.0.0.1:99999")]}, "expected host:port"),
        ({"organisations": [endpoint(msp_id="")]}, "organisations.0.msp_id"),
        ({"surprise": 1}, "surprise"),
        ({"channel": 7}, "channel"),
        ({"time_window_s": 0}, "time_window_s"),
        ({"operations_listen": "0.0.0.0:80", "allow_public": True}, "refusing to listen on 0.0.0.0:80"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NodeError, match=reason):
        load(tmp_path, settings(**changes))


def test_a_public_address_needs_permission(tmp_path: Path) -> None:
    public = settings(organisations=[endpoint(listen="0.0.0.0:7051")], allow_public=True)
    assert load(tmp_path, public).allow_public


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"directory": "x"}', "\x00"])
def test_something_else_than_settings_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(NodeError, match=r"node\.json is not a node's settings"):
        load(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"cannot read .*nothing\.json"):
        NodeSettings.load(tmp_path / "nothing.json")
