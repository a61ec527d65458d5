"""The membership file: what the others must know of an organisation, signed by its administrator; nothing is secret.

Canonical JSON, so that everybody computes one digest of it. Refuses a file whose certificates, keys, addresses and
roles do not fit together, and one that its own administrator has not signed.

Example:
    member = Member.decode(path.read_bytes())
    member.verify()
    print(member.membership.msp_id, member.fingerprints())
"""

from typing import Annotated, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from blockfl.fabric.channel.config import Address, Consenter
from blockfl.fabric.channel.spec import OrganisationSpec
from blockfl.fabric.errors import FabricError, IdentityError
from blockfl.fabric.identity.membership import msp_config
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.signing import Identity, Signer, parse_certificate, verify_signature
from blockfl.network.errors import NetworkError
from blockfl.network.port import format_address, parse_address
from blockfl.protocol.canonical import Hex, MspId, Name, Record
from blockfl.protocol.economics import TREASURY
from blockfl.protocol.records import PublicKey, Role

_DOMAIN = b"BLOCKFL-MEMBERSHIP-V1\0"
_SIGNED = "; ask the organisation for its file as `blockfl network member` wrote it"
Pem = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^-----BEGIN CERTIFICATE-----\n")]
Signature = Annotated[Hex, StringConstraints(max_length=200)]


class OrderingNode(Record):
    """An ordering node as the channel's configuration names it.

    Attributes:
        address: ``host:port`` that the other ordering nodes dial, and everybody else, too, if there is no guard.
        certificate: Its signing certificate.
        tls_certificate: Its TLS certificate.
        guard: ``host:port`` that peers and clients dial, where a guard stands before it; otherwise not in the file.
    """

    address: str
    certificate: Pem
    tls_certificate: Pem
    guard: str | None = None

    @property
    def endpoint(self) -> str:
        """Where peers and clients reach it."""
        return self.guard or self.address

    @model_serializer(mode="wrap")
    def _leave_out(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        content: dict[str, object] = serialise(self)
        return {name: value for name, value in content.items() if name != "guard" or value is not None}


class Membership(Record):
    """What the others must know of an organisation.

    Attributes:
        name: What files, hosts and people call it.
        msp_id: What the ledger calls it.
        roles: Ascending.
        signing_roots: Certificates of the authorities that sign its members'.
        tls_roots: Likewise of its nodes' TLS certificates.
        peer: ``host:port`` that others dial for its peer, None of an institution that runs none.
        orderer: Its ordering node, if it runs one.
        opening_key: Public key for which updates are sealed, of a member of the committee.
    """

    name: Name
    msp_id: MspId
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    signing_roots: Annotated[tuple[Pem, ...], Field(min_length=1, max_length=9)]
    tls_roots: Annotated[tuple[Pem, ...], Field(min_length=1, max_length=9)]
    peer: str | None
    orderer: OrderingNode | None
    opening_key: PublicKey | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if TREASURY in (self.name, self.msp_id):
            raise ValueError(f"{TREASURY} is the account that belongs to nobody")
        if tuple(sorted(set(self.roles))) != self.roles:
            raise ValueError("expected each role once, ascending")
        if (self.opening_key is not None) != ("committee" in self.roles):
            raise ValueError("expected an opening key of a member of the committee, and of nobody else")
        if self.peer is None and (self.roles != ("institution",) or self.orderer is not None):
            raise ValueError("expected a peer of every organisation that is more than an institution")
        return self

    def spec(self) -> OrganisationSpec:
        """Return the organisation as the channel's configuration has it.

        Raises:
            NetworkError: A certificate or an address is none.
        """
        try:
            roots, tls_roots = ([pem.encode() for pem in one] for one in (self.signing_roots, self.tls_roots))
            return OrganisationSpec(
                name=self.name,
                msp_config=msp_config(self.msp_id, roots, tls_roots),
                anchor_peers=(_address(self.peer),) if self.peer else (),
                orderer_endpoints=(_address(self.orderer.endpoint),) if self.orderer else (),
            )
        except FabricError as error:
            raise NetworkError(f"{self.name}: {error}") from error

    def consenter(self, number: int) -> Consenter:
        """Return its ordering node as the channel's configuration has it.

        Raises:
            NetworkError: It has none.
        """
        if self.orderer is None:
            raise NetworkError(f"{self.name} has no ordering node")
        address, tls = _address(self.orderer.address), self.orderer.tls_certificate.encode()
        return Consenter(
            id=number,
            host=address.host,
            port=address.port,
            msp_id=self.msp_id,
            identity_pem=self.orderer.certificate.encode(),
            client_tls_certificate=tls,
            server_tls_certificate=tls,
        )


class MembershipFile(Record):
    """A membership file: what an organisation says of itself, and its administrator's signature over it."""

    membership: Membership
    administrator: Pem
    signature: Signature

    @classmethod
    def sign(cls, membership: Membership, administrator: Signer) -> Self:
        """Return the file that an administrator signs."""
        return cls(
            membership=membership,
            administrator=administrator.identity.certificate_pem.decode(),
            signature=administrator.sign(_DOMAIN + membership.encode()).hex(),
        )

    def verify(self) -> None:
        """Check that everything in the file fits together, and that the organisation's administrator has signed it.

        Raises:
            NetworkError: It does not; the text says what.
        """
        told = self.membership
        self.verify_administrator(self.administrator, self.signature, _DOMAIN + told.encode(), "the membership file")
        if told.peer is not None:
            parse_address(told.peer)
        if told.orderer is not None:
            self._verify_orderer(told.orderer)

    def verify_administrator(self, certificate: str, signature: str, signed: bytes, what: str) -> None:
        """Check a signature of an administrator of this organisation.

        Args:
            certificate: The administrator's, PEM.
            signature: Over ``signed``, DER as hex.
            signed: The bytes, domain and all.
            what: What they are, for the error.

        Raises:
            NetworkError: The certificate is no administrator's of this organisation, or the signature is not over this.
        """
        name = self.membership.name
        try:
            identity = self._identity(certificate)
            if (role := self._msp().role(identity)) != "admin":
                raise NetworkError(f"{what} is signed for {name} by a certificate of a {role}, expected an admin's")
            verify_signature(identity.certificate, bytes.fromhex(signature), signed)
        except IdentityError as error:
            raise NetworkError(f"{what} is not signed by an administrator of {name}: {error}{_SIGNED}") from error

    def fingerprints(self) -> dict[str, str]:
        """Return SHA-256 of what people compare by reading it out: digest of the file, and of each root."""
        told = self.membership
        rows = {"membership file": group(self.record_digest)}
        for what, roots in (("signing root", told.signing_roots), ("TLS root", told.tls_roots)):
            for pem in roots:
                certificate = parse_certificate(pem.encode(), f"the {what} of {told.name}")
                rows[what] = group(certificate.fingerprint(hashes.SHA256()).hex())
        return rows

    def _verify_orderer(self, orderer: OrderingNode) -> None:
        name = self.membership.name
        try:
            if (role := self._msp().role(self._identity(orderer.certificate))) != "orderer":
                raise NetworkError(f"{name}: the ordering node's certificate is one of a {role}, expected an orderer's")
            tls = parse_certificate(orderer.tls_certificate.encode(), f"the ordering node's TLS certificate of {name}")
            roots = [parse_certificate(pem.encode(), f"a TLS root of {name}") for pem in self.membership.tls_roots]
        except IdentityError as error:
            raise NetworkError(f"{name}: {error}") from error
        if not any(_is_issued_by(tls, root) for root in roots):
            raise NetworkError(f"{name}: the ordering node's TLS certificate is not one of its TLS authority")
        parse_address(orderer.endpoint)
        host = parse_address(orderer.address)[0]
        if host not in _list_names(tls):
            raise NetworkError(
                f"{name}: others dial its ordering node as {host}, and its TLS certificate is for "
                f"{', '.join(_list_names(tls))}"
            )

    def _msp(self) -> Msp:
        return Msp.from_config(self.membership.spec().msp_config)

    def _identity(self, certificate: str) -> Identity:
        identity = Identity(msp_id=self.membership.msp_id, certificate_pem=certificate.encode())
        self._msp().validate(identity)
        return identity


def group(digest: str) -> str:
    """Return a digest in groups of eight, as people read it out."""
    return " ".join(digest[start : start + 8] for start in range(0, len(digest), 8))


def _address(text: str) -> Address:
    host, port = parse_address(text)
    return Address(host=format_address(host, port).rpartition(":")[0], port=port)


def _is_issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _list_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
