"""One administrator may nest its organisation's own policy as deep as peers take it: nothing else fails for that."""

from __future__ import annotations

from typing import Any

import pytest
from fabric_protos.common import configtx_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.difference import describe_difference
from blockfl.fabric.encoding.wire import encode_bytes, encode_prefix
from blockfl.fabric.identity.policy import role_principal
from support.corpus_world import CHANNEL, corpus_config, corpus_organisations

READERS = "/Channel/Application/alpha/Readers"


def with_readers(depth: int) -> Any:
    rule = b"\x08\x00"
    for _ in range(depth):
        inner = b"\x08\x01" + encode_prefix(2, len(rule)) + rule
        rule = encode_bytes(2, inner)
    principal = role_principal("alpha", "member").SerializeToString()
    config = configtx_pb2.Config()
    config.CopyFrom(corpus_config().config)
    policy = config.channel_group.groups["Application"].groups["alpha"].policies["Readers"].policy
    policy.value = encode_bytes(2, rule) + encode_bytes(3, principal)
    return config


@pytest.mark.parametrize("depth", [1, 48, 49, 50, 2000])
def test_a_nested_policy_in_a_configuration_is_read_and_evaluated(depth: int) -> None:
    config = ChannelConfig.from_config(with_readers(depth), CHANNEL)
    alpha = corpus_organisations()["alpha"].signer("user", "client").identity
    beta = corpus_organisations()["beta"].signer("user", "client").identity
    assert config.policies.satisfied_by(READERS, [beta, alpha])
    assert not config.policies.satisfied_by(READERS, [beta])
    assert config.policies.satisfied_by("/Channel/Application/Readers", [beta])


def test_administrators_are_told_of_a_deep_policy_as_of_any_other() -> None:
    before, after = corpus_config(), ChannelConfig.from_config(with_readers(2000), CHANNEL)
    assert any("Readers" in line for line in describe_difference(before, after))
