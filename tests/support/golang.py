"""Go's standard library as the reference for our decoders: a small program that is built once and asked over a pipe."""

from __future__ import annotations

import atexit
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, Literal

Kind = Literal["pem", "certificate", "chain", "revocation list", "signature", "varint", "state"]

REFUSED: Final = "refused"
_SOURCE: Final = Path(__file__).parents[1] / "golang" / "reference.go"
_KINDS: Final[dict[Kind, bytes]] = {
    "pem": b"p",
    "certificate": b"c",
    "chain": b"n",
    "revocation list": b"l",
    "signature": b"s",
    "varint": b"v",
    "state": b"j",
}


def find_go() -> str | None:
    """The Go tool, if the machine has it."""
    return shutil.which("go")


def ask_go(kind: Kind, contents: Sequence[bytes]) -> list[str]:
    """What Go makes of each of these: `REFUSED`, or what it has read."""
    frames = b"".join(_KINDS[kind] + len(content).to_bytes(4, "big") + content for content in contents)
    answers = subprocess.run([_program()], input=frames, stdout=subprocess.PIPE, check=True).stdout
    lines = answers.decode().splitlines()
    assert len(lines) == len(contents)
    return lines


@cache
def _program() -> str:
    go = find_go()
    assert go is not None, "there is no Go on this machine: ask find_go first"
    directory = Path(mkdtemp(prefix="blockfl-go-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    target = directory / "reference"
    subprocess.run([go, "build", "-o", target, _SOURCE], check=True, timeout=300)
    return str(target)
