"""The first block as its founders signed it: an auditor needs one founder's root, from a hand that he trusts."""

from pathlib import Path

from blockfl.audit.chain import pinned_hash
from blockfl.audit.errors import VerificationError
from blockfl.fabric.identity.signing import parse_certificate
from blockfl.ledger.errors import LedgerError
from blockfl.network.errors import NetworkError
from blockfl.network.founding import load_founding


def founded_hash(founding: Path, root: Path) -> bytes:
    """Return the header hash of the first block that follows from a founding file.

    Args:
        founding: The file; all founders' signatures lie beside it.
        root: The certificate of a founder's signing authority that the auditor trusts, PEM.

    Raises:
        LedgerError: A file cannot be read.
        VerificationError: The file is not signed by all of its founders, or none of them has this root.
    """
    try:
        trusted = parse_certificate(root.read_bytes(), f"the root {root}")
    except OSError as error:
        raise LedgerError(f"{root}: the root cannot be read ({error.strerror})") from error
    try:
        founded, signatures = load_founding(founding)
        founded.verify()
        founded.verify_signatures(signatures)
        genesis = founded.make_genesis()
    except NetworkError as error:
        raise VerificationError(str(error)) from error
    roots = [pem for one in founded.memberships for pem in one.signing_roots]
    if not any(parse_certificate(pem.encode(), "a founder's root") == trusted for pem in roots):
        names = ", ".join(one.name for one in founded.memberships)
        raise VerificationError(f"{root} is the signing root of none of the founders: {names}")
    return pinned_hash(genesis)
