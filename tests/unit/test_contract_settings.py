"""What a contract service is told: good files are loaded, every bad one is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blockfl.contract.settings import ContractSettingsError, ServiceSettings
from blockfl.protocol.seal import decode_opening_key, encode_public_key
from support.federation import make_consortium
from support.service import OPENING_KEY, PACKAGE_ID, ServiceFiles, write_service


@pytest.fixture
def files(tmp_path: Path) -> ServiceFiles:
    return write_service(tmp_path, make_consortium(), "regulator")


def test_a_committee_members_files_are_loaded(files: ServiceFiles) -> None:
    settings = ServiceSettings.load(files.config)
    assert settings.contract.organisation == "regulator"
    assert settings.contract.consortium == make_consortium()
    assert settings.contract.opening_key is not None
    assert encode_public_key(settings.contract.opening_key) == encode_public_key(decode_opening_key(OPENING_KEY))
    assert (settings.package_id, settings.listen) == (PACKAGE_ID, "127.0.0.1:0")


def test_an_institution_needs_no_opening_key(tmp_path: Path) -> None:
    settings = ServiceSettings.load(write_service(tmp_path, make_consortium(), "alpha").config)
    assert settings.contract.opening_key is None


def test_no_secret_shows_when_settings_are_printed(files: ServiceFiles) -> None:
    shown = repr(ServiceSettings.load(files.config))
    assert OPENING_KEY not in shown
    assert "PRIVATE" not in shown


@pytest.mark.parametrize("name", ["key.pem", "opening-key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644])
def test_a_key_that_others_can_use_is_refused(files: ServiceFiles, name: str, mode: int) -> None:
    (files.directory / name).chmod(mode)
    with pytest.raises(ContractSettingsError, match=rf"{name}.*mode {mode:04o}.*chmod 600"):
        ServiceSettings.load(files.config)


@pytest.mark.parametrize(
    "name", ["service.json", "consortium.json", "opening-key", "certificate.pem", "key.pem", "client-roots.pem"]
)
def test_a_missing_file_is_named(files: ServiceFiles, name: str) -> None:
    (files.directory / name).unlink()
    with pytest.raises(ContractSettingsError, match=name):
        ServiceSettings.load(files.config)


@pytest.mark.parametrize("name", ["consortium.json", "opening-key", "certificate.pem", "key.pem", "client-roots.pem"])
def test_a_file_that_holds_something_else_is_refused(files: ServiceFiles, name: str) -> None:
    (files.directory / name).write_bytes(b"pencil \xff and paper")
    with pytest.raises(ContractSettingsError) as caught:
        ServiceSettings.load(files.config)
    assert "pencil" not in str(caught.value)


def test_a_key_of_another_certificate_is_refused(files: ServiceFiles) -> None:
    (files.directory / "key.pem").write_bytes(files.tls.server().private_key)
    with pytest.raises(ContractSettingsError, match="does not belong to the certificate"):
        ServiceSettings.load(files.config)


def test_a_consortium_that_is_not_canonical_is_refused(files: ServiceFiles) -> None:
    record = files.directory / "consortium.json"
    record.write_bytes(record.read_bytes() + b"\n")
    with pytest.raises(ContractSettingsError, match="canonical"):
        ServiceSettings.load(files.config)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"organisation": "outsider"}, "not a member"),
        ({"organisation": "the regulator"}, "organisation"),
        ({"opening_key": None}, "opening key"),
        ({"opening_key": 5}, "opening_key"),
        ({"package_id": "blockfl"}, "package_id"),
        ({"listen": "127.0.0.1"}, "listen"),
        ({"listen": "0.0.0.0:9999"}, "allow_public"),
        ({"listen": "[::]:9999"}, "allow_public"),
        ({"listen": "example.org:9999"}, "allow_public"),
        ({"allow_public": "yes"}, "allow_public"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_field_is_named(files: ServiceFiles, fields: dict[str, Any], text: str) -> None:
    files.change(**fields)
    with pytest.raises(ContractSettingsError, match=text):
        ServiceSettings.load(files.config)


@pytest.mark.parametrize("field", ["organisation", "consortium", "opening_key", "package_id", "listen", "private_key"])
def test_a_missing_field_is_named(files: ServiceFiles, field: str) -> None:
    files.drop(field)
    with pytest.raises(ContractSettingsError, match=field):
        ServiceSettings.load(files.config)


@pytest.mark.parametrize("listen", ["127.0.0.1:9999", "[::1]:9999", "localhost:9999"])
def test_loopback_needs_no_permission(files: ServiceFiles, listen: str) -> None:
    files.change(listen=listen)
    assert ServiceSettings.load(files.config).listen == listen


def test_another_address_is_taken_when_the_operator_says_so(files: ServiceFiles) -> None:
    files.change(listen="0.0.0.0:9999", allow_public=True)
    assert ServiceSettings.load(files.config).listen == "0.0.0.0:9999"
