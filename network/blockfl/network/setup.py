"""What the set-up containers run: ``python -m blockfl.network.setup provision|bring-up DIRECTORY``.

``provision`` writes all that the nodes read: keys, certificates, the channel's first block, settings. ``bring-up``
joins the running nodes to the channel and brings the contract up. What is done already is left as it is, so both may
run again at any time. Exit codes: 0 done, 1 not possible, with the reason; 2 wrong usage.
"""

import asyncio
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from blockfl.network.admission import admit, extend, list_newcomers, wait_for_blocks, write_description
from blockfl.network.code_change import Agreement
from blockfl.network.compose import CONNECTION, CONTAINER
from blockfl.network.contract_service import provision_service
from blockfl.network.deployment import deploy
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import found, list_hosts
from blockfl.network.host import Host
from blockfl.network.identities import USERS, make_profile, write_file
from blockfl.network.layout import Layout
from blockfl.network.node import make_connection
from blockfl.network.organisation import Organisation
from blockfl.network.participation import ChannelNodes
from blockfl.network.state import NetworkState
from blockfl.network.volume import claim_volume
from blockfl.protocol.records import Consortium

_READY_S = 300.0
_LAST_ID: Final = 2**32 - 2
"""What follows stands for nobody."""
_USAGE = "usage: python -m blockfl.network.setup provision|bring-up DIRECTORY"


def provision(directory: Path, description: Description, project: str, agreement: Agreement | None = None) -> None:
    """Write everything that a network's containers read.

    Args:
        directory: The network's directory.
        description: The network.
        project: Name of the Compose project, by which the containers are found.
        agreement: Which code of the contract may take the place of the network's; by default none.

    Raises:
        NetworkError: The directory holds another network, or something in it does not fit.
    """
    layout = Layout(directory)
    _keep_description(layout, description)
    hosts = found(description.in_containers(), layout, agreement)
    for host, outside in zip(hosts, description.organisations, strict=True):
        provision_service(host.organisation, host.layout, description.consortium)
        _provision_profiles(host, outside, description.consortium)
        _provision_volumes(host)
    try:
        state = NetworkState(ledger="compose", project=project)
    except ValidationError as error:
        raise NetworkError(
            f"expected the name of a Compose project in BLOCKFL_PROJECT (a-z, 0-9, - and _), got {project!r}"
        ) from error
    state.save(layout.state)


def bring_up(directory: Path, agreement: Agreement) -> None:
    """Join every node to the channel and bring the contract up; the nodes run.

    Args:
        directory: The network's directory.
        agreement: Which code of the contract may take the place of the one in force.

    Raises:
        NetworkError: A step failed for good.
    """
    layout = Layout(directory)
    description = Description.load(layout.description)
    hosts = list_hosts(description.in_containers(), layout)
    user = f"{CONTAINER}-admin"
    newcomers = list_newcomers(hosts)
    founders = [one for one in hosts if one not in newcomers]
    asyncio.run(_join(founders, user))
    if newcomers:
        asyncio.run(admit(newcomers, founders, _report, user))
        asyncio.run(_join(newcomers, user))
    asyncio.run(wait_for_blocks(hosts, _READY_S, user))
    _report(f"{len(description.orderers)} ordering nodes and {len(hosts)} peers are on the channel")
    asyncio.run(deploy(hosts, _report, agreement, _READY_S, user))


async def _join(hosts: Sequence[Host], user: str) -> None:
    nodes = [(ChannelNodes(one, user=user), one.organisation.orderer) for one in hosts]
    await asyncio.gather(*(one.join_orderer(_READY_S) for one, orders in nodes if orders))
    await asyncio.gather(*(one.join_peer(_READY_S) for one, _ in nodes))


def take_over(directory: Path, owner: tuple[int, int]) -> None:
    """Give an empty directory that Docker has made as root to its owner, and become that owner for good.

    Raises:
        NetworkError: The directory belongs to somebody else.
    """
    uid, gid = owner
    found = directory.stat().st_uid
    if found == 0 and uid != 0 and not any(directory.iterdir()):
        directory.chmod(0o700)
        os.chown(directory, uid, gid)
    elif found != uid:
        raise NetworkError(
            f"the network's directory belongs to the user {found}, and the containers run as {uid}: "
            f"set BLOCKFL_UID={found} (and BLOCKFL_GID) in .env, or run: chown -R {uid}:{gid} on it"
        )
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one step and return the process's exit code."""
    match arguments:
        case ["provision" | "bring-up" as step, directory]:
            pass
        case _:
            sys.stderr.write(f"{_USAGE}\n")
            return 2
    agreement = Agreement(
        upgrade=environment.get("BLOCKFL_UPGRADE", ""), downgrade=environment.get("BLOCKFL_DOWNGRADE", "")
    )
    try:
        if step == "bring-up":
            bring_up(Path(directory), agreement)
        else:
            if os.getuid() == 0 and "BLOCKFL_OWNER" in environment:
                take_over(Path(directory), _parse_owner(environment["BLOCKFL_OWNER"]))
            description = Description.parse(environment.get("BLOCKFL_CONSORTIUM", ""), "BLOCKFL_CONSORTIUM")
            provision(Path(directory), description, environment.get("BLOCKFL_PROJECT", ""), agreement)
            _report(f"network {description.network}: keys, first block and settings are there")
    except NetworkError as error:
        sys.stderr.write(f"error: {error} ({directory}: the network's directory, BLOCKFL_STATE)\n")
        return 1
    return 0


def _keep_description(layout: Layout, description: Description) -> None:
    if not layout.description.exists():
        write_description(layout, description)
        return
    extend(
        layout,
        description,
        "name another directory (BLOCKFL_STATE), or write docker-compose.yaml anew from the network's own description",
    )


def _provision_profiles(host: Host, outside: Organisation, consortium: Consortium) -> None:
    """Write how users reach the peer, from outside and from containers, and how it reaches the contract service."""
    place, inside = host.layout, host.organisation
    for user in USERS:
        make_profile(consortium, outside, user).save(place.profile(user))
        make_profile(consortium, inside, user).save(place.profile(f"{CONTAINER}-{user}"))
    connection = make_connection(
        inside.contract_address,
        place.tls_roots.read_text(),
        place.node("contract", "client-certificate.pem").read_text(),
        place.node("contract", "client-key.pem").read_text(),
    )
    (content,) = connection.values()
    write_file(place.node("peer", CONNECTION), content.encode(), private=True)


def _provision_volumes(host: Host) -> None:
    """Make the directories that containers write, or check that they belong to this network."""
    place, genesis = host.layout, host.layout.genesis.read_bytes()
    for kind in ("peer", "orderer") if host.organisation.orderer else ("peer",):
        claim_volume(place.data(kind), genesis)
    for role, kind in (("committee", "aggregator"), ("institution", "agent")):
        if role in host.organisation.roles:
            place.data(kind).mkdir(parents=True, exist_ok=True, mode=0o700)


def _parse_owner(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    if not all(re.fullmatch("[0-9]{1,10}", one) and int(one) <= _LAST_ID for one in (uid, gid)):
        raise NetworkError(
            f"expected numbers in BLOCKFL_UID and BLOCKFL_GID, got {text[:100]}; the largest is {_LAST_ID}"
        )
    return int(uid), int(gid)


def _report(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
