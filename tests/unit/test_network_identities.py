"""Keys and certificates of a network: made once, whole or not at all, wherever whoever makes them is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import Signer
from blockfl.network import identities
from blockfl.network.description import Description
from blockfl.network.identities import provision_identities, write_file
from blockfl.network.layout import Layout
from support.small_network import describe_small

DESCRIPTION = Description.parse(describe_small(18000), "small.yaml")


class Stopped(Exception):
    """Stands for kill -9."""


def check(layout: Layout) -> None:
    """Every key belongs to its certificate, and every certificate to its authority."""
    for organisation in DESCRIPTION.organisations:
        place = layout.organisation(organisation.name)
        for authority in (place.signing_authority, place.tls_authority, place.admin_tls_authority):
            Authority.from_pem(authority("certificate").read_bytes(), authority("key").read_bytes())
        issuer = Authority.from_pem(
            place.signing_authority("certificate").read_bytes(), place.signing_authority("key").read_bytes()
        )
        for directory in (place.node("peer", ""), place.node("orderer", ""), place.user("admin", "")):
            signer = Signer.load(organisation.name, directory / "certificate.pem", directory / "key.pem")
            assert signer.identity.certificate.issuer == issuer.certificate.subject
            signer.identity.certificate.verify_directly_issued_by(issuer.certificate)
        assert ("committee" in organisation.roles) == place.opening_key.exists()


def provision(layout: Layout) -> None:
    for organisation in DESCRIPTION.organisations:
        provision_identities(organisation, layout.organisation(organisation.name))


def list_files(layout: Layout) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in layout.directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", range(0, 60, 7))
def test_wherever_it_is_stopped_the_next_time_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    layout = Layout(tmp_path / "network")
    written: list[Path] = []

    def stopping(path: Path, content: bytes, *, private: bool = False) -> None:
        if len(written) == number:
            raise Stopped
        written.append(path)
        write_file(path, content, private=private)

    with monkeypatch.context() as patch:
        patch.setattr(identities, "write_file", stopping)
        with pytest.raises(Stopped):
            provision(layout)
    assert len(written) == number
    provision(layout)
    check(layout)


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "network")
    provision(layout)
    before = list_files(layout)
    provision(layout)
    assert list_files(layout) == before


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys" / "key.pem"

    def stop(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(Stopped):
            write_file(path, b"secret", private=True)
    assert not path.exists()
    assert [one.stat().st_mode & 0o777 for one in path.parent.iterdir()] == [0o600]
    write_file(path, b"secret", private=True)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)
    write_file(path, b"public")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"public", 0o644)
    assert [one.name for one in path.parent.iterdir()] == ["key.pem"]
