"""Organisations that join a running network: taken into its description, onto its channel, into its contract.

The operator of the network writes the newcomer into ``consortium.yaml`` and raises ``sequence``; the rest is done
here and by what brings the contract up. It may be interrupted anywhere and run again. Here the administrators' keys of
all members are at hand; where they are not, the same is done by files (see `administration`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.deliver import ORDERER_DELIVER, read_config
from blockfl.fabric.errors import EndorseError, FabricError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.identities import load_administrator, read_roots, write_file
from blockfl.network.layout import Layout
from blockfl.network.node import node_name
from blockfl.network.ordering import orderer_endpoints
from blockfl.network.participation import ChannelNodes
from blockfl.network.source import Fault
from blockfl.network.volume import read_genesis

Report = Callable[[str], None]
_POLL_S = 0.1
_ASKED_S = 5.0
_STRANGER_S = 1.0


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


def list_newcomers(hosts: Sequence[Host]) -> list[Host]:
    """Return those whose organisations were not there when the channel was made.

    Raises:
        NetworkError: The channel's first block cannot be read.
    """
    founders = read_genesis(hosts[0].layout).application_organisations
    return [one for one in hosts if one.name not in founders]


async def admit(newcomers: Sequence[Host], founders: Sequence[Host], report: Report, user: str = "admin") -> None:
    """Let the newcomers join the channel, each by an update that every member's administrator signs.

    Args:
        newcomers: Their parts; their nodes run perhaps not yet.
        founders: The others' parts; their nodes run.
        report: Told who has joined.
        user: Whose connection profiles are used, and so which addresses.

    Raises:
        NetworkError: An update is refused, or a newcomer's keys are not those that the channel knows.
    """
    members = list(founders)
    try:
        for newcomer in newcomers:
            administrators = [Administrator(ConnectionProfile.load(one.layout.profile(user))) for one in members]
            if await _admit(newcomer, administrators):
                report(f"{newcomer.name} has joined the channel {newcomer.load_consortium().channel}")
            members.append(newcomer)
    except FabricError as error:
        raise NetworkError(f"an organisation cannot join the channel: {error}") from error


async def _admit(newcomer: Host, administrators: Sequence[Administrator]) -> bool:
    first = administrators[0]
    config = await first.read()
    membership = newcomer.provision().membership
    if newcomer.name in config.application_organisations:
        _require_known(newcomer, config)
        return False
    update = first.add(config, membership)
    await first.submit(config, update, [one.sign(update) for one in administrators])
    return True


async def wait_for_admission(host: Host, report: Report, timeout_s: float) -> None:
    """Wait until the members have put an organisation onto the channel: then ordering nodes give it blocks.

    Args:
        host: The organisation's part.
        report: Told that it is waited for.
        timeout_s: How long.

    Raises:
        NetworkError: They have not in time, or have put other keys onto it.
    """
    deadline, told = time.monotonic() + timeout_s, False
    while (config := await _read_as_stranger(host)) is None:
        if not told:
            report(f"waiting until the members have put {host.name} onto the channel with {host.layout.member}")
            told = True
        if time.monotonic() > deadline:
            raise NetworkError(f"{host.name} is not on the channel after {timeout_s:.0f} s: say the same again to wait")
        await asyncio.sleep(_STRANGER_S)
    _require_known(host, config)


async def _read_as_stranger(host: Host) -> ChannelConfig | None:
    """Return the configuration in force, from a founder's ordering node; None: none tells it to this organisation."""
    signer, channel = load_administrator(host.organisation, host.layout), host.load_consortium().channel
    for endpoint in orderer_endpoints(read_genesis(host.layout)):
        try:
            async with asyncio.timeout(_ASKED_S):
                config = await read_config(endpoint, channel, signer, method=ORDERER_DELIVER)
        except (FabricError, TimeoutError):
            continue
        return config if host.name in config.application_organisations else None
    return None


def _require_known(host: Host, config: ChannelConfig) -> None:
    """Check that the channel knows an organisation's present authorities."""
    roots = read_roots(host.layout.tls_roots)
    if not set(config.msps[host.organisation.msp_id].tls_roots) & set(roots):
        raise NetworkError(
            f"{host.layout.tls_roots} is not one that the channel knows: put the former keys of {host.name} back"
        )


async def list_removed(founders: Sequence[Host], timeout_s: float, user: str = "admin") -> list[Host]:
    """Return those founders whom the channel has put off since, by the newest configuration that a peer has.

    Args:
        founders: Their parts; one of their peers at least is up.
        timeout_s: How long to ask again while no peer answers: a busy machine answers late.
        user: Who asks.

    Raises:
        NetworkError: No peer has answered in time; with what stands in the way of each.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answers = await _ask_all(founders, user)
        found = [one for one in answers if isinstance(one, ChannelConfig)]
        if found:
            break
        if time.monotonic() > deadline:
            obstacles = "".join(f"\n{host.name}: {one}" for host, one in zip(founders, answers, strict=True))
            raise NetworkError(f"no peer has said for {timeout_s:.0f} s who is on the channel{obstacles}")
        await asyncio.sleep(_STRANGER_S)
    newest = max(found, key=lambda config: config.sequence)
    return [host for host in founders if host.name not in newest.application_organisations]


async def _ask_all(hosts: Sequence[Host], user: str) -> list[ChannelConfig | str]:
    """Return the configuration in force as each host's peer has it, or why it did not tell."""

    async def read(host: Host) -> ChannelConfig | str:
        try:
            async with asyncio.timeout(_ASKED_S):
                return await Administrator(ConnectionProfile.load(host.layout.profile(user))).read()
        except FabricError as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {_ASKED_S:g} s"

    return list(await asyncio.gather(*map(read, hosts)))


async def wait_for_blocks(hosts: Sequence[Host], timeout_s: float, user: str = "admin") -> None:
    """Wait until every peer has all blocks that one of them has now: one that joins fetches them.

    Raises:
        NetworkError: One does not in time.
    """
    nodes = [(one.name, ChannelNodes(one, user=user)) for one in hosts if one.organisation.has_peer]
    deadline = time.monotonic() + timeout_s
    wanted = max(await asyncio.gather(*(_read_height(one) for _, one in nodes)))

    async def wait(name: str, one: ChannelNodes) -> None:
        while (height := await _read_height(one)) < wanted:
            if time.monotonic() > deadline:
                raise NetworkError(
                    f"{node_name('peer', name)} has {height} of {wanted} blocks after {timeout_s:.0f} s; its log tells "
                    "why"
                )
            await asyncio.sleep(_POLL_S)

    await asyncio.gather(*(wait(name, one) for name, one in nodes))


async def _read_height(nodes: ChannelNodes) -> int:
    try:
        return await nodes.read_peer_height() or 0
    except EndorseError:
        # Until it has the configuration that let it in, its own administrators are strangers to it.
        return 0
