"""Organisations that join a running network: taken into its description, onto its channel, into its contract.

Whoever brings the network up writes the newcomer into ``consortium.yaml`` and raises ``sequence``; the rest is done
here and by what brings the contract up. It may be interrupted anywhere and run again. Here the administrators' keys of
all members are at hand; where they are not, the same is done by files (see `administration`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import EndorseError, FabricError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator, Membership
from blockfl.network.description import Description, Organisation
from blockfl.network.errors import NetworkError
from blockfl.network.identities import write_file
from blockfl.network.layout import Layout
from blockfl.network.membership import ChannelNodes
from blockfl.network.node import node_name
from blockfl.network.source import Fault

Report = Callable[[str], None]
_POLL_S = 0.1


def extend(layout: Layout, description: Description, otherwise: str) -> Description:
    """Take organisations that a description adds into the network's own.

    Args:
        layout: The network's directory.
        description: All former organisations as they were, and new ones.
        otherwise: What to do if it is not that, for the error.

    Returns:
        The description.

    Raises:
        NetworkError: It changes anything else.
    """
    former = Description.load(layout.description)
    if description == former:
        return description
    try:
        description.check_extends(former)
    except Fault as fault:
        place = ".".join(str(part) for part in fault.place)
        raise NetworkError(
            f"{layout.directory} holds a network of another description ({layout.description}), and this one does not "
            f"just add organisations ({place}: {fault}); {otherwise}"
        ) from fault
    write_description(layout, description)
    return description


def write_description(layout: Layout, description: Description) -> None:
    """Write a network's own description."""
    write_file(layout.description, description.dump().encode())


def list_newcomers(description: Description, layout: Layout) -> list[Organisation]:
    """Return the organisations that were not there when the channel was made.

    Raises:
        NetworkError: The channel's first block cannot be read.
    """
    try:
        founders = ChannelConfig.from_block(decode_block(layout.genesis.read_bytes())).application_organisations
    except (OSError, FabricError) as error:
        raise NetworkError(f"{layout.genesis}: the channel's first block cannot be read: {error}") from error
    return [one for one in description.organisations if one.name not in founders]


async def admit(description: Description, layout: Layout, report: Report, user: str = "admin") -> None:
    """Let the newcomers join the channel, each by an update that every member's administrator signs.

    Args:
        description: The network; its peers and ordering nodes run, those of newcomers perhaps not yet.
        layout: Where the administrators' keys are.
        report: Told who has joined.
        user: Whose connection profiles are used, and so which addresses.

    Raises:
        NetworkError: An update is refused, or a newcomer's keys are not those that the channel knows.
    """
    newcomers = list_newcomers(description, layout)
    members = [one for one in description.organisations if one not in newcomers]
    try:
        for newcomer in newcomers:
            administrators = [
                Administrator(ConnectionProfile.load(layout.organisation(one.name).profile(user))) for one in members
            ]
            if await _admit(newcomer, administrators, layout):
                report(f"{newcomer.name} has joined the channel {description.channel}")
            members.append(newcomer)
    except FabricError as error:
        raise NetworkError(f"an organisation cannot join the channel: {error}") from error


async def _admit(newcomer: Organisation, administrators: Sequence[Administrator], layout: Layout) -> bool:
    first = administrators[0]
    config = await first.read()
    membership = describe_membership(newcomer, layout)
    if newcomer.name in config.application_organisations:
        if config.msps[newcomer.name].tls_roots != tuple(pem.encode() for pem in membership.tls_roots):
            raise NetworkError(
                f"{layout.organisation(newcomer.name).tls_roots} is not one that the channel knows: put the former "
                f"keys of {newcomer.name} back"
            )
        return False
    update = first.add(config, membership)
    await first.submit(config, update, [one.sign(update) for one in administrators])
    return True


def describe_membership(organisation: Organisation, layout: Layout) -> Membership:
    """Return what the others must know of an organisation."""
    place = layout.organisation(organisation.name)
    return Membership(
        organisation=organisation.name,
        signing_roots=[place.signing_authority("certificate").read_text()],
        tls_roots=[place.tls_authority("certificate").read_text()],
        anchor=f"{organisation.peer_host}:{organisation.ports.peer}",
    )


async def wait_for_blocks(description: Description, layout: Layout, timeout_s: float, user: str = "admin") -> None:
    """Wait until every peer has all blocks that one of them has now: one that joins fetches them.

    Raises:
        NetworkError: One does not in time.
    """
    nodes = ChannelNodes(description, layout, user=user)
    deadline = time.monotonic() + timeout_s
    wanted = max(await asyncio.gather(*(_read_height(nodes, one) for one in description.organisations)))

    async def wait(organisation: Organisation) -> None:
        while (height := await _read_height(nodes, organisation)) < wanted:
            if time.monotonic() > deadline:
                raise NetworkError(
                    f"{node_name('peer', organisation.name)} has {height} of {wanted} blocks after {timeout_s:.0f} s; "
                    "its log tells why"
                )
            await asyncio.sleep(_POLL_S)

    await asyncio.gather(*map(wait, description.organisations))


async def _read_height(nodes: ChannelNodes, organisation: Organisation) -> int:
    try:
        return await nodes.read_peer_height(organisation) or 0
    except EndorseError:
        # Until it has the configuration that let it in, its own administrators are strangers to it.
        return 0
