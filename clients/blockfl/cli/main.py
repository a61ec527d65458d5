"""The ``blockfl`` command: its groups, and how errors become exit codes."""

import logging
import sys
from importlib import metadata
from typing import Annotated

import typer

from blockfl.audit.errors import VerificationError
from blockfl.cli.groups import Groups
from blockfl.cli.output import Exit, Output
from blockfl.fabric.errors import FabricError
from blockfl.fabric.log import configure_log
from blockfl.institution.errors import InstitutionError, NothingContributedError
from blockfl.ledger.errors import LedgerError
from blockfl.network.errors import NetworkError
from blockfl.protocol.codes import ProtocolError

app = typer.Typer(
    name="blockfl",
    cls=Groups,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        # Only this option needs it.
        from blockfl.contract.release import read_release

        release = read_release()
        output = Output(as_json=False)
        output.line(f"blockfl {metadata.version('blockfl')}")
        output.line(f"contract {release.name} (SHA-256 of its source {release.record_digest})")
        output.line(f"with {', '.join(f'{name} {version}' for name, version in release.dependencies.items())}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell version and the contract's code."),
    ] = False,
) -> None:
    """Federated learning with Hyperledger Fabric as the referee."""


def main() -> None:
    """Run the command; every failure is one clear line and an exit code."""
    configure_log(None, level=logging.WARNING)
    output = Output(as_json=False)
    for argument in sys.argv[1:]:
        if not argument.isprintable() and any("\ud800" <= one <= "\udfff" for one in argument):
            output.error(f"expected arguments in UTF-8, got {argument}")
            sys.exit(Exit.USAGE)
    try:
        app()
    except VerificationError as error:
        output.error(str(error))
        sys.exit(Exit.NOT_VERIFIED)
    except NothingContributedError as error:
        output.error(str(error))
        sys.exit(Exit.NOTHING_CONTRIBUTED)
    except (LedgerError, NetworkError, ProtocolError, FabricError, InstitutionError) as error:
        output.error(str(error))
        sys.exit(Exit.FAILED)
    except KeyboardInterrupt:
        output.error("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
