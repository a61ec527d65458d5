"""The record of the members that follows the one in force: made, shown, and agreed to by each organisation for itself.

Example:
    record = succeed(former, [Member(organisation="geneva", roles=("institution",))], ["regulator"])
    require_successor(former, record)
"""

from collections.abc import Sequence

from blockfl.network.errors import NetworkError
from blockfl.protocol.records import Consortium, Member, Role


def succeed(
    former: Consortium,
    members: Sequence[Member] = (),
    removed: Sequence[str] = (),
    threshold: int | None = None,
    without_peer: Sequence[str] = (),
) -> Consortium:
    """Return the record that follows another.

    Args:
        former: The record that counts now.
        members: Those that are new, or change their roles.
        removed: MSP ids of members that leave.
        threshold: Committee members that must agree; None: as before.
        without_peer: MSP ids of those new members that run no peer.

    Raises:
        NetworkError: Who leaves is no member, or nothing changes.
        ValidationError: No consortium can be like that.
    """
    found = {one.organisation: one for one in former.members}
    if strangers := [name for name in removed if name not in found]:
        raise NetworkError(f"{', '.join(strangers)} is no member; its members are {', '.join(found)}")
    found |= {one.organisation: one for one in members}
    left = [one for name, one in sorted(found.items()) if name not in removed]
    record = Consortium.model_validate(
        former.model_dump()
        | {
            "sequence": former.sequence + 1,
            "members": tuple(left),
            "threshold": former.threshold if threshold is None else threshold,
            "without_peer": tuple(sorted({*former.without_peer, *without_peer} - {*removed})),
        }
    )
    if not describe_members(former, record):
        raise NetworkError("nothing would change: name members that join, change roles or leave, or a threshold")
    return record


def describe_members(former: Consortium, record: Consortium) -> list[str]:
    """Return a line for each difference between two records."""
    before, after = ({one.organisation: one.roles for one in each.members} for each in (former, record))
    lines = []
    for name in sorted({*before, *after}):
        if name not in after:
            lines.append(f"{name} leaves ({', '.join(before[name])})")
        elif name not in before:
            lines.append(f"{name} joins: {', '.join(after[name])}")
        elif before[name] != after[name]:
            lines.append(f"{name}: {', '.join(after[name])}, before {', '.join(before[name])}")
    if former.threshold != record.threshold:
        lines.append(
            f"{record.threshold} of {len(record.committee)} committee members judge, before {former.threshold}"
        )
    return lines


def require_successor(former: Consortium, record: Consortium) -> None:
    """Check that a record is the one in force or comes after it, in the same network.

    Raises:
        NetworkError: It does not.
    """
    for name in ("network", "channel", "contract"):
        if getattr(former, name) != getattr(record, name):
            raise NetworkError(
                f"the record is of another {name}, {getattr(record, name)}, than this one, {getattr(former, name)}"
            )
    if record.sequence < former.sequence or (record.sequence == former.sequence and record != former):
        raise NetworkError(
            f"expected a record that comes after the present one, of sequence {former.sequence}, got another one of "
            f"sequence {record.sequence}: blockfl network terms --after makes the next"
        )


def find_roles(record: Consortium, msp_id: str) -> tuple[Role, ...]:
    """Return the roles that an organisation has in a record.

    Raises:
        NetworkError: It is no member.
    """
    said = {one.organisation: one.roles for one in record.members}
    if msp_id not in said:
        raise NetworkError(
            f"{msp_id} is no member in this record: the others agree to it without {msp_id}, and put it off the "
            "channel (blockfl network config remove); its own part ends with blockfl network stop"
        )
    return said[msp_id]
