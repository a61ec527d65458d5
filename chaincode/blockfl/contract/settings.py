"""What a contract service is told by its organisation's operator: one JSON file, read once, at the start.

Owns the checks of that file and of the files it names. Refuses keys that others can read, a consortium record that
is not canonical, and unless told so to listen beyond this machine, or to serve under the package of other code.

Example of ``service.json`` (paths are relative to it):
    {"organisation": "alpha", "consortium": "consortium.json", "opening_key": null, "package_id": "blockfl:ab…",
     "listen": "127.0.0.1:9999", "certificate": "tls.pem", "private_key": "tls-key.pem", "client_roots": "peers.pem"}
"""

import ipaddress
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from blockfl.contract.release import identify_own_package
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Identity, Signer, parse_private_key
from blockfl.fabric.shim import ServerTls
from blockfl.protocol.canonical import MspId
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.records import Consortium
from blockfl.protocol.seal import decode_opening_key

_SHARED: Final = stat.S_IRWXG | stat.S_IRWXO


class ContractSettingsError(Exception):
    """The service cannot start as it is configured; the text says what to change."""


FileName = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")]


class ServiceFile(BaseModel):
    """The configuration file as it is written; paths are relative to it.

    Attributes:
        organisation: Whose service this is: the MSP id.
        consortium: The consortium record that this organisation agreed to, canonical JSON.
        opening_key: The private opening key (32 bytes as hex, mode 0600); null outside the committee.
        package_id: Id of the installed package, ``label:hash``.
        listen: ``host:port`` that the organisation's peer dials.
        certificate: The service's TLS certificate, PEM.
        private_key: Its key, PEM, mode 0600.
        client_roots: The authorities whose peers are let in, PEM.
        allow_public: Listen on another address than loopback.
        other_code: Serve although the package stands for other code than this.
        operations_listen: ``host:port`` where health and metrics are told in the clear; null: nowhere.
        watched: Directory of other certificates of the organisation whose ends are told there; null: none.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    organisation: MspId
    consortium: FileName
    opening_key: FileName | None
    package_id: Annotated[str, StringConstraints(pattern=r"^[^:\s]+:[0-9a-f]{64}$")]
    listen: Annotated[str, StringConstraints(pattern=r"^\S+:[0-9]{1,5}$")]
    certificate: FileName
    private_key: FileName
    client_roots: FileName
    allow_public: bool = False
    other_code: bool = False
    operations_listen: Annotated[str, StringConstraints(pattern=r"^\S+:[0-9]{1,5}$")] | None = None
    watched: FileName | None = None


@dataclass(frozen=True, kw_only=True)
class ContractSettings:
    """What the contract itself knows of its organisation.

    Attributes:
        organisation: Whose service this is.
        consortium: The record that it agreed to.
        opening_key: Its private opening key, for members of the committee.
    """

    organisation: str
    consortium: Consortium
    opening_key: OpeningKey | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Everything that a contract service needs, loaded and checked."""

    contract: ContractSettings
    package_id: str
    listen: str
    tls: ServerTls = field(repr=False)
    operations_listen: str | None = None
    watched: Path | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the configuration file and the files that it names.

        Raises:
            SettingsError: A file is missing or malformed, a key is readable by others, the address is not loopback,
                the organisation is not a member, or in the committee without an opening key, or the package stands
                for other code than this.
        """
        said = _parse(path)
        consortium = _load_consortium(path.parent / said.consortium)
        key = None if said.opening_key is None else load_opening_key(path.parent / said.opening_key)
        _check_membership(said, consortium, key is not None)
        if not said.other_code:
            _check_code(path, consortium.contract, said.package_id)
        for address in (said.listen, said.operations_listen):
            if address is not None and not said.allow_public and not _is_loopback(address):
                raise ContractSettingsError(
                    f"{path}: expected a loopback address to listen on, got {address}: "
                    'set "allow_public": true if peers on other machines dial this service'
                )
        private_key = path.parent / said.private_key
        check_private(private_key)
        try:
            tls = ServerTls.load(
                certificate=path.parent / said.certificate,
                private_key=private_key,
                client_roots=path.parent / said.client_roots,
            )
            # Raises when the key is not the certificate's, which gRPC would report as a port in use.
            Signer(
                Identity(msp_id=said.organisation, certificate_pem=tls.certificate), parse_private_key(tls.private_key)
            )
        except FabricError as error:
            raise ContractSettingsError(f"{path}: {error}") from error
        contract = ContractSettings(organisation=said.organisation, consortium=consortium, opening_key=key)
        return cls(
            contract=contract,
            package_id=said.package_id,
            listen=said.listen,
            tls=tls,
            operations_listen=said.operations_listen,
            watched=None if said.watched is None else path.parent / said.watched,
        )


def load_opening_key(path: Path) -> OpeningKey:
    """Read a private opening key: 32 bytes as hex.

    Raises:
        SettingsError: The file is missing, readable by others, or holds something else.
    """
    check_private(path)
    try:
        return decode_opening_key(_read(path).decode("ascii", "replace"))
    except ProtocolError as error:
        raise ContractSettingsError(f"{path}: {error}") from error


def check_private(path: Path) -> None:
    """Check that only its owner can use a key file.

    Raises:
        SettingsError: Others can, or it is not there.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ContractSettingsError(f"cannot read {path}: {error.strerror}") from error
    if mode & _SHARED:
        raise ContractSettingsError(
            f"{path}: expected a key that only its owner can read, got mode {mode:04o}: chmod 600 {os.fspath(path)}"
        )


def _parse(path: Path) -> ServiceFile:
    try:
        return ServiceFile.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ContractSettingsError(f"{path}: {where}: {first['msg']}") from error


def _load_consortium(path: Path) -> Consortium:
    try:
        return Consortium.decode(_read(path))
    except ProtocolError as error:
        raise ContractSettingsError(f"{path}: {error}") from error


def _check_membership(said: ServiceFile, consortium: Consortium, has_key: bool) -> None:
    members = [member.organisation for member in consortium.members]
    if said.organisation not in members:
        raise ContractSettingsError(
            f"{said.organisation} is not a member of the consortium {consortium.network} ({', '.join(members)})"
        )
    if said.organisation in consortium.committee and not has_key:
        raise ContractSettingsError(
            f"{said.organisation} is in the committee: expected the path of its opening key, got null in opening_key"
        )


def _check_code(path: Path, contract: str, package_id: str) -> None:
    own = identify_own_package(contract)
    if package_id != own:
        raise ContractSettingsError(
            f"{path}: this is other code than the package's: expected to serve {own}, got {package_id} as package_id; "
            "install the release that is in force (`blockfl network contract show`), or bring this one into force "
            '(`blockfl network up --upgrade`, or `network contract approve`); "other_code": true serves it unreviewed'
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ContractSettingsError(f"cannot read {path}: {error.strerror}") from error


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
