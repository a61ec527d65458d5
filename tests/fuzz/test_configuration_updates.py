"""Damaged configuration updates, signed by all administrators all the same: refused by name, or peers take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from fabric_protos.common import common_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.changes import add_organisation, change_batch, revoke_certificates
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.channel.update_rules import apply_config
from blockfl.fabric.embedded.ordering.reconfiguration import build_config_transaction
from blockfl.fabric.errors import BlockError, ConfigError
from support.channel import ORGANISATIONS, make_channel
from support.organisation import make_organisation


@cache
def config() -> ChannelConfig:
    return ChannelConfig.from_block(make_channel().genesis)


@cache
def update() -> bytes:
    """An organisation joins, a certificate is revoked, batches change."""
    alpha = make_channel().organisations["alpha"]
    crl = alpha.signing.revoke([alpha.signer("thief").identity.certificate_pem])
    changes: tuple[Callable[[ChannelConfig], Any], ...] = (
        lambda now: add_organisation(now, make_organisation("epsilon").spec(anchor=7999)),
        lambda now: revoke_certificates(now, "alpha", crl),
        lambda now: change_batch(now, replace(now.batch, max_message_count=3)),
    )
    wanted = config()
    for change in changes:
        wanted = ChannelConfig.from_config(change(wanted), wanted.channel_id)
    return compute_update(config().config, wanted.config, wanted.channel_id)


def signed(encoded: bytes) -> bytes:
    channel = make_channel()
    admins = [channel.organisations[name].signer("admin", "admin") for name in ORGANISATIONS]
    return build_update_envelope(encoded, [sign_update(encoded, admin) for admin in admins], channel.client)


def order(encoded: bytes) -> ChannelConfig:
    """What an update leads to on the ledger; peers, who judge it again, must agree."""
    transaction = build_config_transaction(signed(encoded), config(), make_channel().orderer)
    payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(transaction).payload)
    return apply_config(config(), payload.data)


def test_the_update_is_in_order() -> None:
    assert order(update()).batch.max_message_count == 3


@given(st.data())
def test_a_damaged_update_is_refused_by_name_or_peers_take_it(data: st.DataObject) -> None:
    encoded = bytearray(update())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(encoded) - 1))
        encoded[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        transaction = build_config_transaction(signed(bytes(encoded)), config(), make_channel().orderer)
    except (BlockError, ConfigError):
        return
    payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(transaction).payload)
    assert apply_config(config(), payload.data).sequence == 1
