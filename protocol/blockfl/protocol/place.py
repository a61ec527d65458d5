"""Where each record stands: keys of the public state and of the two collections.

Numbers are padded to six digits, so that ranges ascend.
"""

SEALED = "sealed"
"""Collection of the sealed updates: the committee only."""
MODELS = "models"
"""Collection of the initial models and of the sums: all members."""
CONSORTIUM = "consortium"
SUPPLY = "supply"


def task_key(task: str) -> str:
    """Key of a ``Task``."""
    return f"task/{task}"


def progress_key(task: str) -> str:
    """Key of a task's ``Progress``."""
    return f"progress/{task}"


def committee_key_key(organisation: str) -> str:
    """Key of a ``CommitteeKey``."""
    return f"committee-key/{organisation}"


def enrolment_key(task: str, organisation: str) -> str:
    """Key of an ``Enrolment``."""
    return f"enrolment/{task}/{organisation}"


def round_key(task: str, number: int) -> str:
    """Key of a ``Round``."""
    return f"round/{task}/{number:06d}"


def header_key(task: str, number: int, organisation: str) -> str:
    """Key of a ``SignedHeader``."""
    return f"header/{task}/{number:06d}/{organisation}"


def update_key(task: str, number: int, organisation: str) -> str:
    """Key of an ``Update``."""
    return f"update/{task}/{number:06d}/{organisation}"


def commitment_key(task: str, number: int, organisation: str) -> str:
    """Key of a ``Commitment``."""
    return f"commitment/{task}/{number:06d}/{organisation}"


def equivocation_key(task: str, number: int, organisation: str) -> str:
    """Key of an ``Equivocation``."""
    return f"equivocation/{task}/{number:06d}/{organisation}"


def withdrawal_key(organisation: str, certificate_digest: str) -> str:
    """Key of a ``Withdrawal``."""
    return f"withdrawal/{organisation}/{certificate_digest}"


def dispute_key(task: str, number: int, organisation: str, member: str) -> str:
    """Key of a ``Dispute``."""
    return f"dispute/{task}/{number:06d}/{organisation}/{member}"


def aggregate_key(task: str, number: int) -> str:
    """Key of an ``Aggregate``."""
    return f"aggregate/{task}/{number:06d}"


def vote_key(task: str, number: int, organisation: str) -> str:
    """Key of a ``Vote``."""
    return f"vote/{task}/{number:06d}/{organisation}"


def model_key(task: str, version: int) -> str:
    """Key of a ``Model``."""
    return f"model/{task}/{version:06d}"


def metrics_key(task: str, version: int, organisation: str) -> str:
    """Key of ``Metrics``."""
    return f"metrics/{task}/{version:06d}/{organisation}"


def sealed_chunk_key(task: str, number: int, organisation: str, index: int) -> str:
    """Key of a sealed chunk in the collection ``sealed``."""
    return f"chunk/{task}/{number:06d}/{organisation}/{index:06d}"


def account_key(organisation: str) -> str:
    """Key of an ``Account``."""
    return f"account/{organisation}"


def receipt_key(organisation: str, name: str) -> str:
    """Key of the ``Receipt`` of a grant or transfer."""
    return f"receipt/{organisation}/{name}"


def pace_key(organisation: str) -> str:
    """Key of a ``Pace``."""
    return f"pace/{organisation}"


def standing_key(task: str, organisation: str) -> str:
    """Key of a ``Standing``."""
    return f"standing/{task}/{organisation}"


def score_key(task: str, number: int) -> str:
    """Key of a ``Score``."""
    return f"score/{task}/{number:06d}"


def settlement_key(task: str, number: int) -> str:
    """Key of a ``Settlement``."""
    return f"settlement/{task}/{number:06d}"


def objection_key(task: str, number: int, organisation: str, voter: str) -> str:
    """Key of an ``Objection``."""
    return f"objection/{task}/{number:06d}/{organisation}/{voter}"


def reversal_key(task: str, number: int, organisation: str) -> str:
    """Key of a ``Reversal``."""
    return f"reversal/{task}/{number:06d}/{organisation}"


def model_chunk_key(task: str, digest: str) -> str:
    """Key of a chunk in the collection ``models``: content-addressed."""
    return f"chunk/{task}/{digest}"


def children(prefix: str) -> tuple[str, str]:
    """Return the range, start included and end excluded, of all keys that begin with ``prefix/``."""
    return f"{prefix}/", f"{prefix}0"
