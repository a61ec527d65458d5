"""Checks before the agent takes part: the identity, the institution's role, the model's tensors, the samples."""

from datetime import datetime

from blockfl.fabric.errors import GatewayError, IdentityError
from blockfl.fabric.identity.signing import Signer, check_not_expired
from blockfl.institution.errors import SettingsError
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.manifest import Manifest, Tensor
from blockfl.protocol.records import Consortium
from blockfl.protocol.task import Task, TaskSpec

_FINAL_STATUSES = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
_FINAL_WORDS = ("access denied", "creator org unknown", "certificate has expired", "not a member")


def check_signer(signer: Signer, now: datetime) -> None:
    """Check that the institution's certificate can sign now.

    Args:
        signer: Certificate and key.
        now: Aware point in time.

    Raises:
        SettingsError: It has expired, or is not valid yet.
    """
    try:
        check_not_expired(signer.identity, now)
    except IdentityError as error:
        raise SettingsError(f"{error}; then start the agent again, it goes on where it was") from error


def check_role(consortium: Consortium, task: Task, organisation: str) -> None:
    """Check that the organisation is an institution of the task, referees it, or evaluates its versions.

    Raises:
        ProtocolError: BFL207 or BFL203.
    """
    members = [member.organisation for member in consortium.members]
    if organisation not in members:
        raise ProtocolError(
            Code.NOT_MEMBER,
            f"{organisation} is not a member of the consortium ({', '.join(members)}): check the profile",
        )
    if organisation not in task.spec.everybody:
        raise ProtocolError(
            Code.NOT_INSTITUTION,
            f"{organisation} is not an institution of task {task.spec.task}: they are "
            f"{', '.join(task.spec.institutions)}",
        )


def check_tensors(spec: TaskSpec, manifest: Manifest) -> None:
    """Check that the local model has the task's tensors.

    Raises:
        ProtocolError: BFL306, naming the first difference.
    """
    expected, got = spec.manifest.tensors, manifest.tensors
    if expected == got:
        return
    for index in range(max(len(expected), len(got))):
        wanted = _describe(expected[index]) if index < len(expected) else "nothing more"
        found = _describe(got[index]) if index < len(got) else "nothing more"
        if wanted != found:
            raise ProtocolError(
                Code.MANIFEST_MISMATCH,
                f"the model is not that of task {spec.task}: tensor {index + 1} is expected to be {wanted}, got "
                f"{found}; bring the model that the task was created with",
            )
    raise ProtocolError(Code.MANIFEST_MISMATCH, f"the model is not that of task {spec.task}")


def _describe(tensor: Tensor) -> str:
    kind = "" if tensor.kind == "weight" else f" as {tensor.kind}"
    return f"{tensor.name} {tensor.shape}{kind}"


def choose_samples(declared: int | None, available: int) -> int:
    """Return the number of samples to declare.

    Args:
        declared: What the user said, None for all.
        available: The training samples that there are.

    Raises:
        SettingsError: More than there are, or none.
    """
    if not available:
        raise SettingsError("there are no training samples: name them with --data")
    if declared is None:
        return available
    if not 1 <= declared <= available:
        raise SettingsError(f"{declared} samples declared: expected 1 to {available}, the training samples there are")
    return declared


def find_final_refusal(error: LedgerError) -> str | None:
    """Return what the ledger said when it does not accept this identity at all, None when a retry may help."""
    cause = error.__cause__
    final = isinstance(cause, GatewayError) and cause.status.name in _FINAL_STATUSES
    text = str(error)
    return text if final or any(word in text.lower() for word in _FINAL_WORDS) else None
