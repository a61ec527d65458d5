"""Chaincode packages of contracts that run as services.

Owns the archive: the same label and connection give the same bytes everywhere, so that every organisation arrives at
the same package id by itself. Nothing is compressed, because compressors differ between versions and platforms.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from blockfl.fabric.errors import ConfigError

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_STORED_BLOCK_BYTES: Final = 0xFFFF
_CODE: Final = "code.tar.gz"
_CONNECTION: Final = "connection.json"
_MAXIMUM_FILE_BYTES: Final = 1 << 20

MUTUAL_TLS_CONNECTION: Final = {
    "address": "{{.addr}}",
    "dial_timeout": "10s",
    "tls_required": True,
    "client_auth_required": True,
    "root_cert": "{{.root}}",
    "client_cert": "{{.cert}}",
    "client_key": "{{.key}}",
}
"""The connection of a contract service whose values each organisation fills in at its own peer."""


def package_contract(
    label: str, connection: Mapping[str, Any] = MUTUAL_TLS_CONNECTION, code: Mapping[str, bytes] = MappingProxyType({})
) -> bytes:
    """Make the package of a contract service.

    Args:
        label: what operators call it, e.g. "blockfl_1".
        connection: content of connection.json: where peers dial the service, and with what TLS.
        code: further files beside it, by name; peers keep them, and the package's id covers them.

    Returns:
        A gzipped tar archive, ready to be installed.

    Raises:
        ConfigError: a peer would refuse the label, or the connection names no address.
    """
    if not _LABEL.fullmatch(label):
        raise ConfigError(
            f"expected a package label of letters, digits and _ . + - that begins with a letter or digit, got {label!r}"
        )
    if not connection.get("address"):
        raise ConfigError('expected an "address" in the connection of a contract service, e.g. "{{.addr}}"')
    archive = _archive({_CONNECTION: _json(connection), **code})
    return _archive({"metadata.json": _json({"path": "", "type": "ccaas", "label": label}), _CODE: archive})


def package_id(package: bytes) -> str:
    """The id that every peer gives to a package: its label and its SHA-256.

    Raises:
        ConfigError: it is no chaincode package.
    """
    return f"{_read_label(package)}:{hashlib.sha256(package).hexdigest()}"


def read_code(package: bytes, name: str) -> bytes:
    """Return a file that lies beside a package's connection.json.

    Raises:
        ConfigError: it is no chaincode package, or has no such file.
    """
    return _read_file(_read_file(package, _CODE), name)


def _read_label(package: bytes) -> str:
    try:
        label = json.loads(_read_file(package, "metadata.json"))["label"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"expected a label in the package's metadata.json, got none: {error}") from error
    if not isinstance(label, str):
        raise ConfigError("expected a label in the package's metadata.json, got none")
    return label


def _read_file(archive: bytes, name: str) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            file = opened.extractfile(name)
            content = file.read(_MAXIMUM_FILE_BYTES + 1) if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        raise ConfigError(f"expected a chaincode package (tar.gz with {name}), got another file: {error}") from error
    if len(content) > _MAXIMUM_FILE_BYTES:
        raise ConfigError(f"expected at most {_MAXIMUM_FILE_BYTES} bytes of {name} in a chaincode package, got more")
    return content


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return _gzip(buffer.getvalue())


def _gzip(content: bytes) -> bytes:
    """A gzip file of stored blocks, without a time.

    Source: RFC 1951, 3.2.4 and RFC 1952, 2.3.
    """
    blocks = []
    for start in range(0, len(content), _STORED_BLOCK_BYTES):
        piece = content[start : start + _STORED_BLOCK_BYTES]
        is_last = start + len(piece) == len(content)
        blocks.append(struct.pack("<BHH", is_last, len(piece), len(piece) ^ 0xFFFF) + piece)
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    return header + b"".join(blocks) + struct.pack("<II", zlib.crc32(content), len(content))
