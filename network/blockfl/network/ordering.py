"""Whether ordering goes on through a change of the ordering nodes: who is absent, and how many may be.

A node that is new, or has a new key, counts as absent until it has begun with it; so does one that does not answer, or
that is far behind the others: it answers, and takes no part.

    silent = await find_silent(config, signer)
    require_quorum(config, wanted, silent)
"""

import asyncio
from collections.abc import Mapping, Sequence

from blockfl.fabric.channel.config import ChannelConfig, Consenter, OrdererOrganisation
from blockfl.fabric.channel.renewal import is_issued
from blockfl.fabric.client.deliver import ORDERER_DELIVER, read_height, seek_newest, sign_seek
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.errors import ConfigError, FabricError
from blockfl.fabric.identity.signing import Signer, parse_certificate
from blockfl.network.stall import FAR_BEHIND

_ASKED_S = 10.0


def orderer_endpoints(config: ChannelConfig) -> list[Endpoint]:
    """Return the ordering nodes that a configuration names, with the authorities of their TLS certificates."""
    return [
        Endpoint(address=address, tls_roots_pem=config.msps[organisation.msp_id].tls_authorities_pem)
        for organisation in config.orderer_organisations.values()
        for address in organisation.endpoints
    ]


def address_of(one: Consenter) -> str:
    """Return where an ordering node is reached."""
    return f"{one.host}:{one.port}"


def count_tolerated(consensus: str, nodes: int) -> int:
    """Return how many of the ordering nodes may be absent while ordering goes on."""
    return (nodes - 1) // 3 if consensus == "BFT" else (nodes - 1) // 2


def describe_tolerance(config: ChannelConfig, wanted: ChannelConfig) -> str:
    """Return a warning where an update leaves fewer ordering nodes that may be absent; nothing if it does not."""
    before, after = (count_tolerated(one.consensus_type, len(one.consenters)) for one in (config, wanted))
    if after >= before:
        return ""
    return (
        f"warning: of {len(wanted.consenters)} ordering nodes {after or 'none'} may be absent, of the "
        f"{len(config.consenters)} before {before}: let another organisation with an ordering node join first"
    )


def list_beginning(config: ChannelConfig, wanted: ChannelConfig) -> list[str]:
    """Return the addresses of ordering nodes that an update adds, or gives other keys."""
    known = {_identify(one) for one in config.consenters}
    return [address_of(one) for one in wanted.consenters if _identify(one) not in known]


async def find_silent(config: ChannelConfig, signer: Signer) -> list[str]:
    """Return the addresses of ordering nodes that do not give the channel's newest block when they are asked for it."""

    async def ask(endpoint: Endpoint) -> int:
        seek = sign_seek(seek_newest(), config.channel_id, signer, endpoint.client_certificate_hash)
        try:
            async with asyncio.timeout(_ASKED_S), endpoint.open_channel() as channel:
                return await read_height(channel, seek, method=ORDERER_DELIVER)
        except (FabricError, TimeoutError):
            return 0

    endpoints = orderer_endpoints(config)
    heights = await asyncio.gather(*map(ask, endpoints))
    return name_nodes(config, list_behind(dict(zip((one.address for one in endpoints), heights, strict=True))))


def name_nodes(config: ChannelConfig, endpoints: Sequence[str]) -> list[str]:
    """Return the addresses by which ordering nodes know those that peers reach at endpoints: guards are in between."""
    known = {address_of(one) for one in config.consenters}
    if known.issuperset(endpoints):
        return list(endpoints)
    behind = {
        endpoint: address_of(node)
        for organisation in config.orderer_organisations.values()
        for endpoint, node in zip(organisation.endpoints, list_nodes(config, organisation), strict=False)
    }
    return [one if one in known else behind.get(one, one) for one in endpoints]


def list_nodes(config: ChannelConfig, organisation: OrdererOrganisation) -> list[Consenter]:
    """Return an organisation's ordering nodes; raft does not say whose a node is, but its TLS authority does."""
    roots = config.msps[organisation.msp_id].tls_roots

    def owns(one: Consenter) -> bool:
        if one.msp_id:
            return one.msp_id == organisation.msp_id
        certificate = parse_certificate(one.server_tls_certificate, f"the ordering node {address_of(one)}")
        return address_of(one) in organisation.endpoints or any(is_issued(certificate, root) for root in roots)

    return [one for one in config.consenters if owns(one)]


def list_behind(heights: Mapping[str, int]) -> list[str]:
    """Return those that have far fewer blocks than another; 0 is the height of a node that does not answer."""
    newest = max(heights.values(), default=0)
    return [address for address, height in heights.items() if not height or height + FAR_BEHIND < newest]


def require_quorum(config: ChannelConfig, wanted: ChannelConfig, silent: Sequence[str]) -> None:
    """Check that ordering goes on while those nodes begin that an update adds or gives other keys.

    Args:
        config: the configuration in force.
        wanted: what the update leads to.
        silent: addresses of nodes that do not answer.

    Raises:
        ConfigError: too many would be absent at once.
    """
    beginning = list_beginning(config, wanted)
    if not beginning:
        return
    gone = [
        address_of(one) for one in wanted.consenters if address_of(one) in silent and address_of(one) not in beginning
    ]
    tolerated = count_tolerated(wanted.consensus_type, len(wanted.consenters))
    if gone and len(beginning) + len(gone) > tolerated:
        raise ConfigError(
            f"{', '.join(gone)} does not answer, or is far behind: with {', '.join(beginning)}, which begins with this "
            f"update, more than the {tolerated} of {len(wanted.consenters)} ordering nodes would be absent that may "
            "be, and ordering would stand still until enough have begun. A keeper has a node that is behind begin anew "
            "within two minutes: submit again then, bring it back yourself, or submit with --force"
        )


def _identify(one: Consenter) -> tuple[str, bytes, bytes]:
    return address_of(one), one.identity_pem, one.server_tls_certificate
