"""Where everything of a network lies below its directory.

consortium.yaml           the description as it was brought up
consortium.json           the record that every organisation agrees to
genesis.block             the channel's first block
contract.tar.gz           the contract's package
organisations/<name>/     what belongs to one organisation (private keys: 0600)
node/                     the embedded node's ledger
data/<node>/              what a peer or an ordering node of Fabric writes
builder/                  with which Fabric's peers take the contract
run/, logs/               processes
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OrganisationLayout:
    """One organisation's part; on several hosts it is all that the organisation gets."""

    directory: Path

    def signing_authority(self, suffix: str) -> Path:
        """The signing authority's ``certificate`` or ``key``."""
        return self.directory / "authority" / f"signing-{suffix}.pem"

    def tls_authority(self, suffix: str) -> Path:
        """The TLS authority's ``certificate`` or ``key``."""
        return self.directory / "authority" / f"tls-{suffix}.pem"

    def admin_tls_authority(self, suffix: str) -> Path:
        """``certificate`` or ``key`` of the authority whose clients administer the ordering node."""
        return self.directory / "authority" / f"admin-tls-{suffix}.pem"

    def node(self, kind: str, name: str) -> Path:
        """A file of the organisation's ``peer``, ``orderer`` or ``contract`` node."""
        return self.directory / kind / name

    def user(self, user: str, name: str) -> Path:
        """A file of a user: ``admin`` or ``agent``."""
        return self.directory / "users" / user / name

    def profile(self, user: str) -> Path:
        """The connection profile of a user."""
        return self.directory / "profiles" / f"{user}.json"

    @property
    def tls_roots(self) -> Path:
        """The TLS roots of the organisation's own nodes."""
        return self.tls_authority("certificate")

    @property
    def opening_key(self) -> Path:
        """The private key with which a committee member opens updates."""
        return self.directory / "opening-key"

    @property
    def service(self) -> Path:
        """The contract service's settings."""
        return self.directory / "contract" / "service.json"


@dataclass(frozen=True)
class Layout:
    """A network's directory."""

    directory: Path

    def organisation(self, name: str) -> OrganisationLayout:
        """The part of one organisation."""
        return OrganisationLayout(self.directory / "organisations" / name)

    @property
    def description(self) -> Path:
        """The description as it was brought up."""
        return self.directory / "consortium.yaml"

    @property
    def consortium(self) -> Path:
        """The canonical record."""
        return self.directory / "consortium.json"

    @property
    def genesis(self) -> Path:
        """The channel's first block."""
        return self.directory / "genesis.block"

    @property
    def package(self) -> Path:
        """The contract's package."""
        return self.directory / "contract.tar.gz"

    @property
    def node(self) -> Path:
        """The embedded node's ledger."""
        return self.directory / "node"

    def data(self, node: str) -> Path:
        """What a node of Fabric writes."""
        return self.directory / "data" / node

    @property
    def builder(self) -> Path:
        """The external builder of Fabric's peers."""
        return self.directory / "builder"

    @property
    def node_settings(self) -> Path:
        """The embedded node's settings."""
        return self.directory / "node.json"

    @property
    def state(self) -> Path:
        """Which ledger runs here, and how."""
        return self.directory / "network.json"
