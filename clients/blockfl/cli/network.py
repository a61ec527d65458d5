"""``blockfl network``: a consortium's network on this machine."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli import (
    network_adoption,
    network_certificates,
    network_check,
    network_config,
    network_contract,
    network_founding,
    option,
)
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Exit, Output
from blockfl.network.backup import restore as restore_backup
from blockfl.network.certificates import list_complaints
from blockfl.network.code_change import Agreement, CodeChange
from blockfl.network.compose import render_compose, render_host_compose, save_compose
from blockfl.network.description import Description, LedgerKind, default_description
from blockfl.network.layout import is_part
from blockfl.network.network import HostPart, Network, Part, open_part
from blockfl.network.snapshot import pack_snapshot, take_snapshot
from blockfl.network.status import ProcessStatus, wait_until_level

app = typer.Typer(no_args_is_help=True)
app.add_typer(network_config.app, name="config", help="Look at the channel's configuration and change it.")
app.add_typer(
    network_contract.app, name="contract", help="Look at the contract's definition and bring another into force."
)
for _command in (
    network_check.check,
    network_adoption.terms,
    network_founding.member,
    network_founding.found,
    network_founding.inspect,
    network_founding.sign,
    network_certificates.certificates,
    network_certificates.renew,
    network_certificates.answer,
):
    app.command()(_command)

app.command(name="adopt")(network_adoption.adopt_channel)

Directory = Annotated[
    Path, typer.Option("--directory", "-d", envvar="BLOCKFL_NETWORK", help="The network's directory.")
]


@app.command()
def up(
    directory: Directory = Path("network-data"),
    consortium: Annotated[
        Path | None,
        typer.Option(
            help="Description of the consortium; default: four hospitals, three neutral ones. Of an organisation's own "
            "directory: the record of the members that it agrees to (blockfl network terms)."
        ),
    ] = None,
    ledger: Annotated[
        LedgerKind | None,
        typer.Option(help="What runs it; default: embedded, of an organisation's own directory local, or as before."),
    ] = None,
    base_port: Annotated[
        int | None, whole_option(make_limits(1024, 65_535), help="First port of the default consortium.")
    ] = None,
    upgrade: Annotated[
        str, typer.Option(envvar="BLOCKFL_UPGRADE", help="Name of the contract's code that may replace the network's.")
    ] = "",
    downgrade: Annotated[
        str, typer.Option(envvar="BLOCKFL_DOWNGRADE", help="The same, where that goes back to an older one.")
    ] = "",
    founding: Annotated[
        Path | None, typer.Option(help="Of an organisation's own directory, once: the founding file that all signed.")
    ] = None,
    timeout: Annotated[
        int, whole_option(make_limits(1, 10_000_000), help="Seconds to wait for the other organisations' hosts.")
    ] = 86_400,
    snapshot: Annotated[
        Path | None,
        typer.Option(help="Of an organisation's own directory: join a peer without a ledger from a snapshot."),
    ] = None,
    json: option.Json = False,
) -> None:
    """Bring up the network, or one organisation's part; what runs goes on. Another contract code is asked about."""
    output = Output(as_json=json)
    agreement = Agreement(upgrade=upgrade, downgrade=downgrade, ask=_ask)
    if founding is not None or is_part(directory):
        if base_port is not None:
            output.error("--base-port belongs to a machine with all organisations, not to one's part")
            raise typer.Exit(Exit.USAGE)
        part = HostPart.open(directory, ledger)
        part.up(output.progress, agreement, founding, consortium, timeout, snapshot)
        if not _print_status(part, output, wait_until_level(part.status, output.progress)):
            raise typer.Exit(Exit.FAILED)
        return
    if consortium is not None and base_port is not None:
        output.error("--base-port belongs to the default consortium; name the ports in your own description")
        raise typer.Exit(Exit.USAGE)
    kind = ledger or "embedded"
    description = Description.load(consortium, kind) if consortium else None
    network = Network.prepare(directory, description, kind, base_port=base_port)
    network.up(output.progress, agreement)
    if not _print_status(network, output, wait_until_level(network.status, output.progress)):
        raise typer.Exit(Exit.FAILED)


@app.command()
def status(directory: Directory = Path("network-data"), json: option.Json = False) -> None:
    """Show each process: state, memory, height, last error."""
    output = Output(as_json=json)
    part = open_part(directory)
    if not _print_status(part, output, part.status()):
        raise typer.Exit(Exit.FAILED)


@app.command()
def logs(
    node: Annotated[str, typer.Argument(help="A process as `blockfl network status` names it.")],
    directory: Directory = Path("network-data"),
    lines: Annotated[int, whole_option(make_limits(1, 1_000_000), help="How many of the last lines.")] = 50,
) -> None:
    """Print the last lines of a process's log."""
    Output(as_json=False).line(open_part(directory).logs(node, lines))


@app.command()
def stop(directory: Directory = Path("network-data")) -> None:
    """Stop every process; nothing is lost, and `up` continues."""
    output = Output(as_json=False)
    for name in open_part(directory).stop():
        output.progress(f"stopped {name}")


@app.command()
def down(
    directory: Directory = Path("network-data"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop the network and delete its ledger, keys and logs for good."""
    part = open_part(directory)
    if not yes:
        question = f"Delete the ledger, all keys and logs in {directory.resolve()} (--yes does not ask)?"
        typer.confirm(question, abort=True)
    part.down()
    Output(as_json=False).progress(f"{directory.resolve()} is deleted")


@app.command()
def backup(
    output: Annotated[Path, typer.Argument(help="The file to write; it holds private keys.")],
    directory: Directory = Path("network-data"),
    with_ledger: Annotated[
        bool, typer.Option("--with-ledger", help="The peers' ledgers, too; nothing may run meanwhile.")
    ] = False,
    json: option.Json = False,
) -> None:
    """Copy what nobody else has: keys, certificates, settings, outboxes; of the embedded node the ledger, too.

    The directory of one organisation, or of a machine that has all of them.
    """
    told = Output(as_json=json)
    made = open_part(directory).back_up(output, with_ledger=with_ledger)
    told.result({"file": str(output), "files": len(made.files), "secret": list(made.secrets)})
    told.line(f"{output}: {len(made.files)} files, of which others must not see {len(made.secrets)}; keep it as a key")


@app.command()
def restore(
    archive: Annotated[Path, typer.Argument(help="A file that `blockfl network backup` wrote.")],
    directory: Directory = Path("network-data"),
) -> None:
    """Put back what is missing of a backup; nothing that is there is changed. Then: `blockfl network up`."""
    written = restore_backup(archive, directory)
    Output(as_json=False).line(f"{len(written)} files restored to {directory}; next: blockfl network up -d {directory}")


@app.command()
def snapshot(
    output: Annotated[Path, typer.Argument(help="The file to write, for another organisation.")],
    directory: Directory = Path("network-data"),
    timeout: Annotated[int, whole_option(make_limits(1, 1_000_000), help="Seconds to wait for the peer.")] = 600,
) -> None:
    """Have the organisation's peer write what its ledger holds now, without private data, for a peer that joins."""
    told, host = Output(as_json=False), HostPart.open(directory).host
    taken = asyncio.run(take_snapshot(host, told.progress, timeout))
    told.line(f"{output}: {pack_snapshot(taken, output)}")
    told.progress(f"for the other organisation: blockfl network up --snapshot {output.name}")


@app.command()
def compose(
    consortium: Annotated[
        Path | None, typer.Option(help="Description of the consortium; default: four hospitals, three neutral ones.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", "-d", help="An organisation's own: the file for its host, written there."),
    ] = None,
    founding: Annotated[
        Path | None, typer.Option(help="Of an organisation's own directory, once: the founding file that all signed.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; default: standard output.")] = None,
) -> None:
    """Write docker-compose.yaml: one organisation's part for its own host, or the whole network for one machine."""
    told = Output(as_json=False)
    if directory is not None:
        if consortium is not None:
            told.error(
                "--consortium belongs to a machine with all organisations, --directory to one organisation's host"
            )
            raise typer.Exit(Exit.USAGE)
        part = HostPart.open(directory, "compose")
        part.adopt(founding)
        content, output = render_host_compose(part.host), output or directory / "docker-compose.yaml"
    else:
        description = Description.load(consortium, "compose") if consortium else Description.load_default()
        content = render_compose(description, consortium.read_text() if consortium else default_description())
    if output is None:
        sys.stdout.write(content)
        return
    save_compose(output, content)
    if directory is not None:
        told.progress(f"{output}: next, there: docker compose up --wait")


def _ask(change: CodeChange) -> bool:
    """Ask the person at the terminal, if there is one."""
    if not sys.stdin.isatty():
        return False
    Output(as_json=False).progress(change.describe())
    return typer.confirm("Bring it into force?")


def _print_status(part: Part, output: Output, rows: Sequence[ProcessStatus]) -> bool:
    """Print a status; return whether every process runs and none complains."""
    output.table(
        f"{part.name}, ledger {part.ledger}",
        [row.as_dict() for row in rows],
        ["name", "state", "pid", "address", "memory_mb", "height", "runs", "certificate_ends", "error"],
    )
    for complaint in list_complaints(part.hosts):
        output.progress(complaint)
    return all(row.state == "running" and not row.error for row in rows)
