"""A connection profile: everything one identity needs to reach the ledger through its own organisation's peer.

Example:
    >>> profile = ConnectionProfile.load(Path("organisations/cleveland/profiles/agent.json"))
    >>> profile.organisation
    'cleveland'
"""

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.identity.signing import Signer
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import ChannelName, MspId, Name

_WRITTEN_BY = (
    "`blockfl network up` writes one for each identity: name organisations/<name>/profiles/agent.json of the network's "
    "directory, with --profile or in BLOCKFL_PROFILE"
)
FileName = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")]


class ConnectionProfile(BaseModel):
    """Where the ledger is, and who asks. Paths are relative to the profile's own file.

    Attributes:
        endpoint: ``host:port`` of the organisation's peer (its Gateway service).
        server_name: Name in the peer's TLS certificate, when it is not the host.
        opening_key: Only for committee members: the file of the private opening key.
        genesis: The organisation's own copy of the channel's first block, the anchor of an audit.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    network: Name
    channel: ChannelName
    contract: Name
    organisation: MspId
    endpoint: str
    server_name: str | None = None
    tls_roots: FileName
    certificate: FileName
    private_key: FileName
    opening_key: FileName | None = None
    genesis: FileName | None = None

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
        return profile.model_copy(update=paths)

    def save(self, path: Path) -> None:
        """Write the profile at once: whoever reads it meanwhile has the old one or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(self.model_dump(exclude_none=True), indent=2, sort_keys=True) + "\n")
        partial.rename(path)

    def make_endpoint(self) -> Endpoint:
        """Return the endpoint with the TLS roots read."""
        roots = self._read(self.tls_roots, "TLS roots")
        return Endpoint(address=self.endpoint, tls_roots_pem=roots, server_name=self.server_name)

    def load_signer(self) -> Signer:
        """Return the identity with its private key."""
        self._read(self.certificate, "certificate")
        self._read(self.private_key, "private key")
        return Signer.load(self.organisation, Path(self.certificate), Path(self.private_key))

    @staticmethod
    def _read(path: str, what: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise LedgerError(f"{path}: the {what} named by the profile cannot be read ({error.strerror})") from error
