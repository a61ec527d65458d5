"""Running one institution: everything put together, for the command line and for tests."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from blockfl.fabric.identity.process_memory import hide_memory
from blockfl.institution.agent import AgentSettings, InstitutionAgent
from blockfl.institution.disk_space import find_lack_of_room
from blockfl.institution.encoder import UpdateEncoder
from blockfl.institution.errors import SettingsError
from blockfl.institution.kept_optimiser import KeptTraining
from blockfl.institution.outbox import Outbox
from blockfl.institution.personal import Division, PersonalStore, check_patterns
from blockfl.institution.policy import Departures
from blockfl.institution.rehearsal import rehearse
from blockfl.institution.step import Report, Step, ignore_step
from blockfl.institution.training import TrainingProcess, TrainingService, Workload, make_manifest
from blockfl.institution.training_limits import TrainingLimits
from blockfl.ledger.metrics import tell_operations
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.remote import open_ledger
from blockfl.ledger.store import ModelStore
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.model import encode_model
from blockfl.protocol.table import Table

_LOCK: Final = "lock"
DEPARTURES: Final = "left.jsonl"
"""The record of all that left the building, in the agent's directory."""
OUTBOX: Final = "outbox"
"""Where sealed updates are, in the agent's directory."""
OPTIMISER: Final = "optimiser"
"""Where the optimizer's state is kept, by task, in the agent's directory."""
PERSONAL: Final = "personal"
"""Where the institution's own layers are, in the agent's directory."""


@dataclass(frozen=True, kw_only=True)
class InstitutionSettings:
    """Everything about one run of the agent.

    Attributes:
        profile: The file of the connection profile.
        directory: The agent's own: outbox, models, log, scratch directory. Always the same one for an identity.
        workload: The user's model and data; None only with a ``training`` of one's own.
        agent: What the institution chooses.
        confined: Whether to refuse to train without the kernel's confinement.
        limits: What training may use of the machine.
        training_timeout_s: The longest silence of the training process.
        operations: ``host:port`` where health and metrics are told in the clear; None: nowhere.
        keeps_optimiser: Whether each round goes on with the optimizer's state after the one before.
    """

    profile: Path
    directory: Path
    workload: Workload | None
    agent: AgentSettings
    confined: bool = True
    limits: TrainingLimits = field(default_factory=TrainingLimits)
    training_timeout_s: float = 900.0
    operations: str | None = None
    keeps_optimiser: bool = False


async def run_institution(
    settings: InstitutionSettings,
    *,
    training: TrainingService | None = None,
    encoder: UpdateEncoder | None = None,
    report: Report = ignore_step,
) -> None:
    """Take part in a task until it has had all its rounds; restartable at any point.

    Args:
        settings: Everything about this run.
        training: Trains instead of the training process.
        encoder: Encodes instead of the bounded encoder.
        report: Told what the agent does.

    Raises:
        InstitutionError, ProtocolError, LedgerError: As ``InstitutionAgent.run``.
    """
    profile = ConnectionProfile.load(settings.profile)
    hide_memory()
    with lock_directory(settings.directory):
        training = training or _make_training(settings, profile)
        rehearsal, keeps = None, settings.keeps_optimiser
        if isinstance(training, TrainingProcess):
            organisation = profile.organisation
            rehearsal = partial(
                rehearse, training, seed=settings.agent.seed, keeps_optimiser=keeps, organisation=organisation
            )
        if isinstance(training, TrainingProcess) and keeps:
            store = PersonalStore(settings.directory / OPTIMISER / settings.agent.task, "optimizer's state")
            training = KeptTraining(training, store)
        try:
            async with (
                open_ledger(profile, tell=lambda text: report(Step(stage="gateway", text=text))) as ledger,
                tell_operations(settings.operations, ledger.signer, settings.directory) as metrics,
            ):
                agent = InstitutionAgent(
                    ledger,
                    training,
                    ModelStore(settings.directory / "models"),
                    Outbox(settings.directory / OUTBOX),
                    settings.agent,
                    encoder=encoder,
                    report=report,
                    metrics=metrics,
                    rehearse=rehearsal,
                    departures=Departures(settings.directory / DEPARTURES),
                    personal=PersonalStore(settings.directory / PERSONAL / settings.agent.task),
                )
                await agent.run()
        finally:
            await training.close()


def _make_training(settings: InstitutionSettings, profile: ConnectionProfile) -> TrainingProcess:
    if settings.workload is None:
        raise SettingsError("expected a model with data, or code: see blockfl institution run --help")
    if settings.workload.model is not None and settings.workload.data is None:
        raise SettingsError("a model needs samples: name them with --data FILE.npz or FILE.csv")
    code = (settings.workload.model, settings.workload.code)
    settings.agent.policy.check_code(path for path in code if path is not None)
    named = [str(settings.profile), profile.private_key, profile.opening_key]
    return TrainingProcess(
        settings.workload,
        directory=settings.directory,
        private=tuple(Path(name) for name in named if name is not None),
        confined=settings.confined,
        seed=settings.agent.seed,
        timeout_s=settings.training_timeout_s,
        limits=settings.agent.policy.choose_limits(settings.limits),
    )


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Make the agent's private directory, and hold it against a second agent.

    Raises:
        SettingsError: It cannot be made, its disk is full, or another agent holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        lack = find_lack_of_room(directory)
        raise SettingsError(
            lack or f"{directory}: cannot be used as the agent's directory ({error.strerror})"
        ) from error
    lack = find_lack_of_room(directory)
    if lack is not None:
        os.close(descriptor)
        raise SettingsError(lack)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SettingsError(f"{directory}: another agent uses this directory; stop it, or name another one") from error
    try:
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class InitialModel:
    """What a task is created from: the tensors, the model file, how many samples are beside it, and what to know."""

    manifest: Manifest
    content: bytes
    train_samples: int
    notes: tuple[str, ...] = ()


async def read_initial_model(
    workload: Workload,
    *,
    directory: Path,
    confined: bool = True,
    seed: int | None = None,
    table: Table | None = None,
    personal: tuple[str, ...] = (),
) -> InitialModel:
    """Read a user's model in a confined process, for the creation of a task.

    Args:
        workload: The user's model and data, or code.
        directory: For scratch files; made if absent.
        confined: Whether to refuse without the kernel's confinement.
        seed: Makes what code builds repeatable.
        table: The task's columns, which the model must take.
        personal: Patterns of the tensors that stay at each institution.

    Raises:
        ConfinementError, TrainingError: The process cannot be confined, or the model cannot be used.
        SettingsError: A pattern matches no tensor, or all of them together match every one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    async with TrainingProcess(workload, directory=directory, confined=confined, seed=seed, table=table) as training:
        description = await training.describe()
        check_patterns(description, personal)
        division = Division.of(description, personal)
        manifest = make_manifest(division.shared)
        content = encode_model(manifest, division.split(await training.initial())[0])
        return InitialModel(
            manifest=manifest,
            content=content,
            train_samples=description.train_samples,
            notes=(*description.notes, *division.notes),
        )
