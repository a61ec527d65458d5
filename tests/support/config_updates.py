"""Configuration updates, made and signed by administrators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.identity.signing import Signer
from support.scratch_ledger import organisations

MAJORITY = ("alpha", "beta", "gamma")
BATCH_SIZE = "BatchSize"

Edit = Callable[[Any], Any]


def admin(name: str) -> Signer:
    return organisations()[name].signer("admin", "admin")


def raise_version(group: Any) -> None:
    """The smallest useful change: another maximum number of messages in a block."""
    value = group.groups["Orderer"].values[BATCH_SIZE]
    value.version += 1
    size = orderer_pb2.BatchSize.FromString(value.value)
    size.max_message_count += 1
    value.value = size.SerializeToString()


def update_config(
    config: ChannelConfig,
    change: Edit = raise_version,
    *,
    signers: Sequence[Signer] | None = None,
    update: Edit = lambda _: None,
    result: Edit = lambda _: None,
    wrapper_type: int = common_pb2.CONFIG_UPDATE,
) -> bytes:
    """A configuration envelope; by default one that is in order.

    Args:
        config: the configuration to change.
        change: applied to a whole copy of the channel group, which is both write set and result.
        signers: administrators of three organisations by default.
        update: changes the update before it is signed.
        result: changes the envelope in the end.
        wrapper_type: the header type of the update's own envelope.
    """
    changed = configtx_pb2.ConfigGroup()
    changed.CopyFrom(config.config.channel_group)
    change(changed)
    message = configtx_pb2.ConfigUpdate(
        channel_id=config.channel_id, read_set=config.config.channel_group, write_set=changed
    )
    update(message)
    encoded = message.SerializeToString()
    envelope = configtx_pb2.ConfigUpdateEnvelope(config_update=encoded)
    for signer in [admin(name) for name in MAJORITY] if signers is None else signers:
        header = common_pb2.SignatureHeader(creator=signer.identity.serialized, nonce=b"n").SerializeToString()
        envelope.signatures.add(signature_header=header, signature=signer.sign(header + encoded))
    payload = common_pb2.Payload(data=envelope.SerializeToString())
    payload.header.channel_header = common_pb2.ChannelHeader(
        type=wrapper_type, channel_id=config.channel_id
    ).SerializeToString()
    made = configtx_pb2.ConfigEnvelope(
        config=configtx_pb2.Config(sequence=config.sequence + 1, channel_group=changed),
        last_update=common_pb2.Envelope(payload=payload.SerializeToString()),
    )
    result(made)
    return bytes(made.SerializeToString())


def config_transaction(config: ChannelConfig, data: bytes, signer: Signer | None = None) -> bytes:
    signer = signer or organisations()["alpha"].signer("orderer1", "orderer")
    payload = common_pb2.Payload(data=data)
    payload.header.channel_header = common_pb2.ChannelHeader(
        type=common_pb2.CONFIG, channel_id=config.channel_id
    ).SerializeToString()
    payload.header.signature_header = common_pb2.SignatureHeader(
        creator=signer.identity.serialized, nonce=b"nonce"
    ).SerializeToString()
    encoded = payload.SerializeToString()
    return bytes(common_pb2.Envelope(payload=encoded, signature=signer.sign(encoded)).SerializeToString())
