"""``blockfl network certificates`` and ``renew``: when certificates end, and what takes their place."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli import option
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Exit, Output
from blockfl.fabric.identity.request import answer_request
from blockfl.network.administration import load_authority
from blockfl.network.certificates import list_certificates, list_pairs
from blockfl.network.errors import NetworkError
from blockfl.network.identities import write_file
from blockfl.network.network import open_part
from blockfl.network.renewal import take_certificates, write_requests

Directory = Annotated[
    Path, typer.Option("--directory", "-d", envvar="BLOCKFL_NETWORK", help="The network's directory.")
]


def certificates(directory: Directory = Path("network-data"), json: option.Json = False) -> None:
    """Show every certificate and when it ends, the first one first; exit code 1 when one has ended."""
    now = datetime.now(UTC)
    found = [one for host in open_part(directory).hosts for one in list_certificates(host)]
    found.sort(key=lambda one: one.ends)
    rows = [one.as_dict(now) for one in found]
    Output(as_json=json).table("certificates", rows, ["ends", "days_left", "holder", "purpose", "path"])
    if any(one.ends <= now for one in found):
        raise typer.Exit(Exit.FAILED)


def renew(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Processes and users, e.g. peer-hungary agent-hungary; default: whose certificates end soon."
        ),
    ] = None,
    directory: Directory = Path("network-data"),
    within: Annotated[
        int, whole_option(make_limits(0, 4_000), help="Without names: those that end within so many days.")
    ] = 30,
    keep_keys: Annotated[
        bool, typer.Option("--keep-keys", help="Only certificates; the channel need not be told of an ordering node's.")
    ] = False,
    requests: Annotated[
        Path | None, typer.Option(help="Write requests for an authority of one's own there, and renew nothing yet.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--certificates", help="Where what the authority has answered lies, named likewise.")
    ] = None,
) -> None:
    """Renew certificates under a running network, process by process: each begins anew with its own."""
    output = Output(as_json=False)
    with open_part(directory).renewal() as renewal:
        chosen = renewal.choose(names or (), timedelta(days=within))
        pairs = [pair for host in renewal.hosts for pair in list_pairs(host) if pair.holder in chosen]
        if requests is not None:
            for path in write_requests(pairs, requests, keep_keys=keep_keys):
                output.line(str(path))
            return
        if answers is not None:
            chosen = list(dict.fromkeys(pair.holder for pair in take_certificates(pairs, answers)))
        if not chosen:
            output.progress(f"no certificate ends within {within} days")
        renewal.renew(chosen, output.progress, keep_keys=keep_keys)


def answer(
    request: Annotated[Path, typer.Argument(help="What `renew --requests` wrote.")],
    authority: Annotated[Path, typer.Option(help="The authority's certificate; its key lies beside it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The certificate.")],
) -> None:
    """Issue what a request asks for, where an authority of BlockFL's is kept on a machine of its own."""
    issuer = load_authority(authority, authority.with_name(authority.name.replace("certificate", "key")))
    try:
        content = request.read_bytes()
    except OSError as error:
        raise NetworkError(f"{request}: cannot be read ({error.strerror})") from error
    write_file(output, answer_request(issuer, content))
