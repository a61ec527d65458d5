"""The embedded node's configuration file, read once at start.

Owns names, defaults and checks of `node.json`. Relative paths count from the file's own directory. Refuses
unknown fields, organisations named twice, addresses used twice, and listening on anything but loopback unless
`allow_public` says so.

Source: the field names are this project's; the contract's values fill the placeholders `{{.addr}}`, `{{.root}}`,
`{{.cert}}` and `{{.key}}` of a package's connection.json, as the builder of real peers does.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from blockfl.fabric.settings_file import ListenAddress, Settings, StoredPath, load_settings, read_text, resolve_paths


class ContractEndpoint(Settings):
    """Where an organisation's contract service listens, and the TLS that the node shows it.

    Attributes:
        address: "host:port" of the service, `{{.addr}}`.
        tls_roots: PEM file of the authorities of its certificate, `{{.root}}`.
        client_certificate: PEM file that the node shows, `{{.cert}}`.
        client_key: Its private key, `{{.key}}`.
    """

    address: ListenAddress
    tls_roots: StoredPath | None = None
    client_certificate: StoredPath | None = None
    client_key: StoredPath | None = None

    def values(self) -> dict[str, str]:
        """Reads what fills the placeholders.

        Raises:
            NodeError: A file cannot be read.
        """
        files = {"root": self.tls_roots, "cert": self.client_certificate, "key": self.client_key}
        return {"addr": self.address} | {name: read_text(path) for name, path in files.items() if path is not None}


class EndpointSettings(Settings):
    """One TLS endpoint of the node and the identity behind it.

    Attributes:
        msp_id: The organisation.
        listen: "host:port"; port 0 takes a free one.
        certificate: PEM file of the signing certificate (role peer or orderer).
        private_key: Its private key.
        tls_certificate: PEM file of the TLS certificate.
        tls_private_key: Its private key.
    """

    msp_id: str = Field(min_length=1)
    listen: ListenAddress
    certificate: StoredPath
    private_key: StoredPath
    tls_certificate: StoredPath
    tls_private_key: StoredPath


class OrganisationSettings(EndpointSettings):
    """The peer of one organisation and its contract service.

    Attributes:
        contract: None when connection.json needs no values.
    """

    contract: ContractEndpoint | None = None


class NodeSettings(Settings):
    """The embedded node.

    Attributes:
        directory: Where the node keeps everything; created when missing.
        channel: Name of the channel.
        genesis: File of the channel's configuration block 0.
        orderer: The ordering endpoint.
        organisations: One endpoint each.
        time_window_s: How far a proposal's timestamp may be off.
        execute_timeout_s: How long a contract may take for one transaction.
        allow_public: Whether to listen on other addresses than loopback.
        operations_listen: Loopback "host:port" of /healthz and /status; None for none.
    """

    directory: StoredPath
    channel: str = Field(min_length=1)
    genesis: StoredPath
    orderer: EndpointSettings
    organisations: tuple[OrganisationSettings, ...] = Field(min_length=1, strict=False)
    time_window_s: float = Field(default=30.0, gt=0, strict=False)
    execute_timeout_s: float = Field(default=30.0, gt=0, strict=False)
    allow_public: bool = False
    operations_listen: ListenAddress | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [organisation.msp_id for organisation in self.organisations]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"expected each organisation once, got {', '.join(sorted(repeated))} more often")
        listens = [endpoint.listen for endpoint in (self.orderer, *self.organisations)]
        if self.operations_listen:
            listens.append(self.operations_listen)
        used = [address for address in listens if not address.endswith(":0")]
        if repeated := {address for address in used if used.count(address) > 1}:
            raise ValueError(f"expected a port of its own for each endpoint, got {', '.join(sorted(repeated))} twice")
        for address in listens:
            public = not _is_loopback(address)
            if public and (not self.allow_public or address == self.operations_listen):
                raise ValueError(
                    f"refusing to listen on {address}: the embedded node is for one machine, its operator controls "
                    "every organisation; use 127.0.0.1, or set allow_public if you know what that means"
                )
        return self

    @classmethod
    def load(cls, path: Path) -> NodeSettings:
        """Reads a settings file; relative paths in it count from its directory.

        Raises:
            NodeError: The file is missing or not acceptable; the text says which field.
        """
        return load_settings(cls, path, "a node's settings")

    def resolved(self, base: Path) -> NodeSettings:
        """Returns the same settings with paths that do not depend on the working directory."""
        return resolve_paths(self, base)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
