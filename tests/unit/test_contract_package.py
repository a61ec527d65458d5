"""Chaincode packages: the same bytes everywhere, readable by everybody's tools."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

import pytest

from blockfl.fabric.errors import ConfigError
from blockfl.fabric.transaction.package import MUTUAL_TLS_CONNECTION, package_contract, package_id


def read_archive(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        return {member.name: content.read() for member in opened if (content := opened.extractfile(member))}


def test_a_package_holds_what_peers_look_for() -> None:
    files = read_archive(package_contract("app_1.0"))
    assert json.loads(files["metadata.json"]) == {"path": "", "type": "ccaas", "label": "app_1.0"}
    code = read_archive(files["code.tar.gz"])
    assert json.loads(code["connection.json"]) == MUTUAL_TLS_CONNECTION


def test_the_same_package_has_the_same_bytes_forever() -> None:
    # A changed digest means that every organisation has to approve anew: change it on purpose only.
    package = package_contract("app_1.0", {"address": "{{.addr}}"})
    assert package == package_contract("app_1.0", {"address": "{{.addr}}"})
    assert hashlib.sha256(package).hexdigest() == "61d946e5f9546cfb2af3ca402713a3c156c25546378b579627cd8b618216162f"


def test_the_id_is_label_and_digest() -> None:
    package = package_contract("app_1.0")
    assert package_id(package) == f"app_1.0:{hashlib.sha256(package).hexdigest()}"


def test_stored_blocks_of_any_length_decompress() -> None:
    for size in (1, 0xFFFF, 0x10000, 200_000):
        package = package_contract("app", {"address": "x", "root_cert": "y" * size})
        gzip.decompress(package)
        code = read_archive(read_archive(package)["code.tar.gz"])
        assert json.loads(code["connection.json"])["root_cert"] == "y" * size


@pytest.mark.parametrize("label", ["", "_app", "app 1", "app/1", "ä"])
def test_a_label_that_peers_refuse_is_refused(label: str) -> None:
    with pytest.raises(ConfigError, match="expected a package label"):
        package_contract(label)


@pytest.mark.parametrize("connection", [{}, {"address": ""}])
def test_a_connection_without_address_is_refused(connection: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='expected an "address"'):
        package_contract("app", connection)


def make_archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "package",
    [
        b"",
        b"not an archive",
        gzip.compress(b"not a tar"),
        package_contract("app")[:100],
        make_archive({}),
        make_archive({"metadata.json": b"{"}),
        make_archive({"metadata.json": b"[]"}),
        make_archive({"metadata.json": b'{"label": 1}'}),
    ],
    # An archive tells when it was made, and every worker of a run has to know a test by the same name.
    ids=["nothing", "text", "no tar", "cut off", "empty", "no JSON", "no object", "no label"],
)
def test_other_files_have_no_id(package: bytes) -> None:
    with pytest.raises(ConfigError, match="expected a"):
        package_id(package)
