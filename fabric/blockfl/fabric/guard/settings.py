"""The guard's settings file, read once at start. Relative paths in it count from the file's own directory."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.errors import IdentityError, NodeError
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.settings_file import ListenAddress, Settings, StoredPath, load_settings, read_bytes


class GuardSettings(Settings):
    """One guard.

    Attributes:
        organisation: MSP id of the organisation that runs it.
        genesis: File of the channel's first block.
        listen: "host:port" that peers and clients dial.
        operations_listen: "host:port" of /healthz and /metrics; None for none.
        orderer: "host:port" of the ordering node, which only the guard dials.
        peer: "host:port" of the organisation's own peer, which it asks what is on the ledger.
        server_name: Name to expect in the TLS certificates of both.
        tls_roots: PEM file of the authorities of these certificates.
        tls_certificate: PEM file of the certificate that the guard shows.
        tls_private_key: Its private key.
        certificate: PEM file of the signing certificate with which it asks the peer.
        private_key: Its private key.
    """

    organisation: str = Field(min_length=1)
    genesis: StoredPath
    listen: ListenAddress
    operations_listen: ListenAddress | None = None
    orderer: ListenAddress
    peer: ListenAddress
    server_name: str = Field(min_length=1)
    tls_roots: StoredPath
    tls_certificate: StoredPath
    tls_private_key: StoredPath
    certificate: StoredPath
    private_key: StoredPath

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a settings file.

        Raises:
            NodeError: The file is missing or not acceptable; the text says which field.
        """
        return load_settings(cls, path, "a guard's settings")

    def endpoint(self, address: str) -> Endpoint:
        """Returns the ordering node or the peer as it is dialled.

        Raises:
            NodeError: The roots cannot be read or used.
        """
        try:
            return Endpoint(address=address, tls_roots_pem=read_bytes(self.tls_roots), server_name=self.server_name)
        except IdentityError as error:
            raise NodeError(f"{self.tls_roots}: {error}") from error

    def signer(self) -> Signer:
        """Returns who asks the peer.

        Raises:
            NodeError: Its files cannot be used.
        """
        try:
            return Signer.load(self.organisation, self.certificate, self.private_key)
        except IdentityError as error:
            raise NodeError(f"the identity of the guard cannot be used: {error}") from error
