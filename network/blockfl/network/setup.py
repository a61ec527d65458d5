"""What the set-up containers run: ``python -m blockfl.network.setup provision|bring-up DIRECTORY``.

The directory is that of a machine with all organisations, or one organisation's own.
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

from blockfl.network.admission import (
    admit,
    extend,
    list_newcomers,
    wait_for_admission,
    wait_for_blocks,
    write_description,
)
from blockfl.network.certificates import watch_certificates
from blockfl.network.code_change import Agreement, agree_on_code
from blockfl.network.containers import CONTAINER, write_connection
from blockfl.network.contract_service import provision_service
from blockfl.network.deployment import deploy
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import found, list_hosts
from blockfl.network.host import Host
from blockfl.network.identities import USERS, make_profile
from blockfl.network.layout import Layout, is_part
from blockfl.network.organisation import Organisation
from blockfl.network.participation import ChannelNodes
from blockfl.network.state import NetworkState
from blockfl.network.volume import claim_volume

_READY_S = 300.0
_PATIENCE_S = 86_400.0
"""How long one organisation's part waits for the others' hosts."""
_LAST_ID: Final = 2**32 - 2
"""What follows stands for nobody."""
_USAGE = "usage: python -m blockfl.network.setup provision|bring-up DIRECTORY"


def provision(directory: Path, description: Description, project: str, agreement: Agreement | None = None) -> None:
    """Write everything that the containers of a machine with all organisations read.

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
    for host in found(description.in_containers(), layout, agreement):
        _prepare(host, description.organisation(host.name))
    _save_state(layout, project)


def provision_part(directory: Path, project: str, agreement: Agreement) -> None:
    """Write everything that the containers of one organisation read, on its own host.

    Args:
        directory: The organisation's own.
        project: Name of the Compose project, by which the containers are found.
        agreement: Which code of the contract may take the place of the network's.

    Raises:
        NetworkError: Nothing is founded yet, or something in the directory does not fit.
    """
    outside = Host.open(directory)
    host, founded = outside.in_containers(), outside.require_founding()
    agree_on_code(host.layout.package, founded.terms.contract, agreement)
    host.agree(founded, host.load_consortium())
    _prepare(host, outside.organisation)
    _save_state(Layout(directory), project)


def bring_up(directory: Path, agreement: Agreement) -> None:
    """Join every node to the channel and bring the contract up; the nodes run.

    Args:
        directory: The network's directory, or one organisation's.
        agreement: Which code of the contract may take the place of the one in force.

    Raises:
        NetworkError: A step failed for good.
    """
    if is_part(directory):
        hosts, patience_s = [Host.open(directory).in_containers()], _PATIENCE_S
    else:
        layout = Layout(directory)
        hosts = list_hosts(Description.load(layout.description).in_containers(), layout)
        patience_s = _READY_S
    user = f"{CONTAINER}-admin"
    newcomers = list_newcomers(hosts)
    founders = [one for one in hosts if one not in newcomers]
    asyncio.run(_join(founders, user, _READY_S))
    if newcomers and founders:
        asyncio.run(admit(newcomers, founders, _report, user))
    for newcomer in newcomers if not founders else ():
        asyncio.run(wait_for_admission(newcomer, _report, patience_s))
    asyncio.run(_join(newcomers, user, patience_s))
    asyncio.run(wait_for_blocks(hosts, _READY_S, user))
    ordering = sum(one.organisation.orderer for one in hosts)
    _report(f"{ordering} ordering nodes and {len(hosts)} peers are on the channel")
    asyncio.run(deploy(hosts, _report, agreement, patience_s, user))


async def _join(hosts: Sequence[Host], user: str, timeout_s: float) -> None:
    nodes = [(ChannelNodes(one, user=user), one.organisation.orderer) for one in hosts]
    await asyncio.gather(*(one.join_orderer(timeout_s) for one, orders in nodes if orders))
    await asyncio.gather(*(one.join_peer(timeout_s) for one, _ in nodes))


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
            project = environment.get("BLOCKFL_PROJECT", "")
            if is_part(Path(directory)):
                provision_part(Path(directory), project, agreement)
            else:
                description = Description.parse(environment.get("BLOCKFL_CONSORTIUM", ""), "BLOCKFL_CONSORTIUM")
                provision(Path(directory), description, project, agreement)
            _report("keys, first block and settings are there")
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


def _save_state(layout: Layout, project: str) -> None:
    try:
        state = NetworkState(ledger="compose", project=project)
    except ValidationError as error:
        raise NetworkError(
            f"expected the name of a Compose project in BLOCKFL_PROJECT (a-z, 0-9, - and _), got {project!r}"
        ) from error
    state.save(layout.state)


def _prepare(host: Host, outside: Organisation) -> None:
    """Write what containers need besides what processes do: profiles of their own, and directories that they write."""
    provision_service(host.organisation, host.layout, host.load_consortium())
    _provision_profiles(host, outside)
    watch_certificates(host)
    _provision_volumes(host)


def _provision_profiles(host: Host, outside: Organisation) -> None:
    """Write how users reach the peer, from outside and from containers, and how it reaches the contract service."""
    place, inside, consortium = host.layout, host.organisation, host.load_consortium()
    for user in USERS:
        make_profile(consortium, outside, user).save(place.profile(user))
        make_profile(consortium, inside, user).save(place.profile(f"{CONTAINER}-{user}"))
    write_connection(host)


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
