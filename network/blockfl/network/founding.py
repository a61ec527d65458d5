"""The founding file: every founder's membership file and the terms, signed by each of them; block 0 follows from it.

A host that has the file makes the same first block, byte for byte, and compares one digest. Signatures are kept beside
it. Refuses what would let one founder fool the others: two names for one key, a root that did not issue, terms or
members changed after a signature, a signature that is missing.

Example:
    founding = Founding.assemble(terms, members)
    signature = FoundingSignature.sign(founding, "hungary", signer)
    founding.verify_signatures([signature, *others])
    block = founding.make_genesis()
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field, ValidationError

from blockfl.fabric.channel.block import encode_block
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.channel.spec import MINIMUM_BFT, BftOptions, ChannelSpec
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Signer, parse_certificate
from blockfl.network.errors import NetworkError
from blockfl.network.member import Membership, MembershipFile, Pem, Signature
from blockfl.protocol.canonical import ChannelName, Digest, Name, Natural, Record, compute_digest
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.records import Consortium
from blockfl.protocol.records import Member as MemberRecord

SIGNATURE_SUFFIX = ".signature"
NEAR_LEADER_TIMEOUT_S, FAR_LEADER_TIMEOUT_S = 5, 30
"""For ordering nodes of one machine, and for those of several hosts."""
LEADER_TIMEOUTS_S = (NEAR_LEADER_TIMEOUT_S, 170)
_DOMAIN = b"BLOCKFL-FOUNDING-V1\0"
_NONCE_BYTES = 24
Consensus = Literal["BFT", "raft"]
R = TypeVar("R", bound=Record)


class FoundingTerms(Record):
    """What the founders agree to besides who they are.

    Attributes:
        threshold: Committee members that must agree on what only the committee can judge.
        consensus: Of the ordering nodes.
        leader_timeout_s: After how long a silence BFT ordering nodes replace their leader.
        code_digest: Of the list of the contract's files: what `blockfl --version` tells.
        founded_s: When the file was made, in seconds since 1970: the first block's time.
    """

    network: Name
    channel: ChannelName
    contract: Name
    threshold: Annotated[int, Field(ge=2, le=1000)]
    consensus: Consensus
    leader_timeout_s: Annotated[int, Field(ge=LEADER_TIMEOUTS_S[0], le=LEADER_TIMEOUTS_S[1])]
    code_digest: Digest
    founded_s: Natural


class Founding(Record):
    """All that a channel begins with."""

    terms: FoundingTerms
    members: tuple[MembershipFile, ...]

    @classmethod
    def assemble(cls, terms: FoundingTerms, members: Iterable[MembershipFile]) -> Self:
        """Put terms and membership files together, and check that a consortium can be founded with them.

        Raises:
            NetworkError: They do not fit together.
        """
        founding = cls(terms=terms, members=tuple(sorted(members, key=lambda one: one.membership.msp_id)))
        founding.verify()
        return founding

    @property
    def memberships(self) -> tuple[Membership, ...]:
        """What each founder says of itself, by MSP id."""
        return tuple(one.membership for one in self.members)

    @property
    def consortium(self) -> Consortium:
        """The record that every organisation agrees to and that the contract registers."""
        terms = self.terms
        return Consortium(
            network=terms.network,
            channel=terms.channel,
            contract=terms.contract,
            sequence=1,
            members=tuple(MemberRecord(organisation=one.msp_id, roles=one.roles) for one in self.memberships),
            threshold=terms.threshold,
            without_peer=tuple(one.msp_id for one in self.memberships if one.peer is None),
        )

    def member(self, name: str) -> MembershipFile:
        """Return a founder by its name.

        Raises:
            NetworkError: There is none.
        """
        for one in self.members:
            if one.membership.name == name:
                return one
        raise NetworkError(f"{name} is none of the founders: {', '.join(one.name for one in self.memberships)}")

    def verify(self) -> None:
        """Check every membership file, and that they fit together.

        Raises:
            NetworkError: Naming who or what does not fit.
        """
        for one in self.members:
            one.verify()
        self._verify_distinct()
        try:
            consortium = self.consortium
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise NetworkError(
                f"no consortium can be founded so: {first['msg'].removeprefix('Value error, ')}"
            ) from error
        if not consortium.having("institution"):
            raise NetworkError("no consortium can be founded so: no organisation has the role institution")
        require_orderers(self.terms.consensus, [one.name for one in self.memberships if one.orderer])

    def verify_signatures(self, signatures: Sequence["FoundingSignature"]) -> None:
        """Check that exactly this file has been signed by every founder's administrator.

        Raises:
            NetworkError: A signature is missing, of somebody else, or over another file.
        """
        signed = set()
        for signature in signatures:
            signature.verify(self)
            signed.add(signature.organisation)
        if missing := [one.name for one in self.memberships if one.name not in signed]:
            raise NetworkError(
                f"the founding file is not signed by {', '.join(missing)}: each founder signs it with "
                "`blockfl network sign`, and all signatures lie beside the file"
            )

    def spec(self) -> ChannelSpec:
        """Return the channel that follows from the file."""
        ordering = [one for one in self.memberships if one.orderer]
        consortium = self.consortium
        return ChannelSpec(
            channel_id=self.terms.channel,
            application=tuple(one.spec() for one in self.memberships),
            orderers=tuple(one.spec() for one in ordering),
            consensus="BFT" if self.terms.consensus == "BFT" else "etcdraft",
            consenters=tuple(one.consenter(number) for number, one in enumerate(ordering, start=1)),
            bft=BftOptions.with_leader_timeout(self.terms.leader_timeout_s),
            endorsing=consortium.endorsing if consortium.without_peer else (),
        )

    def make_genesis(self) -> bytes:
        """Return the channel's first block: the same bytes wherever it is made.

        Raises:
            NetworkError: Nodes would refuse such a channel.
        """
        nonce = bytes.fromhex(self.record_digest)[:_NONCE_BYTES]
        try:
            return encode_block(build_genesis_block(self.spec(), nonce=nonce, timestamp_s=self.terms.founded_s))
        except FabricError as error:
            raise NetworkError(f"no channel can begin with this founding file: {error}") from error

    @property
    def genesis_digest(self) -> str:
        """SHA-256 of the channel's first block: what everybody compares."""
        return compute_digest(self.make_genesis())

    def _verify_distinct(self) -> None:
        self._require_distinct("the name", lambda one: [one.name])
        self._require_distinct("the MSP id", lambda one: [one.msp_id])
        self._require_distinct("the key of a root", _root_keys)
        self._require_distinct("the address", _addresses)
        self._require_distinct("the opening key", lambda one: [one.opening_key] if one.opening_key else [])

    def _require_distinct(self, what: str, values: Callable[[Membership], Sequence[str]]) -> None:
        """Check that nobody else has the same: one key or address under two names is one party that counts twice."""
        owners: dict[str, str] = {}
        for membership in self.memberships:
            for value in values(membership):
                if value in owners:
                    raise NetworkError(
                        f"{owners[value]} and {membership.name} have {what} {value} in common; each founder has its own"
                    )
                owners[value] = membership.name


class FoundingSignature(Record):
    """A founder's signature over the founding file."""

    organisation: Name
    founding: Digest
    administrator: Pem
    signature: Signature

    @classmethod
    def sign(cls, founding: Founding, organisation: str, administrator: Signer) -> Self:
        """Sign a founding file for an organisation."""
        return cls(
            organisation=organisation,
            founding=founding.record_digest,
            administrator=administrator.identity.certificate_pem.decode(),
            signature=administrator.sign(_DOMAIN + founding.encode()).hex(),
        )

    def verify(self, founding: Founding) -> None:
        """Check that this is a founder's signature over exactly this file.

        Raises:
            NetworkError: It is not.
        """
        if self.founding != founding.record_digest:
            raise NetworkError(
                f"{self.organisation} has signed another founding file ({self.founding[:16]}…) than this one "
                f"({founding.record_digest[:16]}…): it was changed after the signature"
            )
        member, signed = founding.member(self.organisation), _DOMAIN + founding.encode()
        member.verify_administrator(self.administrator, self.signature, signed, "the founding file")


def require_orderers(consensus: Consensus, names: Sequence[str]) -> None:
    """Check that there are enough ordering nodes for the consensus: BFT with fewer tolerates nobody that lies.

    Raises:
        NetworkError: There are fewer.
    """
    if consensus == "BFT" and len(names) < MINIMUM_BFT:
        raise NetworkError(
            f"{len(names)} organisations have `orderer: true` ({', '.join(names)}); BFT ordering needs at least "
            f"{MINIMUM_BFT} to tolerate one fault: name more, or use `consensus: raft`"
        )
    if not names:
        raise NetworkError("no organisation has `orderer: true`; at least one must order transactions")


def load_record(kind: type[R], path: Path, what: str) -> R:
    """Read a record from its file.

    Raises:
        NetworkError: It cannot be read, or is something else.
    """
    try:
        return kind.decode(path.read_bytes())
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error
    except ProtocolError as error:
        raise NetworkError(f"{path}: expected {what}: {error}") from error


def load_member(path: Path) -> MembershipFile:
    """Read and check a membership file.

    Raises:
        NetworkError: It cannot be read, or does not hold together.
    """
    member = load_record(MembershipFile, path, "a membership file as `blockfl network member` writes it")
    member.verify()
    return member


def load_founding(path: Path) -> tuple[Founding, list[FoundingSignature]]:
    """Read a founding file and the signatures that lie beside it; nothing is checked yet.

    Raises:
        NetworkError: A file cannot be read, or is something else.
    """
    founding = load_record(Founding, path, "a founding file as `blockfl network found` writes it")
    paths = sorted(one for one in path.parent.iterdir() if _is_signature(one, path))
    return founding, [load_record(FoundingSignature, one, "a founder's signature") for one in paths]


def signature_path(founding: Path, organisation: str) -> Path:
    """Return where an organisation's signature lies: beside the founding file."""
    return founding.with_name(f"{founding.name}.{organisation}{SIGNATURE_SUFFIX}")


def _is_signature(path: Path, founding: Path) -> bool:
    return path.name.startswith(f"{founding.name}.") and path.name.endswith(SIGNATURE_SUFFIX)


def _addresses(membership: Membership) -> list[str]:
    orderer = membership.orderer
    ordering = {orderer.address, orderer.endpoint} if orderer else ()
    return [one for one in (membership.peer, *ordering) if one]


def _root_keys(membership: Membership) -> list[str]:
    """The public keys of an organisation's roots, not their certificates: another certificate is easily made."""
    keys = []
    for pem in (*membership.signing_roots, *membership.tls_roots):
        certificate = parse_certificate(pem.encode(), f"a root of {membership.name}")
        digest = hashes.Hash(hashes.SHA256())
        digest.update(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        keys.append(digest.finalize().hex())
    return keys
