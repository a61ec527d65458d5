"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from blockfl.cli.number import make_limits, whole_argument
from blockfl.fabric.log import LOG_FORMAT_VARIABLE

Profile = Annotated[
    Path,
    typer.Option(
        "--profile",
        "-p",
        envvar="BLOCKFL_PROFILE",
        help="Connection profile of the identity that asks (organisations/<name>/profiles/*.json).",
    ),
]
Operations = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        envvar="BLOCKFL_OPERATIONS",
        help="Where /healthz, /status and /metrics are told, in the clear: an address that only this machine reaches.",
    ),
]
LogFormat = Annotated[
    Literal["text", "json"] | None,
    typer.Option(envvar=LOG_FORMAT_VARIABLE, help="How each line is logged, with its time; default: text."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Task = Annotated[str, typer.Argument(help="The task.")]
Round = Annotated[int, whole_argument(make_limits(1), metavar="ROUND", help="The round.")]
