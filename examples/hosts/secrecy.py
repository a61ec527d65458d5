"""Proof that private keys stay where they were made: every private key of a host is looked for everywhere else.

A key is looked for as it is, as hexadecimal digits and as base64 at each of its three alignments, with and without the
line breaks of PEM. Encrypted bytes are searched like all others; what is inside them can't be seen.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_PEM = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----.*?-----END (?:[A-Z]+ )?PRIVATE KEY-----", re.DOTALL)
_OPENING_KEY = re.compile(rb"\A[0-9a-f]{64}\n?\Z")
_HEAD = 8


@dataclass(frozen=True)
class Secret:
    """A private key and where it lies."""

    path: Path
    scalar: bytes

    def forms(self) -> Iterator[bytes]:
        """Return the byte strings by which the key would be recognised."""
        yield self.scalar
        yield self.scalar.hex().encode()
        yield self.scalar.hex().upper().encode()
        for shift in range(3):
            # The first and the last characters depend on the neighbours, too.
            text = base64.b64encode(bytes(shift) + self.scalar)
            yield text[4 * (shift > 0) : len(text) - 4]


class Search:
    """Finds any of many byte strings in large contents: numpy sorts out places, Python looks at the few that are left.

    Args:
        needles: What is looked for, at least eight bytes each, and what a find is called.
    """

    def __init__(self, needles: Mapping[bytes, str]) -> None:
        short = [name for needle, name in needles.items() if len(needle) < _HEAD]
        if short:
            raise ValueError(f"expected at least {_HEAD} bytes to look for, got fewer for {', '.join(short)}")
        self._by_head: dict[bytes, list[tuple[bytes, str]]] = {}
        self._first, self._second = np.zeros(1 << 16, dtype=bool), np.zeros(1 << 16, dtype=bool)
        for needle, name in needles.items():
            self._by_head.setdefault(needle[:_HEAD], []).append((needle, name))
            self._first[needle[0] << 8 | needle[1]] = True
            self._second[needle[2] << 8 | needle[3]] = True

    def find(self, content: bytes) -> list[str]:
        """Return the names of what stands in a content, with line breaks or without."""
        found = self._find(content)
        joined = content.replace(b"\r", b"").replace(b"\\n", b"").replace(b"\n", b"")
        return sorted(found | self._find(joined)) if joined != content else sorted(found)

    def _find(self, content: bytes) -> set[str]:
        if len(content) < _HEAD:
            return set()
        numbers = np.frombuffer(content, dtype=np.uint8).astype(np.uint16)
        pairs = numbers[:-1] << 8 | numbers[1:]
        places = np.flatnonzero(self._first[pairs[:-2]] & self._second[pairs[2:]])
        return {
            name
            for place in places.tolist()
            for needle, name in self._by_head.get(content[place : place + _HEAD], ())
            if content.startswith(needle, place)
        }


def read_secrets(directory: Path) -> list[Secret]:
    """Return every private key in a directory's files, each once."""
    found: dict[bytes, Secret] = {}
    for path, content in read_files(directory):
        if _OPENING_KEY.match(content):
            scalars = [bytes.fromhex(content.decode())]
        else:
            scalars = [_read_scalar(text) for text in _PEM.findall(content)]
        for scalar in scalars:
            found.setdefault(scalar, Secret(path, scalar))
    return list(found.values())


def read_files(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Return every file below a directory with its content."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()


def find_strays(
    secrets: Mapping[str, Sequence[Secret]], places: Mapping[str, Iterable[tuple[str, bytes]]]
) -> list[str]:
    """Look for the private keys of hosts in places that are not theirs.

    Args:
        secrets: The private keys of each host.
        places: Contents by the host that they belong to, each with its name; those that are nobody's, as what was on
            the wire, under a name that is no host's.

    Returns:
        What was found: a line for each key and content.
    """
    lines = []
    for owner, contents in places.items():
        needles = {
            form: str(secret.path)
            for host, keys in secrets.items()
            if host != owner
            for secret in keys
            for form in secret.forms()
        }
        search = Search(needles)
        for name, content in contents:
            lines += [f"{found} stands in {name}" for found in search.find(content)]
    return lines


def _read_scalar(text: bytes) -> bytes:
    key = load_pem_private_key(text.replace(b"\\n", b"\n"), password=None)
    match key:
        case EllipticCurvePrivateKey():
            return key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
        case Ed25519PrivateKey() | X25519PrivateKey():
            return key.private_bytes_raw()
    raise ValueError(f"expected a key on an elliptic curve, got {type(key).__name__}")
