"""Organisations' own directories, founded together by the commands that their administrators say."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from blockfl.cli.main import app

ROLES = {
    "coordinator": ("committee", "coordinator"),
    "regulator": ("committee",),
    "university": ("committee",),
    "hospital": ("institution",),
}


def say(*arguments: object) -> str:
    """Run a command and return what it printed.

    Raises:
        AssertionError: It fails.
    """
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, f"{arguments}: {done.output} {done.exception}"
    return done.output


def found(directory: Path, base_port: int, *, consensus: str = "BFT") -> Path:
    """Make every organisation's directory below one, and the founding file that all have signed.

    Each is ``<name>.example`` to the others and listens on loopback; under raft three of four order.
    """
    for number, (name, roles) in enumerate(ROLES.items()):
        options = [option for role in roles for option in ("--role", role)]
        if name != "hospital" or consensus == "BFT":
            options.append("--orderer")
        ports = ("--base-port", base_port + 10 * number)
        where = ("--host", f"{name}.example", "--listen", "127.0.0.1")
        say("network", "member", name, "-d", directory / name, *options, *where, *ports)
    founding = directory / "founding.json"
    members = [directory / name / "member.json" for name in ROLES]
    say("network", "found", *members, "--network", "heart", "--consensus", consensus, "-o", founding)
    for name in ROLES:
        say("network", "sign", founding, "-d", directory / name, "--yes")
    return founding
