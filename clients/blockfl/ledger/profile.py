"""A connection profile: everything one identity needs to reach the ledger, through its own organisation's peer.

An institution that runs no peer names the gateways of two or more others instead, and pins the channel's first block.

Example:
    >>> profile = ConnectionProfile.load(Path("organisations/cleveland/profiles/agent.json"))
    >>> profile.organisation
    'cleveland'
"""

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.identity.signing import Signer
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import ChannelName, MspId, Name

_WRITTEN_BY = (
    "`blockfl network up` writes one for each identity: name organisations/<name>/profiles/agent.json of the network's "
    "directory, with --profile or in BLOCKFL_PROFILE"
)
FileName = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")]


MINIMUM_GATEWAYS = 2
"""Of an institution without a peer: when one is gone, or lies, another is there."""


class ForeignGateway(BaseModel):
    """The gateway of another organisation.

    Attributes:
        organisation: Whose peer it is.
        endpoint: ``host:port`` of the peer.
        server_name: Name in the peer's TLS certificate, when it is not the host.
        tls_roots: The authorities that may have issued that certificate.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    organisation: MspId
    endpoint: str
    server_name: str | None = None
    tls_roots: FileName

    def make_endpoint(self) -> Endpoint:
        """Return the endpoint with the TLS roots read.

        Raises:
            LedgerError: They cannot be read.
        """
        roots = _read(self.tls_roots, "TLS roots")
        return Endpoint(address=self.endpoint, tls_roots_pem=roots, server_name=self.server_name)


class ConnectionProfile(BaseModel):
    """Where the ledger is, and who asks. Paths are relative to the profile's own file.

    Attributes:
        endpoint: ``host:port`` of the organisation's peer (its Gateway service).
        server_name: Name in the peer's TLS certificate, when it is not the host.
        opening_key: Only for committee members: the file of the private opening key.
        genesis: The organisation's own copy of the channel's first block, the anchor of an audit.
        gateways: Of an institution without a peer: whose gateways it uses, instead of ``endpoint`` and ``tls_roots``.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    network: Name
    channel: ChannelName
    contract: Name
    organisation: MspId
    endpoint: str = ""
    server_name: str | None = None
    tls_roots: FileName | None = None
    certificate: FileName
    private_key: FileName
    opening_key: FileName | None = None
    genesis: FileName | None = None
    gateways: tuple[ForeignGateway, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.gateways:
            if not self.endpoint or self.tls_roots is None:
                raise ValueError("expected endpoint and tls_roots of the organisation's peer")
            return self
        if self.endpoint or self.tls_roots is not None or self.genesis is None:
            raise ValueError("expected gateways, and the genesis to check them by, instead of endpoint and tls_roots")
        if len({one.organisation for one in self.gateways} - {self.organisation}) < MINIMUM_GATEWAYS:
            raise ValueError(f"expected gateways of {MINIMUM_GATEWAYS} other organisations or more")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a profile and make its paths absolute.

        Raises:
            LedgerError: When the file is missing or malformed, naming the field.
        """
        try:
            profile = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise LedgerError(f"{path}: no connection profile there ({error.strerror}); {_WRITTEN_BY}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise LedgerError(
                f"{path}: this is no connection profile: {place or 'not JSON'}: {first['msg']}; {_WRITTEN_BY}"
            ) from error
        home = path.resolve().parent
        paths = {
            name: str(home / value)
            for name in ("tls_roots", "certificate", "private_key", "opening_key", "genesis")
            if (value := getattr(profile, name)) is not None
        }
        gateways = tuple(one.model_copy(update={"tls_roots": str(home / one.tls_roots)}) for one in profile.gateways)
        return profile.model_copy(update={**paths, "gateways": gateways})

    def save(self, path: Path) -> None:
        """Write the profile at once: a process that reads it meanwhile has the old one or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        content = self.model_dump(mode="json", exclude_defaults=True)
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        partial.rename(path)

    def make_endpoint(self) -> Endpoint:
        """Return the endpoint of the own peer, or of the first gateway, with the TLS roots read."""
        if self.gateways:
            return self.gateways[0].make_endpoint()
        roots = _read(self.tls_roots or "", "TLS roots")
        return Endpoint(address=self.endpoint, tls_roots_pem=roots, server_name=self.server_name)

    def load_signer(self) -> Signer:
        """Return the identity with its private key."""
        _read(self.certificate, "certificate")
        _read(self.private_key, "private key")
        return Signer.load(self.organisation, Path(self.certificate), Path(self.private_key))


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: the {what} named by the profile cannot be read ({error.strerror})") from error
