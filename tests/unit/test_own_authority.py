"""An organisation founds with certificates of its own authorities: their keys were never on the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.request import answer_request
from blockfl.network.certificates import list_certificates
from blockfl.network.errors import NetworkError
from blockfl.network.founding import load_member
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from support.founded import say

WHERE = ("--host", "hospital.example", "--listen", "127.0.0.1", "--base-port", 18030)
HOLDERS = [f"{kind}-hospital" for kind in ("admin", "agent", "contract", "peer", "orderer")]


def describe(directory: Path) -> None:
    say("network", "member", "hospital", "-d", directory, "--role", "institution", "--orderer", *WHERE)


@pytest.fixture
def authorities() -> dict[str, Authority]:
    """What the organisation's own authorities are; on other machines."""
    return {purpose: Authority.create(f"Hospital {purpose} CA", "hospital") for purpose in ("signing", "TLS")}


def test_requests_go_out_certificates_come_in_and_then_the_membership_file(
    tmp_path: Path, authorities: dict[str, Authority]
) -> None:
    directory, out, answers = tmp_path / "hospital", tmp_path / "out", tmp_path / "in"
    describe(directory)
    place = Host.open(directory).layout
    before = place.member.read_bytes()
    for purpose, path in (("signing", place.signing_authority), ("TLS", place.tls_authority)):
        path("key").unlink()
        write_file(path("certificate"), authorities[purpose].certificate_pem)
    # Now nothing fits, and nothing goes out.
    with pytest.raises(NetworkError, match="membership file"):
        Host.open(directory).provision()
    say("network", "renew", *HOLDERS, "--requests", out, "--keep-keys", "-d", directory)
    asked = sorted(out.iterdir())
    assert len(asked) == 8
    for request in asked:
        purpose = request.stem.rpartition("-")[2]
        if request.stem != "admin-hospital-TLS":  # that one is not of the TLS authority, and its own is here
            content = answer_request(authorities[purpose], request.read_bytes())
            write_file(answers / f"{request.stem}.pem", content)
    say("network", "renew", *HOLDERS, "--certificates", answers, "--keep-keys", "-d", directory)
    describe(directory)
    member = load_member(place.member)
    member.verify()
    assert place.member.read_bytes() != before
    assert member.membership.signing_roots == (authorities["signing"].certificate_pem.decode(),)
    assert member.membership.tls_roots == (authorities["TLS"].certificate_pem.decode(),)
    assert {one.holder for one in list_certificates(Host.open(directory))} >= set(HOLDERS)
    assert not list(directory.rglob("*.next"))
