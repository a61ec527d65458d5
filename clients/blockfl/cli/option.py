"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli.number import make_limits, whole_argument

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
Round = Annotated[int, whole_argument(make_limits(1), metavar="ROUND", help="The round.")]
