"""Who was right when a committee member says that it cannot open its wrap: settled by showing one ephemeral key.

Owns: the claim, and what a shown key proves. The header, its wraps and the members' opening keys are public; one
ephemeral private key makes everything about the wraps follow, so that everybody who sees it can check. It discloses the
update's data key: a reader that also has the sealed chunks can read the update, but nobody learns the secret behind its
commitment, nor any opening key.

    dispute = claim_wrap(header, "university", now_ms)
    key = choose_ephemeral_key(header, data_key, "university", "regulator")
    dispute = settle_claim(dispute, header, key, "regulator", now_ms)       # upheld or refuted

A wrap is right when it is the one that the committed data key gives; of a wrong one every member says BFL412.

Source: ``docs/protocol.md``, disputes.
"""

from blockfl.protocol.claims import Dispute
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.hpke import HpkeError, read_private_key
from blockfl.protocol.records import Header, WrappedKey
from blockfl.protocol.seal import (
    commit_key,
    derive_ephemeral_key_of,
    encode_public_key,
    is_wrap_of,
    open_wrap,
)


def claim_wrap(header: Header, member: str, now_ms: int) -> Dispute:
    """Return the record of a member's claim that it cannot open its wrap.

    Raises:
        ProtocolError: BFL119 if the update is not sealed to it.
    """
    _find_wrap(header, member)
    return Dispute(
        task=header.task,
        round=header.round,
        organisation=header.organisation,
        member=member,
        state="claimed",
        claimed_at_ms=now_ms,
        settled_by="",
        settled_at_ms=0,
    )


def settle_claim(dispute: Dispute, header: Header, ephemeral_key: bytes, settler: str, now_ms: int) -> Dispute:
    """Return the dispute settled by a shown key; a settled one is returned as it is.

    Args:
        dispute: what was claimed.
        header: of the update.
        ephemeral_key: of the disputed wrap, or of another one that is right.
        settler: who shows it.
        now_ms: the transaction's time.

    Raises:
        ProtocolError: BFL301 if this is no private key, BFL422 if the key does not settle it.
    """
    if dispute.state != "claimed":
        return dispute
    state = "refuted" if is_wrap_right(header, dispute.member, ephemeral_key) else "upheld"
    return dispute.model_copy(update={"state": state, "settled_by": settler, "settled_at_ms": now_ms})


def is_wrap_right(header: Header, member: str, ephemeral_key: bytes) -> bool:
    """Whether a member's wrap is the one that the update's data key gives, as a shown key proves.

    With the key of the disputed wrap itself, the wrap is opened; with that of another one, which must be right, the
    disputed wrap is made anew and compared.

    Raises:
        ProtocolError: BFL301, BFL422, or BFL119 if there is no such wrap.
    """
    disputed = _find_wrap(header, member)
    try:
        key = read_private_key(ephemeral_key)
    except HpkeError as error:
        raise ProtocolError(Code.MALFORMED, str(error)) from error
    public = encode_public_key(key)
    shown = [one for one in header.wrapped_keys if one.encapsulation == public]
    for wrap in shown:
        data_key = open_wrap(header, wrap, key)
        if data_key is not None and commit_key(data_key) == header.key_commitment:
            return is_wrap_of(header, data_key, disputed)
    if disputed in shown:
        return False
    raise ProtocolError(
        Code.EPHEMERAL_KEY,
        f"the key shown opens no wrap of {header.organisation}'s update: show that of {member}'s wrap, or of one that "
        "is right",
    )


def choose_ephemeral_key(header: Header, data_key: bytes, member: str, own: str) -> bytes:
    """Return the one key to show about a member's wrap: of that wrap if it is right, otherwise of one's own.

    Args:
        header: of the update.
        data_key: as one's own wrap, or the seed, gives it.
        member: who claims.
        own: the committee member that shows; ``member`` for the institution, which shows any right one.

    Raises:
        ProtocolError: BFL422 if no wrap is right: then there is nothing to show.
    """
    preferred = sorted(header.wrapped_keys, key=lambda one: (one.organisation != member, one.organisation != own))
    for wrap in preferred:
        if is_wrap_of(header, data_key, wrap):
            return derive_ephemeral_key_of(header, data_key, wrap).private_bytes_raw()
    raise ProtocolError(
        Code.EPHEMERAL_KEY, f"no wrap of {header.organisation}'s update follows from this data key: nothing to show"
    )


def _find_wrap(header: Header, member: str) -> WrappedKey:
    for wrap in header.wrapped_keys:
        if wrap.organisation == member:
            return wrap
    raise ProtocolError(Code.OPENING_KEY, f"the update of {header.organisation} is not sealed to {member}")
