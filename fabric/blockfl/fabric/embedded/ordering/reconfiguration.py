"""Configuration updates at the ordering node: what an administrator's update becomes on the ledger, or why not.

Peers judge the result again when they commit its block, and stop where an orderer let through what they refuse. So
everything is checked here, before. Refuses by name what one node alone cannot do: another consensus, more ordering
nodes, a channel that would not accept its blocks any more.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from fabric_protos.common import common_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import BLOCK_VALIDATION, ORDERER, ChannelConfig
from blockfl.fabric.channel.genesis import verify_config
from blockfl.fabric.channel.update_rules import propose_config
from blockfl.fabric.errors import BlockError, ConfigError, IdentityError
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.envelope import sign_envelope

CONSENSUS: Final = "etcdraft"
_WRITERS: Final = "/Channel/Writers"
_NONCE_SIZE_BYTES: Final = 24


def build_config_transaction(update: bytes, config: ChannelConfig, signer: Signer) -> bytes:
    """Turn a configuration update into the configuration transaction that is ordered in its place.

    Args:
        update: a serialised common.Envelope with the update and its administrators' signatures.
        config: the configuration in force.
        signer: the ordering node, which vouches for the result.

    Returns:
        A serialised common.Envelope, for a block of its own.

    Raises:
        BlockError: the update is not allowed, starts from another configuration, or leads to one that would break
            the channel.
    """
    try:
        proposed = propose_config(config, common_pb2.Envelope.FromString(update))
        verify_config(proposed.config)
        _verify_ordered_here(proposed.config, signer)
    except (BlockError, ConfigError, DecodeError) as error:
        raise BlockError(f"the configuration update was not ordered: {error}") from error
    channel_header = common_pb2.ChannelHeader(type=common_pb2.CONFIG, channel_id=config.channel_id)
    channel_header.timestamp.seconds = int(time.time())
    signature_header = common_pb2.SignatureHeader(
        creator=signer.identity.serialized, nonce=os.urandom(_NONCE_SIZE_BYTES)
    )
    header = common_pb2.Header(channel_header=_encode(channel_header), signature_header=_encode(signature_header))
    envelope = sign_envelope(_encode(common_pb2.Payload(header=header, data=proposed.encoded)), signer)
    if len(envelope) > config.batch.absolute_max_bytes:
        raise BlockError(
            f"the configuration update was not ordered: expected at most {config.batch.absolute_max_bytes} bytes, "
            f"the configuration would have {len(envelope)}: raise the absolute maximum of a block first"
        )
    return envelope


def _verify_ordered_here(config: ChannelConfig, signer: Signer) -> None:
    """Verify that one node can go on ordering under a configuration."""
    value = config.config.channel_group.groups[ORDERER].values["ConsensusType"].value
    consensus = orderer_pb2.ConsensusType.FromString(value)
    if consensus.type != CONSENSUS or len(config.consenters) != 1:
        raise ConfigError(
            f"expected one ordering node ({CONSENSUS}), got {len(config.consenters)} ({consensus.type}): the embedded "
            "node orders alone, run Hyperledger Fabric for more"
        )
    if consensus.state != orderer_pb2.ConsensusType.STATE_NORMAL:
        raise ConfigError("the embedded node has no maintenance mode: leave the consensus state as it is")
    identity = signer.identity
    try:
        config.msps.validate(identity)
    except IdentityError as error:
        raise ConfigError(f"the ordering node's own certificate would not be valid any more: {error}") from error
    for path in (BLOCK_VALIDATION, _WRITERS):
        if not config.policies.satisfied_by(path, [identity]):
            raise ConfigError(f"blocks of the ordering node {signer!r} would not satisfy {path} any more")


def _encode(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))
