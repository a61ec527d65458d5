"""Who may do what: roles from the registered consortium, identity from the creator's certificate."""

import hashlib

from cryptography.hazmat.primitives.serialization import Encoding

from blockfl.fabric.identity.signing import Identity
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import Consortium
from blockfl.protocol.submission import compute_certificate_digest
from blockfl.protocol.task import TaskSpec


def require_member(consortium: Consortium, caller: str) -> None:
    """Check that the caller is an organisation of the consortium.

    Raises:
        ProtocolError: BFL207.
    """
    if caller not in (member.organisation for member in consortium.members):
        raise ProtocolError(Code.NOT_MEMBER, f"expected a member of the consortium, got {caller!a}")


def require_coordinator(consortium: Consortium, caller: str) -> None:
    """Check that the caller is the coordinator.

    Raises:
        ProtocolError: BFL201.
    """
    (coordinator,) = consortium.having("coordinator")
    if caller != coordinator:
        raise ProtocolError(Code.NOT_COORDINATOR, f"expected the coordinator, {coordinator}; got {caller!a}")


def require_committee(consortium: Consortium, caller: str) -> None:
    """Check that the caller is a member of the committee.

    Raises:
        ProtocolError: BFL202.
    """
    if caller not in consortium.committee:
        raise ProtocolError(
            Code.NOT_COMMITTEE,
            f"expected a member of the committee ({', '.join(consortium.committee)}), got {caller!a}",
        )


def require_institution(consortium: Consortium, spec: TaskSpec, caller: str) -> None:
    """Check that the caller is an institution of the task, and still one of the consortium.

    Raises:
        ProtocolError: BFL203.
    """
    if caller not in spec.institutions or caller not in consortium.having("institution"):
        raise ProtocolError(
            Code.NOT_INSTITUTION,
            f"expected an institution of task {spec.task} ({', '.join(spec.institutions)}), got {caller!a}",
        )


def require_contributor(consortium: Consortium, spec: TaskSpec, caller: str) -> None:
    """Check that the caller is an institution of the task, or a committee member that referees it.

    Raises:
        ProtocolError: BFL203.
    """
    if caller not in spec.referees or caller not in consortium.committee:
        require_institution(consortium, spec, caller)


def require_reporter(consortium: Consortium, spec: TaskSpec, caller: str) -> None:
    """Check that the caller is a contributor of the task, or an institution of the consortium that only evaluates.

    Raises:
        ProtocolError: BFL203.
    """
    if caller not in spec.evaluators or caller not in consortium.having("institution"):
        require_contributor(consortium, spec, caller)


def describe_certificate(identity: Identity) -> tuple[str, str]:
    """Return the creator's certificate as PEM, and the digest of its DER.

    Raises:
        ProtocolError: BFL205 when it cannot sign updates: these are signed with ECDSA on P-256.
    """
    certificate = identity.certificate.public_bytes(Encoding.PEM).decode("ascii")
    return certificate, compute_certificate_digest(certificate)


def compute_creator_digest(identity: Identity) -> str:
    """Return SHA-256 of the DER of the creator's certificate, whatever key it has."""
    return hashlib.sha256(identity.certificate.public_bytes(Encoding.DER)).hexdigest()
