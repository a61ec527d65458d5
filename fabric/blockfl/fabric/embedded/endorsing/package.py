"""Chaincode packages: what `install` stores, and where the contract service of an installed package listens.

Owns parsing of the archive (metadata.json, code.tar.gz with connection.json) and the placeholders in
connection.json, which each organisation fills with its own values. Refuses every kind of chaincode but services.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import grpc
import grpc.aio

from blockfl.fabric.errors import NodeError

_LABEL = re.compile(r"[A-Za-z0-9]+([.+_-][A-Za-z0-9]+)*")
_PLACEHOLDER = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_MAX_FILE_BYTES = 1 << 20
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, kw_only=True)
class ServiceAddress:
    """Where a contract service listens, and the TLS that it and the node show each other.

    Attributes:
        address: "host:port".
        dial_timeout_s: How long a connection and its registration may take.
        tls_roots: PEM of the authorities of the service's certificate; None without TLS.
        client_certificate: PEM shown to the service.
        client_key: Its private key in PEM.
    """

    address: str
    dial_timeout_s: float = 3.0
    tls_roots: bytes | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)

    def open_channel(self, options: tuple[tuple[str, Any], ...]) -> grpc.aio.Channel:
        """Opens a gRPC channel; nothing is dialled yet."""
        if self.tls_roots is None:
            return grpc.aio.insecure_channel(self.address, options)
        credentials = grpc.ssl_channel_credentials(self.tls_roots, self.client_key, self.client_certificate)
        return grpc.aio.secure_channel(self.address, credentials, options)


@dataclass(frozen=True, kw_only=True)
class Package:
    """An installed chaincode package.

    Attributes:
        label: From its metadata.
        package_id: Label and SHA-256 of the archive.
        connection: Text of connection.json, placeholders unfilled.
    """

    label: str
    package_id: str
    connection: str

    @classmethod
    def parse(cls, archive: bytes) -> Package:
        """Takes a package apart.

        Raises:
            NodeError: It is no chaincode package, or one of chaincode that is not a service.
        """
        files = _read_archive(archive, "the chaincode package")
        metadata = _parse_json(files.get("metadata.json"), "metadata.json")
        label, kind = metadata.get("label"), metadata.get("type")
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise NodeError(f"invalid label {label!r}: expected letters and digits, joined by '.', '+', '-' or '_'")
        if str(kind).lower() not in ("ccaas", "external"):
            raise NodeError(
                f"expected a package of type ccaas, got {kind!r}: the embedded node only dials contract services"
            )
        if "code.tar.gz" not in files:
            raise NodeError("did not find a code package inside the package: expected code.tar.gz")
        connection = _read_archive(files["code.tar.gz"], "code.tar.gz").get("connection.json")
        _parse_json(connection, "connection.json")
        assert connection is not None
        return cls(label=label, package_id=f"{label}:{sha256(archive).hexdigest()}", connection=connection.decode())

    def service(self, values: Mapping[str, str]) -> ServiceAddress:
        """Fills the placeholders of connection.json with an organisation's own values.

        Args:
            values: For `{{.addr}}`, `{{.root}}`, `{{.cert}}`, `{{.key}}` and the like.

        Raises:
            NodeError: A value is missing or the result makes no sense.
        """
        fields = {name: _fill(value, values) for name, value in json.loads(self.connection).items()}
        address = fields.get("address")
        if not isinstance(address, str) or not re.fullmatch(r".+:\d+", address):
            raise NodeError(f"connection.json of {self.package_id}: expected an address host:port, got {address!r}")
        timeout_s = _parse_duration(fields.get("dial_timeout") or "3s", self.package_id)
        if not fields.get("tls_required"):
            return ServiceAddress(address=address, dial_timeout_s=timeout_s)
        needed = ["root_cert", *(("client_cert", "client_key") if fields.get("client_auth_required") else ())]
        for name in needed:
            if not fields.get(name):
                raise NodeError(f"connection.json of {self.package_id}: expected {name}, got nothing")
        pem = {name: str(fields[name]).encode() for name in needed}
        return ServiceAddress(
            address=address,
            dial_timeout_s=timeout_s,
            tls_roots=pem["root_cert"],
            client_certificate=pem.get("client_cert"),
            client_key=pem.get("client_key"),
        )


def _read_archive(data: bytes, what: str) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            files: dict[str, bytes] = {}
            for member in archive:
                name = member.name.removeprefix("./")
                if not member.isfile() or "/" in name:
                    continue
                content = archive.extractfile(member)
                assert content is not None
                files[name] = content.read(_MAX_FILE_BYTES + 1)
                if len(files[name]) > _MAX_FILE_BYTES:
                    raise NodeError(f"{name} in {what} is larger than {_MAX_FILE_BYTES} bytes")
            return files
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise NodeError(f"could not parse {what} as a gzipped tar archive: {error}") from error


def _parse_json(content: bytes | None, name: str) -> dict[str, Any]:
    if content is None:
        raise NodeError(f"did not find {name} inside the package")
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise NodeError(f"could not parse {name}: {error}") from error
    if not isinstance(parsed, dict):
        raise NodeError(f"expected a JSON object in {name}, got {type(parsed).__name__}")
    return parsed


def _fill(value: object, values: Mapping[str, str]) -> object:
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise NodeError(
                f"connection.json asks for {match[0]}, but this organisation's settings have no such value: "
                f"expected one of {', '.join(sorted(values)) or 'none'}"
            )
        return values[match[1]]

    return _PLACEHOLDER.sub(lookup, value)


def _parse_duration(text: object, package_id: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", str(text))
    if match is None:
        raise NodeError(f"connection.json of {package_id}: expected a dial_timeout like 10s, got {text!r}")
    return float(match[1]) * _UNITS_S[match[2]]
