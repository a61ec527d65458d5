"""``blockfl network config``: the channel's configuration, looked at and changed by its administrators."""

import asyncio
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli import option
from blockfl.cli.output import Output
from blockfl.cli.reach import reach
from blockfl.fabric.channel.config import Address, ChannelConfig
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import (
    Administrator,
    describe_config,
    describe_update,
    list_signatories,
    load_authority,
    write_new,
)
from blockfl.network.errors import NetworkError
from blockfl.network.founding import load_member
from blockfl.network.layout import OrganisationLayout
from blockfl.network.port import parse_address
from blockfl.protocol import catalogue

app = typer.Typer(no_args_is_help=True)

Update = Annotated[Path, typer.Argument(help="The update's file.")]
Target = Annotated[Path, typer.Option("--output", "-o", help="The update's file, for the administrators to sign.")]
Signatures = Annotated[
    list[Path] | None, typer.Argument(help="Files of signatures; default: all that lie beside the update.")
]
_SIGNATURE = ".signature"


@app.command()
def show(profile: option.Profile, json: option.Json = False) -> None:
    """Show the configuration in force: sequence number, organisations, ordering nodes, revoked certificates."""
    config = _read(Administrator(ConnectionProfile.load(profile)))
    output = Output(as_json=json)
    rows = describe_config(config)
    if json:
        content = {"channel": config.channel_id, "sequence": config.sequence, "consensus": config.consensus_type}
        output.result(content | {"organisations": rows})
        return
    title = f"channel {config.channel_id}, configuration {config.sequence}, {config.consensus_type}"
    output.table(title, rows, list(rows[0]))


@app.command()
def add(
    member: Annotated[Path, typer.Argument(help="Its membership file, which `blockfl network member` wrote.")],
    profile: option.Profile,
    output: Target,
) -> None:
    """Propose that an organisation joins the channel."""
    administrator = Administrator(ConnectionProfile.load(profile))
    newcomer = load_member(member)
    config = _read(administrator)
    _propose(config, administrator.add(config, newcomer.membership), output)


@app.command()
def remove(
    organisation: Annotated[str, typer.Argument(help="The organisation that is to leave.")],
    profile: option.Profile,
    output: Target,
) -> None:
    """Propose that an organisation leaves the channel."""
    administrator = Administrator(ConnectionProfile.load(profile))
    config = _read(administrator)
    _propose(config, administrator.remove(config, organisation), output)
    if warning := asyncio.run(_warn_of_removal(profile, organisation)):
        Output(as_json=False).progress(warning)


@app.command()
def revoke(
    profile: option.Profile,
    output: Target,
    certificates: Annotated[list[Path] | None, typer.Argument(help="Certificates of one's own organisation.")] = None,
    revocations: Annotated[
        Path | None, typer.Option("--list", help="The authority's own revocation list in PEM instead.")
    ] = None,
    authority: Annotated[
        Path | None,
        typer.Option(help="Directory with signing-certificate.pem and signing-key.pem; default: authority/."),
    ] = None,
) -> None:
    """Propose that certificates of one's own organisation are no longer good; its administrator's signature does."""
    if bool(certificates) == (revocations is not None):
        raise typer.BadParameter("name certificates, or a revocation list with --list")
    administrator = Administrator(ConnectionProfile.load(profile))
    config = _read(administrator)
    if revocations is not None:
        update = administrator.revoke_by_list(config, _read_file(revocations))
    else:
        place = authority or OrganisationLayout(profile.resolve().parent.parent).signing_authority("key").parent
        issuer = load_authority(place / "signing-certificate.pem", place / "signing-key.pem")
        update = administrator.revoke(config, [_read_file(path) for path in certificates or ()], issuer)
    _propose(config, update, output)


SigningRoots = Annotated[
    list[Path] | None,
    typer.Option("--signing-root", help="Certificate of an authority that signs members' certificates."),
]
TlsRoots = Annotated[
    list[Path] | None, typer.Option("--tls-root", help="Certificate of an authority of TLS endpoints.")
]


@app.command()
def add_root(
    profile: option.Profile, output: Target, signing_root: SigningRoots = None, tls_root: TlsRoots = None
) -> None:
    """Propose that a new authority of one's own organisation counts, too; its administrator's signature does."""
    administrator = Administrator(ConnectionProfile.load(profile))
    config = _read(administrator)
    signing, tls = _read_roots(signing_root, tls_root)
    _propose(config, administrator.add_roots(config, signing, tls), output)


@app.command()
def remove_root(
    profile: option.Profile, output: Target, signing_root: SigningRoots = None, tls_root: TlsRoots = None
) -> None:
    """Propose that a former authority of one's own organisation counts no more."""
    administrator = Administrator(ConnectionProfile.load(profile))
    config = _read(administrator)
    signing, tls = _read_roots(signing_root, tls_root)
    _propose(config, administrator.remove_roots(config, signing, tls), output)


@app.command()
def renew_orderer(
    node: Annotated[str, typer.Argument(help="host:port of the ordering node, as the channel has it.")],
    certificate: Annotated[Path, typer.Option(help="Its new signing certificate.")],
    tls_certificate: Annotated[Path, typer.Option(help="Its new TLS certificate.")],
    profile: option.Profile,
    output: Target,
) -> None:
    """Propose that an ordering node has other certificates; a majority of the ordering organisations signs."""
    administrator = Administrator(ConnectionProfile.load(profile))
    config = _read(administrator)
    host, port = parse_address(node)
    update = administrator.renew_consenter(
        config, Address(host=host, port=port), _read_file(certificate), _read_file(tls_certificate)
    )
    _propose(config, update, output)


@app.command()
def inspect(update: Update, profile: option.Profile, signatures: Signatures = None, json: option.Json = False) -> None:
    """Say what an update changes, and who has signed it."""
    config = _read(Administrator(ConnectionProfile.load(profile)))
    content, found = _read_file(update), _find_signatures(update, signatures)
    changes, signed = describe_update(config, content), list_signatories(content, found)
    output = Output(as_json=json)
    output.result({"changes": list(changes), "signed": signed})
    for line in (*changes, f"signed by: {', '.join(signed) or 'nobody'}"):
        output.line(line)


@app.command()
def sign(
    update: Update,
    profile: option.Profile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Sign an update as one's organisation's administrator, into a file beside it."""
    administrator = Administrator(ConnectionProfile.load(profile))
    content = _read_file(update)
    output = Output(as_json=False)
    for line in describe_update(_read(administrator), content):
        output.line(line)
    if not yes:
        typer.confirm(f"Sign this as {administrator.organisation}?", abort=True)
    target = update.with_name(f"{update.name}.{administrator.organisation}{_SIGNATURE}")
    write_new(target, administrator.sign(content))
    output.progress(f"signed: {target}")


@app.command()
def submit(
    update: Update,
    profile: option.Profile,
    signatures: Signatures = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where ordering stands still until nodes of the update have begun.")
    ] = False,
) -> None:
    """Put an update into force, with the signatures of enough administrators."""
    administrator = Administrator(ConnectionProfile.load(profile))
    content, found = _read_file(update), _find_signatures(update, signatures)
    output = Output(as_json=False)

    async def change() -> ChannelConfig:
        config = await administrator.read()
        describe_update(config, content)
        output.progress("submitted; where ordering nodes change it may take minutes until it is in force")
        return await administrator.submit(config, content, found, force=force)

    output.progress(f"configuration {asyncio.run(change()).sequence} is in force")


def _read(administrator: Administrator) -> ChannelConfig:
    return asyncio.run(administrator.read())


def _propose(config: ChannelConfig, update: bytes, path: Path) -> None:
    write_new(path, update)
    output = Output(as_json=False)
    for line in describe_update(config, update):
        output.line(line)
    output.progress(f"for the administrators to sign: blockfl network config sign {path}")


def _find_signatures(update: Path, named: Sequence[Path] | None) -> list[bytes]:
    return [
        _read_file(path) for path in named or sorted(update.parent.glob(f"{glob.escape(update.name)}.*{_SIGNATURE}"))
    ]


async def _warn_of_removal(profile: Path, organisation: str) -> str:
    """Return what the consortium loses with an organisation that has a duty in it; nothing if it has none."""
    try:
        async with reach(profile) as ledger:
            consortium = await ledger.read(catalogue.CONSORTIUM.key())
    except LedgerError:
        return ""  # There is no consortium yet.
    if organisation not in consortium.committee:
        return ""
    left = len(consortium.committee) - 1
    return (
        f"warning: {organisation} is one of the committee's {left + 1}; {consortium.threshold} of the {left} left "
        f"would have to agree on everything{': no round could be judged' if left < consortium.threshold else ''}"
    )


def _read_roots(signing: list[Path] | None, tls: list[Path] | None) -> tuple[list[bytes], list[bytes]]:
    if not signing and not tls:
        raise typer.BadParameter("name the certificate of an authority with --signing-root, --tls-root, or both")
    return [_read_file(path) for path in signing or ()], [_read_file(path) for path in tls or ()]


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error
