"""``blockfl network contract``: the contract's definition, looked at, approved and brought into force."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli import option
from blockfl.cli.network_founding import HostDirectory
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Output
from blockfl.fabric.client.lifecycle import ChaincodeDefinition
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.code_change import CodeChange
from blockfl.network.definition_export import export_definition
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.upgrade import Upgrade, read_definition
from blockfl.protocol.catalogue import CONSORTIUM

app = typer.Typer(no_args_is_help=True)

Record = Annotated[
    Path | None,
    typer.Option("--consortium", help="The consortium.yaml with the members to come; default: those of today."),
]


@app.command()
def show(profile: option.Profile, json: option.Json = False) -> None:
    """Show the definition in force: version, sequence number, collections, who has approved it."""
    current = asyncio.run(read_definition(ConnectionProfile.load(profile)))
    output = Output(as_json=json)
    rows = [] if current is None else [asdict(current)]
    for row in rows:
        row["approved"] = [name for name, done in row["approvals"].items() if done]
        row["policy"] = row["policy"].hex()
    output.table("the contract's definition", rows, ["name", "version", "sequence", "collections", "approved"])


@app.command()
def approve(
    profile: option.Profile,
    consortium: Record = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether other code may be approved.")] = False,
    downgrade: Annotated[bool, typer.Option("--downgrade", help="Approve also what was in force before.")] = False,
) -> None:
    """Show what this release changes, and approve its definition for one's organisation."""

    async def act() -> tuple[ChaincodeDefinition, dict[str, bool]]:
        upgrade = await _upgrade(profile, consortium)
        _agree(await upgrade.compare(), yes=yes, downgrade=downgrade)
        definition = await upgrade.approve()
        return definition, await upgrade.read_approvals(definition)

    definition, approvals = asyncio.run(act())
    output = Output(as_json=False)
    output.line(f"contract {definition.name}, version {definition.version}, definition {definition.sequence}")
    output.line(f"approved by: {', '.join(name for name, done in approvals.items() if done)}")
    if missing := [name for name, done in approvals.items() if not done]:
        output.line(f"not by: {', '.join(missing)}")


@app.command()
def commit(profile: option.Profile, consortium: Record = None) -> None:
    """Bring this version's definition into force, when a majority has approved it."""

    async def act() -> ChaincodeDefinition:
        upgrade = await _upgrade(profile, consortium)
        definition = await upgrade.plan()
        await upgrade.commit(definition)
        return definition

    definition = asyncio.run(act())
    Output(as_json=False).progress(f"contract {definition.name}: definition {definition.sequence} is in force")


@app.command()
def export(
    directory: HostDirectory,
    output_directory: Annotated[Path, typer.Option("--output", "-o", help="Where the files go.")],
    sequence: Annotated[
        int, whole_option(make_limits(1, 1_000_000), help="Of the definition: one more than that in force.")
    ] = 1,
    json: option.Json = False,
) -> None:
    """Write package and collections for Fabric's own `peer lifecycle chaincode`, and the commands that take them."""
    exported = export_definition(Host.open(directory).load_consortium(), output_directory, sequence)
    output = Output(as_json=json)
    output.result({name: str(value) for name, value in asdict(exported).items()})
    for line in (exported.install, exported.approve, exported.commit):
        output.line(line)
    output.progress(
        "to each, add where the peer and the ordering node are: --peerAddresses, --orderer, --tls, --cafile"
    )


def _agree(change: CodeChange | None, *, yes: bool, downgrade: bool) -> None:
    if change is None:
        return
    Output(as_json=False).line(change.describe())
    if change.goes_back and not downgrade:
        raise NetworkError(f"{change.after} is older than {change.before}; to go back to it nevertheless: --downgrade")
    if not yes:
        typer.confirm("Approve it for your organisation?", abort=True)


async def _upgrade(path: Path, described: Path | None) -> Upgrade:
    profile = ConnectionProfile.load(path)
    if described is not None:
        return Upgrade(profile, Description.load(described).consortium)
    try:
        async with Ledger(profile) as ledger:
            return Upgrade(profile, await ledger.read(CONSORTIUM.key()))
    except LedgerError as error:
        raise LedgerError(f"{error}; name the members yourself: --consortium consortium.yaml") from error
