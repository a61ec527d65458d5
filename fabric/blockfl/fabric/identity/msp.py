"""Membership service providers: which certificates belong to an organisation, and with which role.

Owns validation of identities against a channel's MSP configuration as peers do it under capability V2_0 or later:
chain, revocation lists, exactly one node OU. Expiry is not looked at here (a ledger stays valid when certificates
expire; see `identity.check_not_expired`). Refuses Idemix by name.

    msp = Msp.from_config(msp_config("alpha", [root_pem], [tls_root_pem]))
    msp.validate(identity)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ed25519
from fabric_protos.msp import msp_config_pb2, msp_principal_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.der import DerError
from blockfl.fabric.encoding.pem import decode_pem
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.encoding.revocation_list import RevocationList
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority_signature import revocations_signed
from blockfl.fabric.identity.chain import Chain, Link, Pool, chain_identifier
from blockfl.fabric.identity.membership import FABRIC_TYPE, IDEMIX_TYPE, ROLES
from blockfl.fabric.identity.signing import (
    SHA3_256,
    SHA256,
    Identity,
    is_ecdsa_key,
    parse_ecdsa_signature,
    read_certificate,
)

_REMEMBERED: Final = 4096
_IDENTIFIER_HASHES: Final = {
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA3_256": "sha3_256",
    "SHA3_384": "sha3_384",
}
_SIGNATURE_HASHES: Final = {"SHA2": SHA256, "SHA3": SHA3_256}


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """An organisational unit, and the certification path it is bound to (empty: any)."""

    name: str
    certifiers: bytes


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """What an organisation thinks of a certificate, once and for all (under one configuration)."""

    der: bytes
    unknown: str | None  # why it has no chain to this organisation
    invalid: str | None  # why it is not a valid identity, though it may have a chain
    units: tuple[_Unit, ...]


class _Revocations:
    """A revocation list: peers take one that names no issuing key as a reason to trust nobody."""

    def __init__(self, encoded: bytes) -> None:
        try:
            self._list = RevocationList.parse(encoded)
            self._serial_numbers = set(self._list.serial_numbers)
            if self._list.algorithm.ecdsa_hash is not None:
                parse_ecdsa_signature(self._list.signature)
        except (DerError, IdentityError) as error:
            raise IdentityError(f"expected a certificate revocation list, cannot parse it: {error}") from error

    def revokes(self, certificate: Certificate, issuer: Link) -> bool:
        """Whether the issuer has revoked the certificate with this list."""
        try:
            authority = self._list.read_authority_key()
        except DerError as error:
            raise IdentityError(f"{error}: have it made again") from error
        return (
            authority == issuer.certificate.extensions.subject_key
            and certificate.serial_number in self._serial_numbers
            and revocations_signed(self._list, issuer.certificate)
        )


class Msp:
    """One organisation's membership service provider."""

    def __init__(self, config: Any, *, ed25519_allowed: bool = True) -> None:
        """Set it up from a msp.FabricMSPConfig.

        Args:
            config: the configuration.
            ed25519_allowed: whether Ed25519 keys are accepted (channel capability V3_0).

        Raises:
            IdentityError: the configuration is not one that peers accept, or not one that this code supports.
        """
        self.msp_id: str = config.name
        self.signing_roots: tuple[bytes, ...] = tuple(config.root_certs)
        self.tls_roots: tuple[bytes, ...] = tuple(config.tls_root_certs)
        self.tls_intermediates: tuple[bytes, ...] = tuple(config.tls_intermediate_certs)
        self._ed25519_allowed = ed25519_allowed
        self._set_up_hashes(config)
        self._set_up_authorities(config)
        self._lists = tuple(_Revocations(encoded) for encoded in config.revocation_list)
        self._check_not_revoked(self._paths)
        self._check_tls_authorities(config)
        self._set_up_units(config)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._assess)
        self._satisfied = lru_cache(maxsize=_REMEMBERED)(self._compute_satisfies)
        self._check_signer(config)
        self._set_up_admins(config)

    @property
    def tls_authorities_pem(self) -> bytes:
        """All TLS authorities, roots and intermediates: what a server of the organisation is recognised by."""
        return b"".join(pem.rstrip(b"\n") + b"\n" for pem in (*self.tls_roots, *self.tls_intermediates))

    @classmethod
    def from_config(cls, config: Any, *, ed25519_allowed: bool = True) -> Self:
        """Set a provider up from a msp.MSPConfig, as `msp_config` makes it or a configuration block holds it.

        Idemix is refused, though peers take it on channels without the capability V3_0: see `UnjudgedMsp`.

        Raises:
            IdentityError: see the constructor.
        """
        if config.type != FABRIC_TYPE:
            kind = ", which is Idemix" if config.type == IDEMIX_TYPE else ""
            raise IdentityError(f"expected an MSP of type {FABRIC_TYPE} (X.509), got type {config.type}{kind}")
        try:
            fabric = parse(msp_config_pb2.FabricMSPConfig, config.config)
        except DecodeError as error:
            raise IdentityError("the MSP configuration cannot be parsed") from error
        if not fabric.name:
            raise IdentityError("expected an MSP with an id, got an empty one")
        return cls(fabric, ed25519_allowed=ed25519_allowed)

    def validate(self, identity: Identity) -> None:
        """Check that an identity belongs to this organisation, is not revoked and has exactly one role.

        Raises:
            IdentityError: it does not.
        """
        standing = self._remembered(identity)
        if fault := standing.unknown or standing.invalid:
            raise IdentityError(f"the identity is not valid in {self.msp_id!r}: {fault}")

    def identifier(self, identity: Identity) -> bytes:
        """What tells two identities apart: the certificate in DER, however its signature is written.

        Raises:
            IdentityError: the certificate has no chain to this organisation.
        """
        standing = self._remembered(identity)
        if standing.unknown:
            raise IdentityError(f"the identity is not known in {self.msp_id!r}: {standing.unknown}")
        return standing.der

    def role(self, identity: Identity) -> str:
        """The role of an identity: client, peer, admin or orderer.

        Raises:
            IdentityError: the identity is not valid, or the organisation does not tell roles apart.
        """
        self.validate(identity)
        held = {unit.name for unit in self._remembered(identity).units}
        for role, unit in self._node_units.items():
            if self._enforced and unit.name in held:
                return role
        raise IdentityError(f"{self.msp_id!r} does not tell roles apart: enable node OUs")

    def satisfies(self, identity: Identity, principal: Any) -> bool:
        """Whether an identity is what a principal (msp.MSPPrincipal) asks for; malformed principals are nobody."""
        return self._satisfied(identity, principal.principal_classification, bytes(principal.principal))

    def _set_up_hashes(self, config: Any) -> None:
        family = config.crypto_config.signature_hash_family or "SHA2"
        function = config.crypto_config.identity_identifier_hash_function or "SHA256"
        if function not in _IDENTIFIER_HASHES:
            raise IdentityError(
                f"expected one of {', '.join(_IDENTIFIER_HASHES)} to identify members of {self.msp_id!r} with, "
                f"got {function!r}"
            )
        self._identifier_hash = _IDENTIFIER_HASHES[function]
        self.signature_hash = _SIGNATURE_HASHES.get(family, "")

    def _set_up_authorities(self, config: Any) -> None:
        if not config.root_certs:
            raise IdentityError(f"expected at least one root certificate for {self.msp_id!r}, got none")
        what = f"the authorities of {self.msp_id!r}"
        roots = [Link.of(read_certificate(pem, what)) for pem in config.root_certs]
        intermediates = [Link.of(read_certificate(pem, what)) for pem in config.intermediate_certs]
        for link in (*roots, *intermediates):
            _check_authority(link)
        for link in roots:
            if link.certificate.algorithm.ecdsa_hash is not None and not link.is_self_signed:
                raise IdentityError(f"the root {link.name} of {self.msp_id!r} does not vouch for itself")
        raw = Pool(roots, intermediates)
        # A root that stands among the intermediate authorities, too, has no other above it.
        sanitised = [link.with_low_s(raw.unique_chain(link)[:2][-1]) for link in intermediates]
        self._pool = Pool([link.with_low_s(link) for link in roots], sanitised)
        self._paths = [self._pool.unique_chain(link) for link in sanitised]
        # A certificate may only be issued by a leaf of the tree of authorities.
        self._inner = frozenset(parent.der for path in self._paths for parent in path[1:])
        self._authorities = {*(path[0].der for path in self._paths), *(link.with_low_s(link).der for link in roots)}

    def _check_not_revoked(self, paths: Iterable[Chain]) -> None:
        for path in paths:
            if len(path) > 1 and any(one.revokes(path[0].certificate, path[1]) for one in self._lists):
                raise IdentityError(f"the authority {path[0].name} of {self.msp_id!r} has been revoked: remove it")

    def _check_tls_authorities(self, config: Any) -> None:
        what = f"the TLS authorities of {self.msp_id!r}"
        roots = [Link.of(read_certificate(pem, what)) for pem in config.tls_root_certs]
        intermediates = [Link.of(read_certificate(pem, what)) for pem in config.tls_intermediate_certs]
        for link in (*roots, *intermediates):
            _check_authority(link)
        pool = Pool(roots, intermediates)
        self._check_not_revoked(pool.unique_chain(link) for link in (*roots, *intermediates))

    def _check_signer(self, config: Any) -> None:
        """A private key may stand in a configuration; only whether it can be read matters to others than its owner."""
        if not config.HasField("signing_identity"):
            return
        signer = config.signing_identity
        self.identifier(Identity(msp_id=self.msp_id, certificate_pem=signer.public_signer))
        key = decode_pem(signer.private_signer.key_material)
        if key is None or not is_ecdsa_key(key.content):
            raise IdentityError(f"the signing identity of {self.msp_id!r} has no ECDSA key that can be read")

    def _set_up_units(self, config: Any) -> None:
        node_units = config.fabric_node_ous
        self._node_units: dict[str, _Unit] = {}
        for role in ROLES:
            if node_units.HasField(f"{role}_ou_identifier"):
                entry = getattr(node_units, f"{role}_ou_identifier")
                self._node_units[role] = self._unit(entry, bound=bool(entry.certificate))
        self._enforced = bool(node_units.enable and self._node_units)
        self._required = frozenset(self._unit(entry, bound=True) for entry in config.organizational_unit_identifiers)

    def _unit(self, entry: Any, *, bound: bool) -> _Unit:
        name = entry.organizational_unit_identifier
        if not bound:
            return _Unit(name=name, certifiers=b"")
        link = Link.of(read_certificate(entry.certificate, f"the unit {name!r} of {self.msp_id!r}")).with_own_low_s()
        chain = self._pool.unique_chain(link)
        chain = (link.with_low_s(chain[1] if len(chain) > 1 else link), *chain[1:])
        if chain[0].der not in self._authorities:
            raise IdentityError(f"the unit {name!r} of {self.msp_id!r} names a certificate that is no authority of it")
        return _Unit(name=name, certifiers=chain_identifier(chain, self._identifier_hash))

    def _set_up_admins(self, config: Any) -> None:
        admins = [Identity(msp_id=self.msp_id, certificate_pem=pem) for pem in config.admins]
        if not admins and not (self._enforced and "admin" in self._node_units):
            raise IdentityError(
                f"{self.msp_id!r} has no administrator: enable the node OU 'admin' or name certificates"
            )
        self._admins = frozenset(self.identifier(admin) for admin in admins)
        for admin in admins:
            if not self._enforced:
                self.validate(admin)
            elif not self._holds(self._remembered(admin), "client", "admin"):
                raise IdentityError(f"an administrator of {self.msp_id!r} is neither client nor admin by its OU")

    def _assess(self, identity: Identity) -> _Standing:
        try:
            link = Link.of(identity.decoded).with_own_low_s()
            if not link.certificate.public_key.is_importable:
                raise IdentityError("expected a certificate with an ECDSA, Ed25519 or RSA key, got another kind")
            key = link.certificate.public_key.key
            chain = self._pool.unique_chain(link)
            link = link.with_low_s(chain[1]) if len(chain) > 1 else link
        except IdentityError as error:
            return _Standing(der=b"", unknown=str(error), invalid=None, units=())
        path = chain_identifier(chain[1:], self._identifier_hash)
        is_leaf = not link.is_authority and len(chain) > 1 and chain[1].der not in self._inner
        units = tuple(_Unit(name=name, certifiers=path) for name in link.certificate.units) if is_leaf else ()
        try:
            if key is None:
                raise IdentityError("only authorities may have RSA keys")
            if isinstance(key, ed25519.Ed25519PublicKey) and not self._ed25519_allowed:
                raise IdentityError("Ed25519 needs the channel capability V3_0")
            self._check_chain(link, chain)
            self._check_units(units)
        except IdentityError as error:
            return _Standing(der=link.der, unknown=None, invalid=str(error), units=units)
        return _Standing(der=link.der, unknown=None, invalid=None, units=units)

    def _check_chain(self, link: Link, chain: Chain) -> None:
        if link.is_authority:
            raise IdentityError("the certificate of an authority is no identity")
        if len(chain) < 2:
            raise IdentityError("a root is no identity")
        if chain[1].der in self._inner:
            raise IdentityError(f"its issuer {chain[1].name} has authorities below it; only the lowest may issue")
        if any(revocations.revokes(link.certificate, chain[1]) for revocations in self._lists):
            raise IdentityError(f"the certificate {link.name} has been revoked")

    def _check_units(self, units: tuple[_Unit, ...]) -> None:
        if self._required and not self._required & set(units):
            raise IdentityError("it is in none of the organisational units that the organisation recognises")
        if not self._enforced:
            return
        known = {unit.name: unit for unit in self._node_units.values()}
        held = [unit for unit in units if unit.name in known]
        for unit in held:
            if known[unit.name].certifiers not in (b"", unit.certifiers):
                raise IdentityError(f"its unit {unit.name!r} was certified by another authority")
        if len(held) != 1:
            raise IdentityError(
                f"expected exactly one organisational unit of {', '.join(known)}, got "
                f"{', '.join(unit.name for unit in units) or 'none'}"
            )

    def _holds(self, standing: _Standing, *roles: str) -> bool:
        wanted = {self._node_units[role].name for role in roles if role in self._node_units}
        return self._enforced and any(unit.name in wanted for unit in standing.units)

    def _compute_satisfies(self, identity: Identity, classification: int, principal: bytes) -> bool:
        kinds = msp_principal_pb2.MSPPrincipal
        try:
            if classification == kinds.COMBINED:
                return self._satisfies_all(identity, principal)
            if classification == kinds.ROLE:
                return self._satisfies_role(identity, parse(msp_principal_pb2.MSPRole, principal))
            if classification == kinds.IDENTITY:
                return self._is_identity(identity, Identity.parse(principal))
            if classification == kinds.ORGANIZATION_UNIT:
                return self._is_in_unit(identity, parse(msp_principal_pb2.OrganizationUnit, principal))
            if classification == kinds.ANONYMITY:
                anonymity = msp_principal_pb2.MSPIdentityAnonymity
                return bool(parse(anonymity, principal).anonymity_type == anonymity.NOMINAL)
        except (DecodeError, IdentityError):
            return False
        return False

    def _satisfies_all(self, identity: Identity, combined: bytes) -> bool:
        """Whether an identity is all of what is combined; one inside the other as deep as anybody likes."""
        kinds = msp_principal_pb2.MSPPrincipal
        waiting = [combined]
        while waiting:
            parts = parse(msp_principal_pb2.CombinedPrincipal, waiting.pop()).principals
            if not parts:
                return False
            for part in parts:
                if part.principal_classification == kinds.COMBINED:
                    waiting.append(bytes(part.principal))
                elif not self.satisfies(identity, part):
                    return False
        return True

    def _satisfies_role(self, identity: Identity, wanted: Any) -> bool:
        if wanted.msp_identifier != self.msp_id:
            return False
        roles = msp_principal_pb2.MSPRole
        if wanted.role == roles.ADMIN and self.identifier(identity) in self._admins:
            return True
        self.validate(identity)
        if wanted.role == roles.MEMBER:
            return True
        names = {roles.ADMIN: "admin", roles.CLIENT: "client", roles.PEER: "peer", roles.ORDERER: "orderer"}
        return wanted.role in names and self._holds(self._remembered(identity), names[wanted.role])

    def _is_identity(self, identity: Identity, wanted: Identity) -> bool:
        if wanted.msp_id != self.msp_id or self.identifier(wanted) != self.identifier(identity):
            return False
        self.validate(wanted)
        return True

    def _is_in_unit(self, identity: Identity, wanted: Any) -> bool:
        if wanted.msp_identifier != self.msp_id:
            return False
        self.validate(identity)
        unit = _Unit(name=wanted.organizational_unit_identifier, certifiers=bytes(wanted.certifiers_identifier))
        return unit in self._remembered(identity).units


def _check_authority(link: Link) -> None:
    if not link.is_authority:
        raise IdentityError(f"the certificate {link.name} is listed as an authority, but is not marked as one")
    if link.certificate.extensions.subject_key is None:
        raise IdentityError(f"the authority {link.name} has no subject key identifier: have it made again")
