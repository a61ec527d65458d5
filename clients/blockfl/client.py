"""What the commands do, from Python: in a script or a notebook.

    from blockfl.client import Client

    client = Client("profiles/agent.json")
    client.create("heart", model="model.keras", columns="columns.yaml", rounds=12, batch_size=16)
    client.check("heart", model="model.keras", data="rows.csv").problems
    client.join("heart", directory="agent", model="model.keras", data="rows.csv", on_step=print)
    for version in client.watch("heart"):
        print(version["version"], version["metrics"])
    client.export("heart", "final.npz", version="best", metric="auc", plot="history.svg")

Every call waits for its end. A notebook has an event loop of its own, so each call runs one in another thread.
"""

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from blockfl.audit import views
from blockfl.audit.entry import Row
from blockfl.cli.creation import put_task
from blockfl.cli.export import export_version, write_beside
from blockfl.cli.formats import Exported, choose_format, choose_layers, write_arrays, write_keras
from blockfl.cli.tally import Statistic, read_statistics
from blockfl.cli.terms import parse_terms
from blockfl.cli.workload import choose_policy, make_workload
from blockfl.institution.agent import AgentSettings
from blockfl.institution.rehearsal import Findings, check_participation, make_training
from blockfl.institution.run import InstitutionSettings, read_initial_model, run_institution
from blockfl.institution.step import Step
from blockfl.institution.training_limits import TrainingLimits
from blockfl.institution.workload import Workload
from blockfl.ledger.client import Ledger
from blockfl.ledger.ending import find_ending
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.remote import open_ledger
from blockfl.protocol.task import TaskSpec

R = TypeVar("R")
PathLike = str | Path
_LOOK_S: Final = 2.0


class Client:
    """One identity's way to a consortium.

    Args:
        profile: The file of the identity's connection profile.
        confined: Whether to refuse to train where the kernel cannot confine the training process.
    """

    def __init__(self, profile: PathLike, *, confined: bool = True) -> None:
        self._profile = Path(profile)
        self._confined = confined
        ConnectionProfile.load(self._profile)

    def create(
        self,
        task: str,
        *,
        model: PathLike | None = None,
        code: PathLike | None = None,
        python: PathLike | None = None,
        columns: PathLike | None = None,
        title: str = "",
        institutions: Sequence[str] = (),
        seed: int | None = None,
        **terms: Any,
    ) -> TaskSpec:
        """Create a task (coordinator).

        Args:
            task: Its name.
            model: A compiled Keras model; or ``code``, perhaps for another environment's ``python``.
            code: See ``model``.
            python: See ``model``.
            columns: The YAML file with every table's columns.
            title: What it is for.
            institutions: Who may enrol; by default every institution.
            seed: Makes what code builds repeatable.
            **terms: The options of ``blockfl task create`` by name, such as ``rounds``, ``norm_bound``, ``rule``.

        Raises:
            InstitutionError, LedgerError, ProtocolError: As the command.
        """
        parsed = parse_terms(**_as_options(terms), columns=_as_path(columns))
        workload = _make_workload(model, code, None, None, python)

        async def work(scratch: str) -> TaskSpec:
            begun = await read_initial_model(
                workload,
                directory=Path(scratch),
                confined=self._confined,
                seed=seed,
                table=parsed.table,
                personal=parsed.personal,
            )
            async with self._open() as ledger:
                return await put_task(ledger, task, begun, parsed, title=title, institutions=institutions)

        with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
            return _run(work(scratch))

    def end(self, task: str, reason: str = "") -> None:
        """End a task with the round that it is in (coordinator)."""

        async def work() -> None:
            async with self._open() as ledger:
                await ledger.end_task(task, reason)

        _run(work())

    def check(
        self,
        task: str,
        *,
        model: PathLike | None = None,
        data: PathLike | None = None,
        code: PathLike | None = None,
        python: PathLike | None = None,
        label: str | None = None,
        policy: PathLike | None = None,
        gpu: bool = False,
        shared_memory: bool = False,
    ) -> Findings:
        """Look whether model and samples fit a task; nothing is enrolled, sent or kept. Arguments as of ``join``.

        Raises:
            LedgerError: The task cannot be read.
            SettingsError: The policy does not allow the code, or a device.
        """
        workload, allowed = _make_workload(model, code, data, label, python), choose_policy(_as_path(policy))
        limits = TrainingLimits(gpu=gpu, shared_memory=shared_memory)

        async def work(scratch: str) -> Findings:
            training = make_training(workload, Path(scratch), allowed, limits, confined=self._confined)
            async with self._open() as ledger, training:
                return await check_participation(ledger, task, training, policy=allowed)

        with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
            return _run(work(scratch))

    def join(
        self,
        task: str,
        *,
        directory: PathLike,
        model: PathLike | None = None,
        data: PathLike | None = None,
        code: PathLike | None = None,
        python: PathLike | None = None,
        label: str | None = None,
        rounds: int | None = None,
        policy: PathLike | None = None,
        gpu: bool = False,
        shared_memory: bool = False,
        seed: int | None = None,
        on_step: Callable[[Step], None] = lambda _: None,
    ) -> None:
        """Take part in a task until it has had all its rounds (institution); may be interrupted and called again.

        Args:
            task: Its name.
            directory: The agent's own; always the same one for an identity.
            model: The task's Keras model, with ``data``; or ``code``, perhaps for another environment's ``python``.
            data: The samples.
            code: See ``model``.
            python: See ``model``.
            label: The label's column, where the task does not name it.
            rounds: End after so many rounds.
            policy: A YAML file with what the institution allows (``blockfl.institution.policy``).
            gpu: Whether training may use this machine's NVIDIA GPUs.
            shared_memory: Whether training may use ``/dev/shm``.
            seed: For tests only.
            on_step: Told what the agent does: training, sealing, uploading, waiting, verdicts.

        Raises:
            InstitutionError, LedgerError, ProtocolError: As ``blockfl institution run``.
        """
        settings = InstitutionSettings(
            profile=self._profile,
            directory=Path(directory),
            workload=_make_workload(model, code, data, label, python),
            agent=AgentSettings(task=task, rounds=rounds, seed=seed, policy=choose_policy(_as_path(policy))),
            confined=self._confined,
            limits=TrainingLimits(gpu=gpu, shared_memory=shared_memory),
        )
        _run(run_institution(settings, report=on_step))

    def tasks(self) -> list[Row]:
        """Return a row for each task."""
        return self._read(views.list_tasks)

    def versions(self, task: str) -> list[Row]:
        """Return a row for each version of a task's model, with what the institutions reported of it."""
        return self._read(lambda ledger: views.list_models(ledger, task))

    def statistics(self, task: str) -> list[Statistic]:
        """Return what all institutions' rows have in each column, of a task of ``task create-statistics``.

        Raises:
            LedgerError: The task trains a model, or its round is not over.
        """
        return self._read(lambda ledger: read_statistics(ledger, task))[1]

    def watch(self, task: str, *, look_s: float = _LOOK_S) -> Iterator[Row]:
        """Yield each version's row, those that are there first, until the task has had its rounds or was ended.

        Args:
            task: Its name.
            look_s: Seconds between two looks at the ledger.
        """
        told = -1
        while True:
            ending, _ = self._read(lambda ledger: find_ending(ledger, task))
            for row in self.versions(task):
                version = row["version"]
                if isinstance(version, int) and version > told:
                    told = version
                    yield row
            if ending:
                return
            time.sleep(look_s)

    def export(
        self,
        task: str,
        output: PathLike | None = None,
        *,
        version: int | str | None = None,
        metric: str | None = None,
        card: PathLike | None = None,
        metrics: PathLike | None = None,
        plot: PathLike | None = None,
        tensorboard: PathLike | None = None,
        personal: PathLike | None = None,
        model: PathLike | None = None,
        code: PathLike | None = None,
        python: PathLike | None = None,
    ) -> Exported:
        """Compute a version anew from the ledger, and write it if a file is named.

        Args:
            task: Its name.
            output: Named .safetensors, .npz or .keras; None: the arrays are only returned.
            version: Its number, ``best``, or None for the last.
            metric: What ``best`` goes by; None: the task's goal, without one the loss.
            card: Where to write a model card.
            metrics: Where to write each version's metrics as CSV.
            plot: Where to draw them, as SVG.
            tensorboard: The directory for TensorBoard's logs of them.
            personal: The directory of an institution's agent, whose personal layers complete the model.
            model: The task's Keras model, whose layers a .keras file needs; or ``code``.
            code: See ``model``.
            python: The interpreter of the environment that has Keras.

        Raises:
            LedgerError: There is no such version, or it does not follow from the ledger.
            InstitutionError, ProtocolError: The layers cannot be used, or are not the task's.
        """
        layers = None
        if output is not None:
            layers = choose_layers(choose_format(Path(output)), *map(_as_path, (model, code, python)))
        own = _as_path(personal)
        exported = self._read(lambda ledger: export_version(ledger, task, version, metric=metric, directory=own))
        if output is not None and layers is not None:
            _run(write_keras(exported, layers, Path(output), confined=self._confined))
        elif output is not None:
            write_arrays(exported, Path(output))
        write_beside(exported, *map(_as_path, (card, metrics, tensorboard, plot)))
        return exported

    def _open(self) -> Ledger:
        return open_ledger(ConnectionProfile.load(self._profile), tell=lambda _: None)

    def _read(self, ask: Callable[[Ledger], Coroutine[Any, Any, R]]) -> R:
        async def work() -> R:
            async with self._open() as ledger:
                return await ask(ledger)

        return _run(work())


def _make_workload(
    model: PathLike | None,
    code: PathLike | None,
    data: PathLike | None,
    label: str | None,
    python: PathLike | None,
) -> Workload:
    paths = (_as_path(model), _as_path(code), _as_path(data))
    return make_workload(*paths, label, Decimal("0.25"), _as_path(python))


def _as_path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _as_options(terms: dict[str, Any]) -> dict[str, Any]:
    """Return numbers with a point as the exact ones that options are."""
    return {name: Decimal(repr(value)) if isinstance(value, float) else value for name, value in terms.items()} | {
        name: Decimal(terms[name]) for name in ("norm_bound", "learning_rate") if isinstance(terms.get(name), int)
    }


def _run(work: Coroutine[Any, Any, R]) -> R:
    """Run to the end on an event loop in another thread; an interruption ends the work and is passed on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="blockfl", daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
    finally:
        asyncio.run_coroutine_threadsafe(_finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _finish() -> None:
    """Wait for what is ending."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if rest:
        await asyncio.wait(rest, timeout=10)
    await asyncio.get_running_loop().shutdown_asyncgens()
