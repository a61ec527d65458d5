"""Which organisations of a channel endorse: all of them by Fabric's own rule, or a list where some run no peer.

Fabric's ``MAJORITY Endorsement`` counts every organisation of the channel, also one without a peer, which can never
endorse. Where there is such a one, the channel's policies name those that count: more than half of them endorse.

    endorsing = list_endorsing(config)
"""

from __future__ import annotations

from typing import Any, Final

from fabric_protos.common import policies_pb2
from fabric_protos.msp import msp_principal_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import APPLICATION, ChannelConfig
from blockfl.fabric.channel.group import add_endorsing
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.identity.policy import majority_policy

_POLICIES: Final = ("Endorsement", "LifecycleEndorsement")


def list_endorsing(config: ChannelConfig) -> tuple[str, ...]:
    """Return the MSP ids of the organisations of which more than half endorse what all must agree on, ascending."""
    named = _read_named(config.config.channel_group)
    return tuple(sorted(config.application_msp_ids)) if named is None else named


def change_endorsing(group: Any, config: ChannelConfig, *, added: str = "", removed: str = "", has_peer: bool) -> None:
    """Have a channel's policies follow an organisation that comes or goes.

    Args:
        group: the configuration to change (common.ConfigGroup of the channel).
        config: the configuration in force.
        added: MSP id of an organisation that comes.
        removed: MSP id of one that goes.
        has_peer: whether the one that comes runs a peer.
    """
    if _read_named(config.config.channel_group) is None and (has_peer or not added):
        return
    endorsing = {*list_endorsing(config), *([added] if added and has_peer else [])} - {removed}
    add_endorsing(group.groups[APPLICATION], sorted(endorsing))


def _read_named(group: Any) -> tuple[str, ...] | None:
    """The organisations that the policies name; None where they are others than such a list."""
    named = {_read_policy(group.groups[APPLICATION].policies[name].policy) for name in _POLICIES}
    return named.pop() if len(named) == 1 else None


def _read_policy(policy: Any) -> tuple[str, ...] | None:
    if policy.type != policies_pb2.Policy.SIGNATURE:
        return None
    try:
        envelope = parse(policies_pb2.SignaturePolicyEnvelope, policy.value)
        roles = [parse(msp_principal_pb2.MSPRole, one.principal) for one in envelope.identities]
    except DecodeError:
        return None
    names = tuple(sorted(role.msp_identifier for role in roles))
    return names if envelope == majority_policy(names) else None
