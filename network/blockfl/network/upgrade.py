"""The contract's definition as one organisation's administrator sees and changes it: approved by each, then committed.

Every organisation runs the same code, so each computes the same definition from it and from the members' record.

Example:
    upgrade = Upgrade(ConnectionProfile.load(path), consortium)
    definition = await upgrade.approve()
    if all((await upgrade.read_approvals(definition)).values()):
        await upgrade.commit(definition)
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from blockfl.contract.release import read_release
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.deliver import read_config
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CommittedDefinition, Lifecycle
from blockfl.fabric.errors import CommitError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.code_change import CodeChange, compare_code
from blockfl.network.contract_service import define_contract, package_code
from blockfl.network.errors import NetworkError
from blockfl.protocol.records import Consortium

_ATTEMPTS = 20
_PAUSE_S = 0.5


class Upgrade:
    """One organisation's part in bringing this code, or another record of the members, into force.

    Args:
        profile: Of the organisation's administrator.
        consortium: The record that the definition is made for.
    """

    def __init__(self, profile: ConnectionProfile, consortium: Consortium) -> None:
        self._profile = profile
        self._consortium = consortium
        if (consortium.channel, consortium.contract) != (profile.channel, profile.contract):
            raise NetworkError(
                f"expected the record of contract {profile.contract} on channel {profile.channel}, got one of "
                f"{consortium.contract} on {consortium.channel}"
            )

    async def read(self) -> CommittedDefinition | None:
        """Return the definition in force, None if there is none.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        async with self._open() as lifecycle:
            return await lifecycle.query(self._consortium.contract)

    async def plan(self, sequence: int = 0) -> ChaincodeDefinition:
        """Return the definition in force if it is this code's and this record's, otherwise the one that follows it.

        The same definition is brought into force once more, under the next number, for an organisation whose only
        peer was set up anew: what it had approved was at that peer alone, and cannot be approved twice.

        Args:
            sequence: The least number that it shall have: others may have planned a later one.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        async with self._open() as lifecycle:
            current = await lifecycle.query(self._consortium.contract)
            if current is None:
                return define_contract(self._consortium)
            wanted = define_contract(self._consortium, current.sequence)
            if (
                sequence <= current.sequence
                and await lifecycle.is_in_force(wanted)
                and not await lifecycle.has_lost(wanted)
                and not await self._list_waiting(lifecycle, current)
            ):
                return wanted
            return define_contract(self._consortium, current.sequence + 1)

    async def list_waiting(self) -> list[str]:
        """Return the organisations that have approved, under the next number, what is in force already.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        async with self._open() as lifecycle:
            current = await lifecycle.query(self._consortium.contract)
            return [] if current is None else await self._list_waiting(lifecycle, current)

    async def _list_waiting(self, lifecycle: Lifecycle, current: CommittedDefinition) -> list[str]:
        if not await lifecycle.is_in_force(define_contract(self._consortium, current.sequence)):
            return []
        following = await lifecycle.readiness(define_contract(self._consortium, current.sequence + 1))
        return [name for name, done in following.approvals.items() if done]

    async def compare(self) -> CodeChange | None:
        """Return how this code differs from the one that the organisation runs; None if it is that one.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        own = read_release().name
        async with self._open() as lifecycle:
            current = await lifecycle.query(self._consortium.contract)
            if current is None or current.version == own:
                return None
            approvals = [
                await lifecycle.read_approval(current.name, sequence) for sequence in range(1, current.sequence + 1)
            ]
            was_in_force = any(one is not None and one.version == own for one in approvals)
            latest = approvals[-1]
            if latest is None or latest.package_id is None or latest.version != current.version:
                return CodeChange.between(
                    current.version, "the organisation does not run the code in force", was_in_force
                )
            return compare_code(await lifecycle.fetch(latest.package_id), was_in_force=was_in_force)

    async def approve(self, sequence: int = 0) -> ChaincodeDefinition:
        """Install this code at the organisation's peer and approve its definition; returns that.

        Args:
            sequence: See ``plan``.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        definition = await self.plan(sequence)
        async with self._open() as lifecycle:
            package_id = await lifecycle.install(package_code(self._consortium.contract))
            await approve(lifecycle, definition, package_id)
        return definition

    async def is_in_force(self, definition: ChaincodeDefinition) -> bool:
        """Whether exactly this definition is in force.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        async with self._open() as lifecycle:
            return await lifecycle.is_in_force(definition)

    async def read_approvals(self, definition: ChaincodeDefinition) -> dict[str, bool]:
        """Return which organisations that run a peer have approved exactly this definition, in force or the next.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        async with self._open() as lifecycle:
            if await lifecycle.is_in_force(definition):
                current = await lifecycle.query(definition.name)
                approvals = dict(current.approvals) if current else {}
            else:
                approvals = dict((await lifecycle.readiness(definition)).approvals)
        return {name: done for name, done in approvals.items() if name not in self._consortium.without_peer}

    async def commit(self, definition: ChaincodeDefinition) -> None:
        """Bring a definition into force that a majority of the organisations has approved.

        Raises:
            NetworkError: Too few have.
            FabricError: A peer refuses, or cannot be reached.
        """
        approvals = await self._wait_for_majority(definition)
        approved = [name for name, done in approvals.items() if done]
        if 2 * len(approved) <= len(approvals):
            missing = ", ".join(name for name, done in approvals.items() if not done)
            raise NetworkError(
                f"expected approvals of more than half of {len(approvals)} organisations, got {len(approved)} "
                f"({', '.join(approved) or 'nobody'}); missing: {missing}"
            )
        config = await read_config(self._profile.make_endpoint(), self._profile.channel, self._profile.load_signer())
        others = [name for name in approved if name != self._profile.organisation]
        async with self._open() as lifecycle:
            await lifecycle.commit(definition, [_peer(config, name) for name in others])

    async def _wait_for_majority(self, definition: ChaincodeDefinition) -> dict[str, bool]:
        """Read the approvals; one of a moment ago may not have reached the organisation's peer yet."""
        for _ in range(_ATTEMPTS):
            approvals = await self.read_approvals(definition)
            if 2 * sum(approvals.values()) > len(approvals):
                break
            await asyncio.sleep(_PAUSE_S / 2)
        return approvals

    def _open(self) -> AbstractAsyncContextManager[Lifecycle]:
        return _open(self._profile)


async def read_definition(profile: ConnectionProfile) -> CommittedDefinition | None:
    """Return the definition in force of a profile's contract, None if there is none.

    Raises:
        FabricError: The peer refuses, or cannot be reached.
    """
    async with _open(profile) as lifecycle:
        return await lifecycle.query(profile.contract)


@asynccontextmanager
async def _open(profile: ConnectionProfile) -> AsyncIterator[Lifecycle]:
    gateway = Gateway(profile.make_endpoint(), profile.load_signer(), profile.channel)
    async with gateway, Lifecycle(gateway) as lifecycle:
        yield lifecycle


async def approve(lifecycle: Lifecycle, definition: ChaincodeDefinition, package_id: str) -> None:
    """Approve a definition, again where approvals of several organisations meet in one block.

    Raises:
        FabricError: The peer refuses, or it was overtaken too often.
    """
    for attempt in range(_ATTEMPTS):
        try:
            await lifecycle.approve(definition, package_id)
        except CommitError as error:
            if error.code_name != "MVCC_READ_CONFLICT" or attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return


def _peer(config: ChannelConfig, msp_id: str) -> Endpoint:
    found = next(one for one in config.application_organisations.values() if one.msp_id == msp_id)
    if not found.anchor_peers:
        raise NetworkError(f"the channel's configuration does not say where the peer of {msp_id} is")
    return Endpoint(address=str(found.anchor_peers[0]), tls_roots_pem=config.msps[msp_id].tls_authorities_pem)
