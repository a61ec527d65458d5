"""Certificates that an organisation no longer stands by: their callers are refused, from the next transaction on.

The contract takes the organisation's word, and that of nobody else: an organisation can withdraw its own certificates
only. Every call reads the record of its creator's, so that what was endorsed before a withdrawal and ordered after it
is invalid. Peers know nothing of it: a certificate that is to lose all access is revoked in the channel's
configuration as well.
"""

from collections.abc import Sequence

from blockfl.contract.authority import compute_creator_digest, require_member
from blockfl.contract.state import State
from blockfl.protocol.catalogue import CONSORTIUM, WITHDRAWAL
from blockfl.protocol.claims import Withdrawal
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.moment import format_moment
from blockfl.protocol.records import Enrolment


async def withdraw_certificate(state: State, digest: str) -> bytes:
    """Withdraw a certificate of the caller's organisation, for good; with any other of its certificates, or itself."""
    previous = await state.find(WITHDRAWAL.key(state.caller, digest))
    if previous:
        return previous.encode()
    await require_valid_creator(state)
    require_member(await state.read(CONSORTIUM.key()), state.caller)
    record = Withdrawal(organisation=state.caller, certificate_digest=digest, withdrawn_at_ms=state.now_ms)
    await state.write(record)
    state.announce("CertificateWithdrawn", organisation=state.caller, detail=digest)
    return record.encode()


async def require_valid_creator(state: State) -> None:
    """Check that the creator's certificate was not withdrawn.

    Raises:
        ProtocolError: BFL208.
    """
    await require_valid(state, state.caller, compute_creator_digest(state.context.creator))


async def require_valid(state: State, organisation: str, digest: str) -> None:
    """Check that a certificate was not withdrawn.

    Raises:
        ProtocolError: BFL208.
    """
    withdrawal = await state.find(WITHDRAWAL.key(organisation, digest))
    if withdrawal:
        raise ProtocolError(
            Code.CERTIFICATE_WITHDRAWN,
            f"{organisation} withdrew the certificate {digest} at {format_moment(withdrawal.withdrawn_at_ms)}: use "
            "another one of its certificates; an institution enrols with it, for the next round",
        )


async def select_valid(state: State, enrolments: Sequence[Enrolment]) -> list[Enrolment]:
    """Return the enrolments whose certificates were not withdrawn."""
    keys = [WITHDRAWAL.key(one.organisation, one.certificate_digest) for one in enrolments]
    return [one for one, withdrawn in zip(enrolments, await state.find_all(keys), strict=True) if not withdrawn]
