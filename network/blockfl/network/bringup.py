"""The contract brought onto a running channel: installed, approved by each organisation, committed, registered.

The same on every ledger, through Fabric's own services; each step leaves what is done as it is, so it may run again.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, Lifecycle
from blockfl.fabric.errors import FabricError
from blockfl.ledger.client import Ledger, is_refused_with
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.code_change import Agreement, agree_on_succession
from blockfl.network.contract_service import define_contract
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.upgrade import approve
from blockfl.protocol.codes import Code

Report = Callable[[str], None]
_ATTEMPTS = 20
_PAUSE_S = 0.5


async def bring_up_contract(
    description: Description, layout: Layout, report: Report, agreement: Agreement, user: str = "admin"
) -> None:
    """Install, approve, commit and register whatever is not yet.

    Args:
        description: The network.
        layout: Where the package and the identities are.
        report: Told what has been done.
        agreement: Which code may take the place of the one in force.
        user: Whose connection profiles are used, and so which addresses.

    Raises:
        NetworkError: A step failed for good; the text says which and why.
    """
    package = layout.package.read_bytes()
    profiles = {
        one.name: ConnectionProfile.load(layout.organisation(one.name).profile(user))
        for one in description.organisations
    }
    try:
        definition = await _next_definition(description, list(profiles.values()), layout.package, agreement)
        await asyncio.gather(*(_approve(profile, package, definition) for profile in profiles.values()))
        report(f"contract {definition.name}, version {definition.version}: approved by {len(profiles)} organisations")
        if await _commit(profiles, definition) is not None:
            report(f"contract {definition.name}: definition {definition.sequence} is in force")
        await _register(profiles[description.consortium.having("coordinator")[0]], description)
    except FabricError as error:
        raise NetworkError(f"the contract could not be brought up: {error}") from error


async def _next_definition(
    description: Description, profiles: Sequence[ConnectionProfile], package: Path, agreement: Agreement
) -> ChaincodeDefinition:
    """Return the definition in force if it is this code's and these members', otherwise the one that follows it.

    The next one, too, where a peer was set up anew: its organisation can approve only what it has not approved before.
    """
    async with _gateway(profiles[0]) as gateway, Lifecycle(gateway) as lifecycle:
        current = await lifecycle.query(description.contract)
        if current is None:
            return define_contract(description.consortium)
        agree_on_succession(package, description.contract, current.version, agreement)
        wanted = define_contract(description.consortium, current.sequence)
        is_new = not await lifecycle.is_in_force(wanted)
    if is_new or any(await asyncio.gather(*(_has_lost(profile, wanted) for profile in profiles))):
        return define_contract(description.consortium, current.sequence + 1)
    return wanted


async def _has_lost(profile: ConnectionProfile, definition: ChaincodeDefinition) -> bool:
    async with _gateway(profile) as gateway, Lifecycle(gateway) as lifecycle:
        return await lifecycle.has_lost(definition)


async def _approve(profile: ConnectionProfile, package: bytes, definition: ChaincodeDefinition) -> None:
    async with _gateway(profile) as gateway, Lifecycle(gateway) as lifecycle:
        package_id = await lifecycle.install(package)
        await approve(lifecycle, definition, package_id)


async def _commit(profiles: dict[str, ConnectionProfile], definition: ChaincodeDefinition) -> object | None:
    first, *others = profiles.values()
    async with _gateway(first) as gateway, Lifecycle(gateway) as lifecycle:
        return await lifecycle.commit(definition, [profile.make_endpoint() for profile in others])


async def _register(profile: ConnectionProfile, description: Description) -> None:
    """Register the consortium; contract services may still be starting."""
    async with Ledger(profile) as ledger:
        for attempt in range(_ATTEMPTS):
            try:
                await ledger.register_consortium(description.consortium)
            except LedgerError as error:
                if is_refused_with(error, Code.CONSORTIUM_MISMATCH) or attempt == _ATTEMPTS - 1:
                    raise NetworkError(f"the consortium could not be registered: {error}") from error
                await asyncio.sleep(_PAUSE_S)
            else:
                return


def _gateway(profile: ConnectionProfile) -> Gateway:
    return Gateway(profile.make_endpoint(), profile.load_signer(), profile.channel)
