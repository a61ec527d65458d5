"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    Path,
    typer.Option(
        "--profile",
        "-p",
        envvar="BLOCKFL_PROFILE",
        help="Connection profile of the identity that asks (organisations/<name>/profiles/*.json).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Task = Annotated[str, typer.Argument(help="The task.")]
Round = Annotated[int, typer.Argument(metavar="ROUND", min=1, help="The round.")]
