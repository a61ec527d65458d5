"""Certificates and when they end; new ones beside the old; requests out, and only what was asked for in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blockfl.contract.metrics import ServiceMetrics
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.request import answer_request
from blockfl.fabric.identity.signing import load_private_key, parse_certificate
from blockfl.network.certificates import (
    Pair,
    list_certificates,
    list_complaints,
    list_pairs,
    read_end,
    tell_ends,
    watch_certificates,
)
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.layout import OrganisationLayout
from blockfl.network.organisation import Organisation, Ports
from blockfl.network.renewal import install, next_of, prepare, take_certificates, write_requests
from blockfl.network.status import ProcessStatus

ORGANISATION = Organisation(name="alpha", roles=["committee"], orderer=True, ports=Ports.from_base(18000))
NODE = ProcessStatus(name="peer-alpha", state="running", address="", pid=1, memory_mb=1.0, height=1, error="OK")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(ORGANISATION, OrganisationLayout(tmp_path / "alpha"))
    made.provision()
    return made


def pair_of(host: Host, holder: str, purpose: str) -> Pair:
    return next(one for one in list_pairs(host) if (one.holder, one.purpose) == (holder, purpose))


def fits(pair: Pair) -> bool:
    """Whether the key is the certificate's."""
    certificate = parse_certificate(pair.certificate.read_bytes())
    return load_private_key(pair.key).public_key() == certificate.public_key()


def test_every_certificate_is_listed_with_its_holder(host: Host) -> None:
    listed = list_certificates(host)
    assert {one.path for one in listed} == {
        path for path in host.layout.directory.rglob("*certificate.pem") if not path.is_symlink()
    }
    assert {one.holder for one in listed} == {
        f"{kind}-alpha" for kind in ("admin", "agent", "authority", "contract", "dialling", "orderer", "peer")
    }
    row = listed[0].as_dict(datetime.now(UTC))
    assert isinstance(row["days_left"], int)
    assert row["days_left"] > 900


def test_thirty_days_ahead_and_after_the_end_somebody_is_told(host: Host) -> None:
    end = read_end(pair_of(host, "peer-alpha", "TLS").certificate)
    lines = {days: list_complaints([host], end - timedelta(days=days)) for days in (29, -1)}
    assert any(
        line.startswith("the TLS certificate of peer-alpha ends in 29 days, on ") and "network renew" in line
        for line in lines[29]
    )
    assert any(line.startswith("the TLS certificate of peer-alpha ended on ") for line in lines[-1])
    assert list_complaints([host]) == []


def test_the_contract_service_tells_when_every_other_certificate_ends(host: Host) -> None:
    metrics = ServiceMetrics(
        "alpha", pair_of(host, "contract-alpha", "TLS").certificate.read_bytes(), lambda: 1, host.layout.watched
    )

    def told() -> dict[str, float]:
        (family,) = [one for one in metrics.collect() if one.name == "blockfl_certificate_end_seconds"]
        assert len({sample.labels["use"] for sample in family.samples}) == len(family.samples)
        return {sample.labels["use"]: sample.value for sample in family.samples}

    assert list(told()) == ["contract TLS"]
    watch_certificates(host)
    before = told()
    assert len(before) == len(list_certificates(host))
    pair = pair_of(host, "orderer-alpha", "TLS")
    assert before["orderer TLS"] == read_end(pair.certificate).timestamp()
    # Others must be able to read what is public only.
    assert not [path for path in host.layout.watched.iterdir() if b"PRIVATE" in path.read_bytes()]
    prepare(pair)
    write_file(
        next_of(pair.certificate),
        Authority.from_pem(pair.authority.read_bytes(), pair.authority_key.read_bytes()).certificate_pem,
    )
    install(pair)
    watch_certificates(host)
    assert told()["orderer TLS"] == read_end(pair.certificate).timestamp() != before["orderer TLS"]


def test_a_process_whose_certificate_has_ended_says_so_whatever_its_callers_say(host: Host) -> None:
    end = read_end(pair_of(host, "peer-alpha", "TLS").certificate)
    other = replace(NODE, name="keeper")
    told, keeper = tell_ends([NODE, other], [host], end + timedelta(days=400))
    assert told.error.startswith("the ")
    assert "ended on" in told.error
    assert keeper == other
    (fine,) = tell_ends([NODE], [host])
    assert fine.error == "OK"
    assert fine.certificate_ends in {
        read_end(pair_of(host, "peer-alpha", purpose).certificate).isoformat() for purpose in ("TLS", "signing")
    }


@pytest.mark.parametrize("keep_key", [True, False])
def test_a_new_certificate_waits_beside_the_old_until_it_takes_its_place(host: Host, keep_key: bool) -> None:
    pair = pair_of(host, "peer-alpha", "TLS")
    before = pair.certificate.read_bytes(), pair.key.read_bytes()
    prepare(pair, keep_key=keep_key)
    assert (pair.certificate.read_bytes(), pair.key.read_bytes()) == before
    waiting = next_of(pair.certificate).read_bytes()
    # Once more changes nothing.
    prepare(pair)
    assert next_of(pair.certificate).read_bytes() == waiting
    install(pair)
    assert fits(pair)
    assert pair.certificate.read_bytes() == waiting
    assert (pair.key.read_bytes() == before[1]) == keep_key
    assert pair.key.stat().st_mode & 0o077 == 0
    assert not list(pair.key.parent.glob("*.next"))


def test_a_renewal_cut_short_between_key_and_certificate_goes_on(host: Host) -> None:
    pair = pair_of(host, "orderer-alpha", "signing")
    prepare(pair)
    next_of(pair.key).replace(pair.key)
    assert not fits(pair)
    prepare(pair)
    install(pair)
    assert fits(pair)


def test_without_the_authority_a_request_is_the_way(host: Host, tmp_path: Path) -> None:
    pair = pair_of(host, "peer-alpha", "TLS")
    key = pair.authority_key.read_bytes()
    authority = Authority.from_pem(pair.authority.read_bytes(), key)
    pair.authority_key.unlink()
    with pytest.raises(NetworkError, match=r"tls-key\.pem is not here.*--requests DIRECTORY"):
        prepare(pair)
    requests, answers = tmp_path / "out", tmp_path / "in"
    (path,) = write_requests([pair], requests)
    assert path.name == "peer-alpha-TLS.csr"
    assert b"PRIVATE" not in path.read_bytes()
    with pytest.raises(NetworkError, match=r"peer-alpha-TLS\.pem; got none"):
        take_certificates([pair], answers)
    answers.mkdir()
    (answers / "peer-alpha-TLS.pem").write_bytes(answer_request(authority, path.read_bytes()))
    assert take_certificates([pair], answers) == [pair]
    prepare(pair)
    install(pair)
    assert fits(pair)


WRONG: dict[str, tuple[Callable[[Authority, Pair], bytes], str]] = {
    "of another authority": (
        lambda _, pair: Authority.create("x", "alpha").issue(
            load_private_key(next_of(pair.key)).public_key(),
            common_name="x",
            unit=None,
            hosts=pair.wanted.hosts,
            tls=True,
        ),
        "of an authority that the channel knows",
    ),
    "for the former key": (lambda _, pair: pair.certificate.read_bytes(), "for the key of the request"),
    "without a host": (
        lambda authority, pair: authority.issue(
            load_private_key(next_of(pair.key)).public_key(), common_name="x", unit=None, hosts=["elsewhere"], tls=True
        ),
        "expected it to name",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_answer_that_was_not_asked_for_is_refused_and_changes_nothing(host: Host, tmp_path: Path, case: str) -> None:
    pair = pair_of(host, "peer-alpha", "TLS")
    authority = Authority.from_pem(pair.authority.read_bytes(), pair.authority_key.read_bytes())
    write_requests([pair], tmp_path)
    make, reason = WRONG[case]
    (tmp_path / "peer-alpha-TLS.pem").write_bytes(make(authority, pair))
    with pytest.raises(NetworkError, match=reason):
        take_certificates([pair], tmp_path)
    assert fits(pair)
    assert not next_of(pair.certificate).exists()


def test_once_there_is_a_channel_a_lost_ordering_key_is_not_made_anew(host: Host) -> None:
    key = pair_of(host, "orderer-alpha", "signing").key
    key.unlink()
    host.provision()
    assert key.exists()
    host.layout.genesis.write_bytes(b"of a channel")
    key.unlink()
    host.provision()
    assert not key.exists()
    assert host.has_lost_ordering_key
