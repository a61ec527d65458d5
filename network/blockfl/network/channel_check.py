"""What of a running channel does not fit BlockFL, told before anything is approved.

The protocol rests on a majority of the consortium's organisations endorsing what they all must agree on. A channel that
others have made may let fewer, or other, organisations decide; its peers may run with settings under which deadlines or
private data fail. Each such thing is a misfit: what was expected, what was found, and what to do.

Example:
    >>> [misfit.what for misfit in check_channel(config, ["Org1MSP", "Org2MSP"])]
    ['policy /Channel/Application/Endorsement']
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import grpc
from fabric_protos.msp import msp_config_pb2, msp_principal_pb2

from blockfl.fabric.channel.config import ENDORSEMENT, LIFECYCLE_ENDORSEMENT, ChannelConfig
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.peer import Peer
from blockfl.fabric.errors import EndorseError, PolicyError
from blockfl.fabric.identity.policy import Policy
from blockfl.fabric.identity.signing import Signer

TIME_WINDOW_S = 30
_PROBE_S = 60
_MOST_SETS = 20_000
_PEERS_OF_ONE = 3
_LARGEST_BLOCK_BYTES = 1 << 20
_SLOW_BLOCK_S = 1.0
_ROLES = ("client", "peer", "admin", "orderer")


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """One thing that does not fit.

    Attributes:
        what: The policy, organisation or setting.
        expected: What BlockFL needs.
        found: What is there.
        remedy: What the operator does about it.
        is_fatal: Whether rounds would be unsafe or would not run; otherwise they are slower or harder to operate.
    """

    what: str
    expected: str
    found: str
    remedy: str
    is_fatal: bool = True


def check_channel(
    config: ChannelConfig, endorsing: Sequence[str], members: Sequence[str] | None = None
) -> list[Misfit]:
    """Compare a channel's configuration with what the consortium needs.

    Args:
        config: The configuration in force.
        endorsing: MSP ids of the consortium's organisations that run a peer.
        members: MSP ids of all its organisations; by default those that run a peer.

    Returns:
        Every misfit, the fatal ones first.
    """
    members = endorsing if members is None else members
    misfits = [
        *_check_organisations(config, members),
        *_check_policy(config, ENDORSEMENT, endorsing),
        *_check_policy(config, LIFECYCLE_ENDORSEMENT, endorsing),
        *_check_memberships(config, members),
        *_check_anchors(config, endorsing),
        *_check_settings(config),
    ]
    return sorted(misfits, key=lambda one: not one.is_fatal)


async def check_peer(endpoint: Endpoint, signer: Signer, channel: str, organisation: str) -> list[Misfit]:
    """Ask a peer what its configuration does not tell: whether it refuses proposals of another time.

    Args:
        endpoint: The peer.
        signer: A member of the channel.
        channel: The channel.
        organisation: Whose peer it is, for the text.

    Raises:
        EndorseError: The peer cannot be reached, or refuses what is in order.
    """
    async with Peer(endpoint, signer) as peer:
        await peer.height(channel)
        try:
            await peer.height(channel, clock_offset_s=_PROBE_S)
        except EndorseError as error:
            if error.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            return []
    return [
        Misfit(
            what=f"time window of {organisation}'s peer {endpoint.address}",
            expected=f"{TIME_WINDOW_S} s",
            found=f"it takes a proposal that is {_PROBE_S} s ahead of its time",
            remedy=f"set CORE_PEER_AUTHENTICATION_TIMEWINDOW={TIME_WINDOW_S}s on every peer and restart it: deadlines "
            "are as exact as this window",
        )
    ]


def _check_organisations(config: ChannelConfig, members: Sequence[str]) -> list[Misfit]:
    present = set(config.application_msp_ids)
    misfits = []
    if strangers := sorted(present - set(members)):
        misfits.append(
            Misfit(
                what="organisations of the channel",
                expected=f"only the consortium's: {', '.join(sorted(members))}",
                found=f"{', '.join(strangers)} as well",
                remedy="make them members of the consortium, or use a channel of the consortium's own: every "
                "organisation of the channel counts in its policies and reads its public records",
            )
        )
    if missing := sorted(set(members) - present):
        misfits.append(
            Misfit(
                what="organisations of the channel",
                expected=f"all of the consortium's: {', '.join(sorted(members))}",
                found=f"{', '.join(missing)} missing",
                remedy="add each of them to the channel first: blockfl network config add",
            )
        )
    return misfits


def _check_policy(config: ChannelConfig, path: str, endorsing: Sequence[str]) -> list[Misfit]:
    needed = len(endorsing) // 2 + 1
    expected = f"any {needed} of the {len(endorsing)} organisations that run a peer, and no fewer"
    wanted = "MAJORITY Endorsement"
    if set(config.application_msp_ids) - set(endorsing):
        wanted = f"the signatures of {needed} of the peers of {', '.join(sorted(endorsing))}"
    remedy = f"change {path} to {wanted} by a channel update that the administrators sign"
    try:
        policy = config.policies.get(path)
    except PolicyError as error:
        return [Misfit(what=f"policy {path}", expected=expected, found=str(error), remedy=remedy)]
    if math.comb(len(endorsing), needed) > _MOST_SETS:
        found = f"{len(endorsing)} organisations, too many to try every set of them"
        return [Misfit(what=f"policy {path}", expected=expected, found=found, remedy="compare it yourself")]
    if enough := _first_set(policy, endorsing, needed - 1, satisfied=True):
        found = f"{', '.join(enough)} are enough" if len(enough) > 1 else f"{enough[0]} alone is enough"
        return [Misfit(what=f"policy {path}", expected=expected, found=found, remedy=remedy)]
    if lacking := _first_set(policy, endorsing, needed, satisfied=False):
        found = f"{', '.join(lacking)} are not enough"
        return [Misfit(what=f"policy {path}", expected=expected, found=found, remedy=remedy)]
    return []


def _first_set(policy: Policy, msp_ids: Sequence[str], size: int, *, satisfied: bool) -> tuple[str, ...] | None:
    """Return the first set of so many organisations whose peers satisfy a policy, or do not."""
    standing: Any = _StandIns()
    for names in combinations(sorted(msp_ids), size):
        # An organisation may run several peers: a policy must not take two of one for two organisations.
        peers: Any = [name for name in names for _ in range(_PEERS_OF_ONE)]
        if policy.satisfied_by(peers, standing) == satisfied:
            return names
    return None


class _StandIns:
    """Judges principals as the channel's memberships would, for peers that are only an MSP id."""

    def satisfies(self, msp_id: str, principal: Any) -> bool:
        if principal.principal_classification != msp_principal_pb2.MSPPrincipal.ROLE:
            return False
        role = msp_principal_pb2.MSPRole.FromString(principal.principal)
        return bool(
            role.msp_identifier == msp_id
            and role.role in (msp_principal_pb2.MSPRole.PEER, msp_principal_pb2.MSPRole.MEMBER)
        )


def _check_memberships(config: ChannelConfig, members: Sequence[str]) -> list[Misfit]:
    misfits = []
    for name, organisation in config.application_organisations.items():
        if organisation.msp_id not in members:
            continue
        encoded = config.config.channel_group.groups["Application"].groups[name].values["MSP"].value
        fabric = msp_config_pb2.FabricMSPConfig.FromString(msp_config_pb2.MSPConfig.FromString(encoded).config)
        units = fabric.fabric_node_ous
        missing = [role for role in _ROLES if not units.HasField(f"{role}_ou_identifier")]
        if not units.enable or missing:
            misfits.append(
                Misfit(
                    what=f"node OUs of {organisation.msp_id}",
                    expected=f"enabled, with the units {', '.join(_ROLES)}",
                    found=f"without {', '.join(missing)}" if units.enable else "disabled",
                    remedy="enable NodeOUs in the organisation's MSP by a channel update: without them nobody has the "
                    "role peer, and no endorsement counts",
                )
            )
        if not fabric.tls_root_certs:
            misfits.append(
                Misfit(
                    what=f"TLS authorities of {organisation.msp_id}",
                    expected="at least one",
                    found="none",
                    remedy="add the organisation's TLS root to its MSP by a channel update",
                )
            )
    return misfits


def _check_anchors(config: ChannelConfig, endorsing: Sequence[str]) -> list[Misfit]:
    return [
        Misfit(
            what=f"anchor peers of {organisation.msp_id}",
            expected="at least one",
            found="none",
            remedy="name a peer as anchor by a channel update: without one the other organisations' gateways do not "
            "find this organisation's peer",
        )
        for organisation in config.application_organisations.values()
        if organisation.msp_id in endorsing and not organisation.anchor_peers
    ]


def _check_settings(config: ChannelConfig) -> list[Misfit]:
    misfits = []
    if "V2_5" not in config.application_capabilities:
        misfits.append(
            Misfit(
                what="application capabilities",
                expected="V2_5",
                found=", ".join(sorted(config.application_capabilities)),
                remedy="raise the capability by a channel update once every peer is new enough: sealed updates cannot "
                "be purged without it",
                is_fatal=False,
            )
        )
    if config.batch.absolute_max_bytes < _LARGEST_BLOCK_BYTES:
        misfits.append(
            Misfit(
                what="BatchSize.AbsoluteMaxBytes",
                expected=f"at least {_LARGEST_BLOCK_BYTES} bytes",
                found=f"{config.batch.absolute_max_bytes} bytes",
                remedy="raise it by a channel update: larger transactions are refused by the ordering nodes",
            )
        )
    if config.consensus_type != "BFT" and config.batch.timeout_s > _SLOW_BLOCK_S:
        misfits.append(
            Misfit(
                what="BatchTimeout",
                expected=f"at most {_SLOW_BLOCK_S:g} s",
                found=f"{config.batch.timeout_s:g} s",
                remedy="lower it by a channel update: a round waits for about twenty blocks",
                is_fatal=False,
            )
        )
    return misfits
