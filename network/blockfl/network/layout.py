"""Where everything lies: below one organisation's own directory, and below that of a machine that has all of them.

One organisation's directory, which is all that its host needs:

host.json                 how the organisation's nodes listen, and how others dial them
member.json               its membership file: what the others must know
founding.json             what was founded, and beside it each founder's signature
genesis.block             the channel's first block
consortium.json           the record that every organisation agrees to
contract.tar.gz           the contract's package
authority/                its certificates' authorities (private keys: 0600)
peer/ orderer/ contract/  what these nodes read; guard/ likewise, of the guard before the ordering node
users/ profiles/          administrator and agent, and how they reach the peer
gateways/                 of an organisation without a peer: TLS roots of those whose gateways it uses
opening-key               of a member of the committee
data/                     what its nodes write
builder/                  with which Fabric's peer takes the contract
run/, logs/               processes
adopted.json, peer.env    where the nodes are those of a channel that was there before
network.json              where they run in containers

A machine that has all organisations has their directories below ``organisations/``, and beside them
``consortium.yaml``, ``node/`` (the embedded node's ledger) and ``run/`` and ``logs/`` of all processes.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OrganisationLayout:
    """One organisation's directory."""

    directory: Path

    @property
    def host(self) -> Path:
        """How its nodes listen, and how others dial them."""
        return self.directory / "host.json"

    @property
    def member(self) -> Path:
        """Its membership file."""
        return self.directory / "member.json"

    @property
    def founding(self) -> Path:
        """What was founded."""
        return self.directory / "founding.json"

    @property
    def genesis(self) -> Path:
        """The channel's first block."""
        return self.directory / "genesis.block"

    @property
    def adopted(self) -> Path:
        """Says that the nodes are those of a channel that was there before."""
        return self.directory / "adopted.json"

    @property
    def peer_environment(self) -> Path:
        """What the peer of such a channel must be told."""
        return self.directory / "peer.env"

    @property
    def peer_tls_roots(self) -> Path:
        """The TLS roots of such a peer."""
        return self.directory / "authority" / "peer-tls-certificate.pem"

    @property
    def consortium(self) -> Path:
        """The canonical record that the organisation agrees to."""
        return self.directory / "consortium.json"

    @property
    def package(self) -> Path:
        """The contract's package."""
        return self.directory / "contract.tar.gz"

    @property
    def builder(self) -> Path:
        """The external builder of Fabric's peer."""
        return self.directory / "builder"

    def data(self, kind: str) -> Path:
        """What a ``peer``, ``orderer``, ``agent`` or ``aggregator`` writes."""
        return self.directory / "data" / kind

    @property
    def snapshot(self) -> Path:
        """From which the peer joins the channel, where that is not its first block."""
        return self.data("peer") / "snapshots" / "joined"

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
        """A file of the organisation's ``peer``, ``orderer``, ``guard`` or ``contract`` node."""
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

    def gateway_roots(self, name: str) -> Path:
        """The TLS roots of another organisation whose gateway this one uses: it runs no peer."""
        return self.directory / "gateways" / f"{name}.pem"

    @property
    def opening_key(self) -> Path:
        """The private key with which a committee member opens updates."""
        return self.directory / "opening-key"

    @property
    def watched(self) -> Path:
        """Copies of the certificates whose ends the contract service tells: it sees no other node's files."""
        return self.directory / "contract" / "watched"

    @property
    def service(self) -> Path:
        """The contract service's settings."""
        return self.directory / "contract" / "service.json"


@dataclass(frozen=True)
class Layout:
    """The directory of a machine that has all organisations."""

    directory: Path

    def organisation(self, name: str) -> OrganisationLayout:
        """The directory of one organisation."""
        return OrganisationLayout(self.directory / "organisations" / name)

    @property
    def description(self) -> Path:
        """The description as it was brought up."""
        return self.directory / "consortium.yaml"

    @property
    def node(self) -> Path:
        """The embedded node's ledger."""
        return self.directory / "node"

    @property
    def node_settings(self) -> Path:
        """The embedded node's settings."""
        return self.directory / "node.json"

    @property
    def state(self) -> Path:
        """Which ledger runs here, and how."""
        return self.directory / "network.json"


def is_part(directory: Path) -> bool:
    """Whether a directory is one organisation's own, and not that of a machine with all of them."""
    return OrganisationLayout(directory).host.exists()
