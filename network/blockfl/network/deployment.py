"""The contract brought onto a running channel by one organisation: installed, approved, committed, registered.

Every organisation that runs a peer does the same, each for itself, on one machine or on its own host. An organisation
that sees a majority of approvals commits, in an order of turns so that not all do so at once. What is done already is
left as it is.

Example:
    await deploy([Host.open(directory)], print, timeout_s=600)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from blockfl.fabric.client.lifecycle import ChaincodeDefinition
from blockfl.fabric.errors import FabricError
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, RefusedError, is_refused_with
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.code_change import Agreement, agree_on_succession
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.upgrade import Upgrade
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Consortium

Report = Callable[[str], None]
_SAME = (
    "contract: what is in force is approved once more, for {names}: a peer that was set up anew does not know what its "
    "organisation had approved. Have the others say `blockfl network up`, too: a majority brings it into force, and no "
    "peer runs the contract whose organisation has not approved it"
)
T = TypeVar("T")
_POLL_S = 0.25
_UNREAD = "the contract's definition could not be read"
_TURN_S = 3.0
"""How long an organisation leaves a step to the one before it."""


def _do_nothing() -> None:
    pass


async def deploy(
    hosts: Sequence[Host],
    report: Report,
    agreement: Agreement,
    timeout_s: float,
    user: str = "admin",
    serve: Callable[[], None] = _do_nothing,
) -> None:
    """Bring the contract up for the organisations that are here: one, or all of one machine.

    Args:
        hosts: Their parts; the nodes run.
        report: Told what has been done, and who is waited for.
        agreement: Which code may take the place of the one in force.
        timeout_s: How long to wait for the others.
        user: Whose connection profiles are used, and so which addresses.
        serve: Has the contract services begin anew with what is in force now; until then they serve what was before.

    Raises:
        NetworkError: A step failed for good, or others did not do theirs in time.
    """
    say = _once(report)
    hosts = [one for one in hosts if one.organisation.has_peer]
    deployments = [
        Deployment(ConnectionProfile.load(one.layout.profile(user)), one.load_consortium(), say) for one in hosts
    ]
    in_force = await deployments[0].read_version(timeout_s)
    if in_force is not None:
        for one in hosts:
            agree_on_succession(one.layout.package, one.load_consortium().contract, in_force, agreement)
    sequence = max(await asyncio.gather(*(one.plan(timeout_s) for one in deployments)))

    async def bring_into_force(deployment: Deployment) -> None:
        await deployment.commit(await deployment.approve(timeout_s, sequence), timeout_s)

    await asyncio.gather(*map(bring_into_force, deployments))
    await asyncio.to_thread(serve)
    await asyncio.gather(*(one.register(timeout_s) for one in deployments))


class Deployment:
    """One organisation's part in bringing the contract up.

    Args:
        profile: Of the organisation's administrator.
        consortium: The record that the organisation agrees to.
        report: Told what has been done, and who is waited for.
    """

    def __init__(self, profile: ConnectionProfile, consortium: Consortium, report: Report) -> None:
        self._profile = profile
        self._consortium = consortium
        self._report = report
        self._upgrade = Upgrade(profile, consortium)

    async def read_version(self, timeout_s: float) -> str | None:
        """Return what the definition in force calls its code, None if there is none.

        Raises:
            NetworkError: The organisation's peer does not say in time.
        """
        current = await self._repeat(self._upgrade.read, timeout_s, _UNREAD)
        return current.version if current else None

    async def plan(self, timeout_s: float) -> int:
        """Return the number of the definition in force if that is the wanted one, otherwise of the one that follows.

        Raises:
            NetworkError: The organisation's peer does not say in time.
        """
        plan = await self._repeat(self._upgrade.plan, timeout_s, _UNREAD)
        return plan.sequence

    async def approve(self, timeout_s: float, sequence: int = 0) -> ChaincodeDefinition:
        """Install the contract at the organisation's peer and approve its definition, as soon as others order that.

        Args:
            timeout_s: How long to wait for a quorum of ordering nodes.
            sequence: The least number of the definition.

        Raises:
            NetworkError: It could not be done in time; the text says why.
        """
        return await self._repeat(
            lambda: self._upgrade.approve(sequence), timeout_s, "the contract could not be approved"
        )

    async def commit(self, definition: ChaincodeDefinition, timeout_s: float) -> None:
        """Wait until the definition is in force; commit it when it is this one's turn.

        Raises:
            NetworkError: Too few approve in time.
        """
        await self._repeat(lambda: self._commit(definition), timeout_s, "the contract could not be committed")

    async def register(self, timeout_s: float) -> None:
        """Wait until the consortium is registered; between two rounds, register it when it is this one's turn.

        Raises:
            NetworkError: The others agreed to another record, or do not agree to this one in time.
        """
        begun = time.monotonic()
        await self._repeat(lambda: self._register(begun), timeout_s, "the consortium could not be registered")

    async def _commit(self, definition: ChaincodeDefinition) -> None:
        if waiting := await self._upgrade.list_waiting():
            self._report(_SAME.format(names=", ".join(waiting)))
        begun = time.monotonic()
        while not await self._upgrade.is_in_force(definition):
            approvals = await self._upgrade.read_approvals(definition)
            approved = sorted(name for name, done in approvals.items() if done)
            missing = sorted(set(approvals).difference(approved))
            self._report(f"contract: approved by {len(approved)} of {len(approvals)}" + _waiting(missing))
            if 2 * len(approved) <= len(approvals):
                begun = time.monotonic()
            elif self._is_turn(approved, begun):
                await self._upgrade.commit(definition)
            await asyncio.sleep(_POLL_S)
        self._report(f"contract {definition.name}: definition {definition.sequence} is in force")

    async def _register(self, begun: float) -> None:
        members = [self._consortium.having("coordinator")[0], *(one.organisation for one in self._consortium.members)]
        async with Ledger(self._profile) as ledger:
            while not await self._is_registered(ledger):
                if self._is_turn(members, begun):
                    await ledger.register_consortium(self._consortium)
                await asyncio.sleep(_POLL_S)

    def _is_turn(self, order: list[str], begun: float) -> bool:
        """Whether it is up to this organisation: the first at once, each other a while later."""
        own = self._profile.organisation
        return own in order and time.monotonic() - begun >= _TURN_S * order.index(own)

    async def _is_registered(self, ledger: Ledger) -> bool:
        try:
            return await ledger.read(catalogue.CONSORTIUM.key()) == self._consortium
        except RefusedError as error:
            if error.code == Code.CONSORTIUM_UNKNOWN:
                return False
            raise

    def _is_final(self, error: FabricError | LedgerError) -> bool:
        """Whether waiting does not help: founders have agreed to something else; a change may reach them later."""
        return (
            self._consortium.sequence == 1
            and isinstance(error, LedgerError)
            and is_refused_with(error, Code.CONSORTIUM_MISMATCH)
        )

    async def _repeat(self, step: Callable[[], Awaitable[T]], timeout_s: float, failure: str) -> T:
        """Repeat a step until it succeeds: others may not be there yet, or overtake it."""
        deadline, reason = time.monotonic() + timeout_s, ""
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    return await step()
            except TimeoutError as error:
                raise NetworkError(
                    f"{failure} within {timeout_s:.0f} s{reason}; run the command again to go on waiting"
                ) from error
            except (FabricError, LedgerError) as error:
                if self._is_final(error) or time.monotonic() > deadline:
                    raise NetworkError(f"{failure}: {error}") from error
                reason = f": {str(error).splitlines()[0][:300]}"
                self._report(f"waiting{reason}")
            await asyncio.sleep(_POLL_S)


def _once(report: Report) -> Report:
    """Return a report that leaves out what it has said before."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            report(text)

    return say


def _waiting(missing: list[str]) -> str:
    return f"; waiting for {', '.join(missing)}" if missing else ""
