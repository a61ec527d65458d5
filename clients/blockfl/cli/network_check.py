"""``blockfl network check``: what of a running channel does not fit BlockFL."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli import option
from blockfl.cli.output import Exit, Output
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.errors import EndorseError
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.remote import open_ledger
from blockfl.network.administration import Administrator
from blockfl.network.channel_check import Misfit, check_channel, check_peer
from blockfl.network.description import Description
from blockfl.protocol.catalogue import CONSORTIUM
from blockfl.protocol.records import Consortium


def check(
    profile: option.Profile,
    consortium: Annotated[
        Path | None,
        typer.Option(help="The consortium.yaml whose members to expect; default: those registered, or the channel's."),
    ] = None,
    without_peer: Annotated[
        list[str] | None, typer.Option(help="MSP id of an institution that runs no peer; with --consortium it is told.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Say what of the channel and its peers does not fit, before anything is approved; exit code 1 where it must."""
    output = Output(as_json=json)
    misfits = asyncio.run(_check(ConnectionProfile.load(profile), consortium, without_peer or (), output))
    rows = [asdict(one) | {"weight": "must change" if one.is_fatal else "should change"} for one in misfits]
    if rows or json:
        output.table("what does not fit", rows, ["weight", "what", "expected", "found", "remedy"])
    else:
        output.line("the channel and its peers fit")
    if any(one.is_fatal for one in misfits):
        raise typer.Exit(Exit.FAILED)


async def _check(
    profile: ConnectionProfile, consortium: Path | None, without_peer: Sequence[str], output: Output
) -> list[Misfit]:
    config = await Administrator(profile).read()
    members, absent = config.application_msp_ids, set(without_peer)
    record = Description.load(consortium).consortium if consortium else await _read_registered(profile)
    if record is not None:
        members, absent = tuple(one.organisation for one in record.members), absent | set(record.without_peer)
    misfits = check_channel(config, [one for one in members if one not in absent], members)
    for organisation in config.application_organisations.values():
        for anchor in organisation.anchor_peers:
            output.progress(f"asking the peer of {organisation.msp_id} at {anchor}")
            misfits += await _ask(config, organisation.msp_id, str(anchor), profile)
    return misfits


async def _read_registered(profile: ConnectionProfile) -> Consortium | None:
    """Return the consortium's record, if BlockFL is on the channel already."""
    try:
        async with open_ledger(profile) as ledger:
            return await ledger.read(CONSORTIUM.key())
    except LedgerError:
        return None


async def _ask(config: ChannelConfig, organisation: str, address: str, profile: ConnectionProfile) -> list[Misfit]:
    endpoint = Endpoint(address=address, tls_roots_pem=config.msps[organisation].tls_authorities_pem)
    try:
        return await check_peer(endpoint, profile.load_signer(), config.channel_id, organisation)
    except EndorseError as error:
        return [
            Misfit(
                what=f"peer of {organisation} at {address}",
                expected="an answer",
                found=str(error),
                remedy="start it, or open the way to it; then check again",
            )
        ]
