"""The errors of the institution agent, one tree:

InstitutionError
├── SettingsError      the settings cannot work: paths, certificate, another agent in the same directory
├── ConfinementError   the kernel cannot confine the training process, or a secret lies within its reach
├── TrainingError      the training process failed: the message ends with its last log lines
├── WorkloadError      what the user brought cannot be used (within the training process)
│   ├── ModelError
│   └── DataError
├── RejectionError     the committee would reject the update: sending it would be on record
├── NothingContributedError  the rounds are over, and no update of this institution was accepted
├── OutboxError        a sealed update cannot be kept on the disk, or what is there is damaged
└── DivergenceError    the model computed here is not the published one: do not go on
"""

from typing import Literal


class InstitutionError(Exception):
    """Root of all errors of this package."""


class SettingsError(InstitutionError):
    """The settings of the agent cannot work."""


class ConfinementError(InstitutionError):
    """The training process cannot be confined."""


class TrainingError(InstitutionError):
    """The training process refused, raised, crashed, hung or broke the protocol of frames."""


class WorkloadError(InstitutionError):
    """What the user brought cannot be used; the message says where, why and what to do."""

    reason: Literal["model", "data"] = "model"


class ModelError(WorkloadError):
    """The model cannot be used."""


class DataError(WorkloadError):
    """The data cannot be used."""

    reason = "data"


class RejectionError(InstitutionError):
    """The committee would reject the update that was made, for the institution alone in exact numbers."""


class NothingContributedError(InstitutionError):
    """The agent took part until the end, and no update of it was accepted."""


class OutboxError(InstitutionError):
    """A sealed update cannot be written, or is damaged on the disk."""


class DivergenceError(InstitutionError):
    """The model that follows from the ledger's sums is not the one that was published."""
