"""Certificates of ordering nodes and authorities of organisations change in a running channel, one beside the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.renewal import add_roots, remove_roots, renew_consenter
from blockfl.fabric.channel.update import compute_update, sign_update, verify_update
from blockfl.fabric.errors import ConfigError, IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import Identity, create_private_key
from support.config_updates import admin
from support.organisation import make_organisation
from support.scratch_ledger import genesis_config, organisations

Change = Callable[[ChannelConfig], Any]


def led_to(config: ChannelConfig, wanted: Any, names: Sequence[str] = ("alpha", "beta", "gamma")) -> ChannelConfig:
    """What the update from a configuration to another one leads to, signed by these administrators."""
    update = compute_update(config.config, wanted, config.channel_id)
    return verify_update(config, update, [sign_update(update, admin(name)) for name in names])


def test_an_ordering_node_gets_other_certificates_in_its_place() -> None:
    config, alpha = genesis_config(), organisations()["alpha"]
    fresh = replace(alpha.consenter(1, 7000), identity_pem=alpha.signer("again", "orderer").identity.certificate_pem)
    wanted = renew_consenter(
        config, "127.0.0.1", 7000, identity_pem=fresh.identity_pem, tls_certificate=fresh.server_tls_certificate
    )
    new = led_to(config, wanted)
    assert new.consenters == (fresh, *config.consenters[1:])


def renewed_roots(config: ChannelConfig) -> tuple[ChannelConfig, Authority, Authority]:
    """A configuration in which alpha, which also orders, has a new authority of each kind beside the old ones."""
    fresh, tls = Authority.create("ca.alpha 2", "alpha"), Authority.create("tls.alpha 2", "alpha")
    wanted = add_roots(config, "alpha", signing=[fresh.certificate_pem], tls=[tls.certificate_pem])
    return led_to(config, wanted, ["alpha"]), fresh, tls


def test_a_new_authority_counts_beside_the_old_one_by_the_consent_of_its_organisation_alone() -> None:
    config, alpha = genesis_config(), organisations()["alpha"]
    both, fresh, tls = renewed_roots(config)
    old = alpha.signer("anna").identity
    new = Identity(
        msp_id="alpha",
        certificate_pem=fresh.issue(create_private_key().public_key(), common_name="anna", unit="client"),
    )
    for identity in (old, new):
        both.msps.validate(identity)
    assert len(both.msps["alpha"].tls_roots) == 2
    # The old ones leave when no ordering node needs them any more.
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:7000 still has a certificate of an authority"):
        remove_roots(both, "alpha", signing=[alpha.signing.certificate_pem])
    key = create_private_key().public_key()
    moved = led_to(
        both,
        renew_consenter(
            both,
            "127.0.0.1",
            7000,
            identity_pem=fresh.issue(key, common_name="orderer", unit="orderer"),
            tls_certificate=tls.issue(key, common_name="orderer", unit=None, hosts=["127.0.0.1"], tls=True),
        ),
    )
    last = led_to(
        moved,
        remove_roots(moved, "alpha", signing=[alpha.signing.certificate_pem], tls=[alpha.tls.certificate_pem]),
        ["alpha"],
    )
    last.msps.validate(new)
    with pytest.raises(IdentityError):
        last.msps.validate(old)


UNSAFE: dict[str, tuple[Change, str]] = {
    "the certificates that an ordering node has": (
        lambda config: renew_consenter(
            config,
            "127.0.0.1",
            7000,
            identity_pem=config.consenters[0].identity_pem,
            tls_certificate=config.consenters[0].server_tls_certificate,
        ),
        "expected other certificates",
    ),
    "certificates of an ordering node that is none": (
        lambda config: renew_consenter(config, "127.0.0.1", 6999, identity_pem=b"", tls_certificate=b""),
        r"ordering nodes \(127\.0\.0\.1:7000.*got 127\.0\.0\.1:6999",
    ),
    "certificates of somebody else for an ordering node": (
        lambda config: renew_consenter(
            config,
            "127.0.0.1",
            7000,
            identity_pem=config.consenters[0].identity_pem,
            tls_certificate=make_organisation("omega").tls_certificate("orderer"),
        ),
        "TLS certificate of the ordering node 127.0.0.1:7000 is refused",
    ),
    "an authority that is none": (
        lambda config: add_roots(config, "delta", signing=[organisations()["delta"].tls_certificate("peer")]),
        "certificate of an authority",
    ),
    "an authority that the organisation has": (
        lambda config: add_roots(config, "delta", tls=[organisations()["delta"].tls.certificate_pem]),
        "does not have yet",
    ),
    "one authority for signing and TLS": (
        lambda config: add_roots(config, "delta", signing=[organisations()["delta"].tls.certificate_pem]),
        "one for signing and one for TLS",
    ),
    "an authority of nobody": (
        lambda config: add_roots(config, "omega", tls=[organisations()["delta"].tls.certificate_pem]),
        "got 'omega'",
    ),
    "the last authority": (
        lambda config: remove_roots(config, "delta", signing=[organisations()["delta"].signing.certificate_pem]),
        "all 1 to remove: add the new one first",
    ),
    "an authority that the organisation does not have": (
        lambda config: remove_roots(config, "delta", tls=[organisations()["beta"].tls.certificate_pem]),
        "none of its 1",
    ),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_a_change_that_would_break_the_channel_is_refused_with_its_reason(case: str) -> None:
    change, reason = UNSAFE[case]
    with pytest.raises(ConfigError, match=reason):
        change(genesis_config())
