"""What an auditor names: evidence, and the first block that it must follow from."""

import re
from pathlib import Path
from typing import Annotated

import typer

from blockfl.audit.verification import read_anchor
from blockfl.cli.founded import founded_hash
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile

_HASH = re.compile("[0-9a-fA-F]{64}")
OptionalProfile = Annotated[
    Path | None,
    typer.Option("--profile", "-p", envvar="BLOCKFL_PROFILE", help="Connection profile of the identity that asks."),
]
Genesis = Annotated[
    Path | None, typer.Option(help="Your own copy of the channel's first block; default: the profile's.")
]
GenesisHash = Annotated[
    str | None, typer.Option("--genesis-hash", help="Instead of a copy: the first block's header hash, as hex.")
]
Founding = Annotated[
    Path | None, typer.Option(help="Instead of a copy: the founding file, all founders' signatures beside it.")
]
Root = Annotated[
    str | None,
    typer.Option(
        "--trust-root",
        "--root",
        help="What you trust: your own copy of the first block, or its hash as hex; with --founding: a founder's "
        "signing root, PEM.",
    ),
]


def read_trusted(
    profile: Path | None, genesis: Path | None, genesis_hash: str | None, founding: Path | None, root: str | None
) -> bytes:
    """Return the first block's header hash, as the auditor named it.

    Raises:
        LedgerError: It was not named, or a file cannot be read.
        VerificationError: The founding file is not signed as it must be.
    """
    if founding is not None:
        if root is None:
            raise LedgerError("--founding needs the signing root of a founder that you trust: --trust-root FILE.pem")
        return founded_hash(founding, Path(root))
    if root is not None:
        return _read_first_block(root)
    if genesis_hash is not None:
        return parse_hash(genesis_hash)
    if genesis is not None:
        return read_anchor(genesis)
    if profile is not None:
        return read_anchor(find_genesis(ConnectionProfile.load(profile), None))
    raise LedgerError(
        "a bundle cannot vouch for itself: name your own copy of the first block or its hash with --trust-root, or the "
        "founding file and a founder's signing root with --founding and --trust-root"
    )


def _read_first_block(root: str) -> bytes:
    if _HASH.fullmatch(root):
        return bytes.fromhex(root)
    path = Path(root)
    if not path.exists():
        raise LedgerError(f"{root[:80]!r} is neither a file nor a block's hash of 64 hex digits")
    if path.is_file() and path.read_bytes().lstrip().startswith(b"-----BEGIN"):
        raise LedgerError(
            f"{root} is a certificate: it vouches for a founding file, name that with --founding FILE, too"
        )
    return read_anchor(path)


def parse_hash(text: str) -> bytes:
    """Return a block's hash.

    Raises:
        LedgerError: The text is none.
    """
    if not _HASH.fullmatch(text):
        raise LedgerError(f"expected a block's hash of 64 hex digits, got {text[:80]!r}")
    return bytes.fromhex(text)


def find_genesis(profile: ConnectionProfile, given: Path | None) -> Path:
    """Return the file with the first block: the given one, else the profile's.

    Raises:
        LedgerError: There is neither.
    """
    if given is not None:
        return given
    if profile.genesis is None:
        raise LedgerError("the profile names no genesis block; pass your own copy with --genesis")
    return Path(profile.genesis)
