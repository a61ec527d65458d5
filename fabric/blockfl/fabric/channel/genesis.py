"""A channel's first block, made in Python: what configtxgen is for, without any Fabric tool.

The shape of a new channel is in `channel_group`; this module owns the block and what is checked of it. The same code
serves real orderers and the embedded node (raft with one consenter). Refuses what real nodes refuse, and also what
they accept in silence although it breaks or weakens the channel (see `verify_genesis_block`).

    block = build_genesis_block(ChannelSpec(channel_id="consortium", application=(...), orderers=(...), ...))
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any, Final

from fabric_protos.common import common_pb2, configtx_pb2, policies_pb2

from blockfl.fabric.channel.config import (
    APPLICATION,
    BLOCK_VALIDATION,
    ENDORSEMENT,
    LIFECYCLE_ENDORSEMENT,
    ORDERER,
    ChannelConfig,
)
from blockfl.fabric.channel.group import (
    ADMINS,
    APPLICATION_CAPABILITY,
    CHANNEL_CAPABILITY,
    block_validation_policy,
    channel_group,
    encode,
)
from blockfl.fabric.channel.spec import (
    MINIMUM_BFT,
    BftOptions,
    ChannelSpec,
    Consensus,
    OrganisationSpec,
    RaftOptions,
    check_spec,
)
from blockfl.fabric.errors import ConfigError

METADATA_ENTRIES: Final = 5
# What an orderer's administration port takes.
MAXIMUM_SIZE_BYTES: Final = 1_000_000

__all__ = [
    "BftOptions",
    "ChannelSpec",
    "Consensus",
    "OrganisationSpec",
    "RaftOptions",
    "block_validation_policy",
    "build_genesis_block",
    "verify_config",
    "verify_genesis_block",
]

_META: Final = ("Readers", "Writers", ADMINS)


def build_genesis_block(spec: ChannelSpec, *, nonce: bytes | None = None, timestamp_s: int | None = None) -> Any:
    """Make a channel's block 0.

    Args:
        spec: the channel.
        nonce: 24 random bytes; given together with `timestamp_s`, several hosts make the same block.
        timestamp_s: seconds since 1970; defaults to now.

    Returns:
        A common.Block.

    Raises:
        ConfigError: the specification would not make a working and safe channel; the text says why.
    """
    check_spec(spec)
    block = _block(spec.channel_id, channel_group(spec), nonce or os.urandom(24), timestamp_s)
    verify_genesis_block(block)
    return block


def verify_genesis_block(block: Any) -> ChannelConfig:
    """Check a block 0, one's own or one that somebody sent, before a node gets it.

    Real nodes take several broken blocks without a word and stop or misbehave later: metadata entries missing,
    policies or capabilities missing, BFT without its nodes' identities or with a policy that anybody satisfies.

    Args:
        block: a common.Block.

    Returns:
        The channel's configuration.

    Raises:
        ConfigError: the block is not one to start a channel with; the text says why.
    """
    header = block.header
    if header.number != 0 or header.previous_hash:
        raise ConfigError(f"expected block 0 without a previous hash, got block {header.number}")
    if len(block.metadata.metadata) != METADATA_ENTRIES:
        raise ConfigError(f"expected {METADATA_ENTRIES} metadata entries, got {len(block.metadata.metadata)}")
    if header.data_hash != hashlib.sha256(b"".join(block.data.data)).digest():
        raise ConfigError("the block's data does not have the hash that its header states: it was changed")
    if block.ByteSize() > MAXIMUM_SIZE_BYTES:
        raise ConfigError(
            f"expected a block of at most {MAXIMUM_SIZE_BYTES} bytes, which is what orderers take, got "
            f"{block.ByteSize()}: name fewer organisations"
        )
    config = ChannelConfig.from_block(block)
    if config.sequence != 0:
        raise ConfigError(f"expected a first configuration (sequence 0), got sequence {config.sequence}")
    verify_config(config)
    return config


def verify_config(config: ChannelConfig) -> None:
    """Check a configuration for what real nodes take without a word although it breaks or weakens the channel.

    Raises:
        ConfigError: capabilities, policies or ordering nodes are missing or not as they must be; the text says which.
    """
    if CHANNEL_CAPABILITY not in config.capabilities or APPLICATION_CAPABILITY not in config.application_capabilities:
        raise ConfigError(f"expected the capabilities {CHANNEL_CAPABILITY} and {APPLICATION_CAPABILITY}, got others")
    _verify_policies(config)
    if config.consensus_type == "BFT":
        _verify_bft(config)
    elif config.consensus_type != "etcdraft" or not config.consenters:
        raise ConfigError(f"expected BFT or etcdraft with ordering nodes, got {config.consensus_type!r}")


def _verify_policies(config: ChannelConfig) -> None:
    wanted = [f"/Channel/{name}" for name in _META]
    wanted += [f"/Channel/{group}/{name}" for group in (APPLICATION, ORDERER) for name in _META]
    wanted += [BLOCK_VALIDATION, ENDORSEMENT, LIFECYCLE_ENDORSEMENT]
    for name in config.application_organisations:
        wanted += [f"/Channel/{APPLICATION}/{name}/{policy}" for policy in (*_META, "Endorsement")]
    for name in config.orderer_organisations:
        wanted += [f"/Channel/{ORDERER}/{name}/{policy}" for policy in _META]
    wanted += config.acls.values()
    if missing := sorted({path for path in wanted if path not in config.policies}):
        raise ConfigError(f"expected the channel to have the policies {', '.join(missing)}, got none of that name")


def _verify_bft(config: ChannelConfig) -> None:
    if len(config.consenters) < MINIMUM_BFT:
        raise ConfigError(f"expected at least {MINIMUM_BFT} BFT ordering nodes, got {len(config.consenters)}")
    policy = config.config.channel_group.groups[ORDERER].policies["BlockValidation"].policy
    expected = block_validation_policy(config.consenters)
    if policy.type != policies_pb2.Policy.SIGNATURE or (
        policies_pb2.SignaturePolicyEnvelope.FromString(policy.value) != expected
    ):
        raise ConfigError(
            "expected the policy BlockValidation to ask for a quorum of exactly the channel's ordering nodes, got "
            "another one: others could sign blocks"
        )


def _block(channel_id: str, group: Any, nonce: bytes, timestamp_s: int | None) -> Any:
    # There is no creator: the transaction's id is that of an empty one.
    header = common_pb2.ChannelHeader(
        type=common_pb2.CONFIG, version=1, channel_id=channel_id, tx_id=hashlib.sha256(nonce).hexdigest()
    )
    header.timestamp.seconds = int(time.time()) if timestamp_s is None else timestamp_s
    envelope = configtx_pb2.ConfigEnvelope(config=configtx_pb2.Config(channel_group=group))
    payload = common_pb2.Payload(
        header=common_pb2.Header(
            channel_header=encode(header), signature_header=encode(common_pb2.SignatureHeader(nonce=nonce))
        ),
        data=encode(envelope),
    )
    data = encode(common_pb2.Envelope(payload=encode(payload)))
    last = common_pb2.OrdererBlockMetadata(last_config=common_pb2.LastConfig(index=0))
    metadata = [b""] * METADATA_ENTRIES
    metadata[common_pb2.SIGNATURES] = encode(common_pb2.Metadata(value=encode(last)))
    metadata[common_pb2.LAST_CONFIG] = encode(common_pb2.Metadata(value=encode(last.last_config)))
    return common_pb2.Block(
        header=common_pb2.BlockHeader(number=0, data_hash=hashlib.sha256(data).digest()),
        data=common_pb2.BlockData(data=[data]),
        metadata=common_pb2.BlockMetadata(metadata=metadata),
    )
