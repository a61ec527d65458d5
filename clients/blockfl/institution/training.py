"""The agent's side of training: a persistent, confined process; only named arrays leave it, or a model's file if asked.

The process is given a fresh environment, no open file but its pipes, and a private scratch directory. It is believed
nothing: sizes are checked before anything is read, a silent or garbled process is killed, and whatever it prints ends
in a bounded log. After a crash the next request starts it again.

Example:
    async with TrainingProcess(workload, directory=state, private=(profile, key)) as training:
        description = await training.describe()
        values, trained = await training.train(base, Train(epochs=1, batch_size=32, learning_rate=None, seed=None))
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from blockfl.institution.disk_space import find_lack_of_room
from blockfl.institution.errors import ConfinementError, TrainingError
from blockfl.institution.frames import (
    PREFIX,
    Began,
    Begin,
    Evaluate,
    Evaluated,
    Failed,
    FrameError,
    Initial,
    ModelDescription,
    Rehearse,
    Rehearsed,
    Reply,
    Request,
    Save,
    Saved,
    Train,
    Trained,
    TrainingProgress,
    Values,
    decode_prefix,
    decode_reply,
    encode_frame,
)
from blockfl.institution.interpreter import make_command, make_environment
from blockfl.institution.log import TrainingLog
from blockfl.institution.scratch import make_scratch, remove_tree, take_file
from blockfl.institution.training_limits import TrainingLimits, watch
from blockfl.institution.vector import Vector, decode_vector, encode_vector
from blockfl.institution.workload import Workload as Workload
from blockfl.institution.workload import make_manifest as make_manifest
from blockfl.protocol.table import Table

R = TypeVar("R", bound=Reply)
Progress = Callable[[TrainingProgress], None]

_BLOCK_BYTES = 4 * 1024 * 1024
_SAVED = "saved"
_TIMEOUT_S = 900.0
_CLOSE_S, _EXIT_S = 5.0, 1.0


class TrainingService(Protocol):
    """What the agent needs of the process that trains."""

    async def describe(self) -> ModelDescription:
        """Return the model's tensors and the numbers of samples."""

    async def initial(self) -> Vector:
        """Return the model's initial values, shape (d,)."""

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        """Train from the base values; return the new values, shape (d,), and the outcome."""

    async def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate the values on the institution's test samples."""

    async def close(self) -> None:
        """End; idempotent."""


class TrainingProcess:
    """The user's training code in a process of its own; restarted when it has died."""

    def __init__(
        self,
        workload: Workload,
        *,
        directory: Path,
        private: tuple[Path, ...] = (),
        confined: bool = True,
        seed: int | None = None,
        timeout_s: float = _TIMEOUT_S,
        limits: TrainingLimits | None = None,
        table: Table | None = None,
    ) -> None:
        """Prepare; the first request starts the process.

        Args:
            workload: The user's model, data or code.
            directory: The agent's own; the scratch directory and the log go there.
            private: Further paths that must stay out of the process's reach.
            confined: Whether to refuse to run without the kernel's confinement.
            seed: Makes training repeatable.
            timeout_s: The longest silence while an answer is due.
            limits: What training may use of the machine; by default ``TrainingLimits()``.
            table: The task's columns, which the samples and the model are matched with.
        """
        directory = directory.resolve()
        self._workload = workload
        self._scratch = directory / "scratch"
        self._log = TrainingLog(directory / "training.log")
        self._private = (*private, directory)
        self._confined = confined
        self._seed = seed
        self._timeout_s = timeout_s
        self._limits = limits or TrainingLimits()
        self._table, self._tallies = table, False
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._excess = ""
        self._drain: asyncio.Task[None] | None = None
        self._description: ModelDescription | None = None
        self._dimension = 0
        self._busy = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def scratch(self) -> Path:
        """The directory that training may write to; made anew with each start of the process."""
        return self._scratch

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def describe(self) -> ModelDescription:
        """Return the model's tensors and the numbers of samples.

        Raises:
            ConfinementError: The kernel cannot confine the process.
            TrainingError: The process failed.
        """
        async with self._busy:
            await self._ensure_running()
            return self._described()

    def use_table(self, table: Table | None, *, tallies: bool = False) -> None:
        """Match samples and model with a task's columns, or count these; only before the first request."""
        if self._process is not None:
            raise AssertionError("the training process has read its samples already")
        self._table, self._tallies = table, tallies

    async def rehearse(self, request: Train) -> tuple[Rehearsed, Vector]:
        """Train on a few samples from the model's own values and evaluate them; nothing of it stays.

        Args:
            request: How to train.

        Returns:
            The outcome, and the values after it, shape (d,).

        Raises:
            ConfinementError, TrainingError: As ``describe``; or a loss is not finite, or batch statistics are not.
        """
        rehearsed, body = await self._ask(Rehearse(training=request), None, Rehearsed)
        return rehearsed, decode_vector(body)

    async def initial(self) -> Vector:
        """Return the model's initial values, shape (d,).

        Raises:
            ConfinementError, TrainingError: As ``describe``.
        """
        _, body = await self._ask(Initial(), None, Values)
        return decode_vector(body)

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        """Train from the base values. When cancelled, the process is killed.

        Args:
            base: shape (d,).
            request: How to train.
            progress: Told how far training is.

        Returns:
            The new values, shape (d,), as they came: they may hold NaN; and the outcome.

        Raises:
            ConfinementError, TrainingError: As ``describe``.
        """
        trained, body = await self._ask(request, base, Trained, progress)
        return decode_vector(body), trained

    async def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate the values, shape (d,), on the institution's test samples.

        Raises:
            ConfinementError, TrainingError: As ``describe``.
        """
        evaluated, _ = await self._ask(Evaluate(), values, Evaluated)
        return evaluated

    async def save(self, values: Vector, path: Path) -> None:
        """Have the model with these values, shape (d,), written as a file of its framework.

        Raises:
            ConfinementError, TrainingError: As ``describe``; or the framework has no such file.
            OSError: The file cannot be written.
        """
        written = self._scratch / _SAVED
        await self._ask(Save(file=str(written)), values, Saved)
        take_file(written, path)

    async def close(self) -> None:
        """End the process and remove its scratch directory."""
        process = self._process
        if process is not None and process.returncode is None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await process.wait()
        await self._kill()
        with contextlib.suppress(OSError):
            remove_tree(self._scratch)

    def _described(self) -> ModelDescription:
        if self._description is None:
            raise TrainingError("the training process has not described its model")
        return self._description

    async def _ask(
        self, request: Request, values: Vector | None, expected: type[R], progress: Progress | None = None
    ) -> tuple[R, bytearray]:
        async with self._busy:
            await self._ensure_running()
            body_bytes = 4 * self._dimension if expected in (Values, Trained, Rehearsed) else 0
            try:
                await self._send(request, b"" if values is None else encode_vector(values))
                return await self._await(expected, body_bytes, progress)
            except asyncio.CancelledError:
                await self._kill()
                raise

    async def _ensure_running(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        await self._kill()
        try:
            self._process = await self._start()
            await self._send(self._make_begin())
            await self._await(Began, 0)
            description, _ = await self._await(ModelDescription, 0)
            self._dimension = make_manifest(description).dimension
        except BaseException:
            await self._kill()
            raise
        if self._description is not None and description != self._description:
            await self._kill()
            raise TrainingError("after a restart the model or the data are others than before: restart the agent")
        self._description = description

    async def _start(self) -> Process:
        try:
            make_scratch(self._scratch)
            process = await asyncio.create_subprocess_exec(
                *self._make_command(),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                cwd=self._scratch,
                start_new_session=True,
                env=make_environment(self._scratch, os.environ, gpu=self._limits.gpu),
            )
        except OSError as error:
            lack = find_lack_of_room(self._scratch.parent)
            reason = lack or f"the training process cannot be started in {self._scratch} ({error})"
            raise TrainingError(reason) from error
        if process.stderr is not None:
            self._drain = asyncio.create_task(self._log.keep(process.stderr))
        self._excess = ""
        self._watch = asyncio.create_task(self._end_excess(process))
        return process

    async def _end_excess(self, process: Process) -> None:
        """Kill the process, and all that it started, once it uses more of the machine than it may."""
        self._excess = await watch(process.pid, self._scratch, self._limits)
        _kill_group(process)

    def _make_command(self) -> tuple[str, ...]:
        return make_command(self._workload.python, os.getpid())

    def _make_begin(self) -> Begin:
        workload = self._workload
        names = [str(path.resolve()) if path is not None else None for path in (workload.model, workload.code)]
        return Begin(
            confined=self._confined,
            scratch=str(self._scratch.resolve()),
            readable=tuple(str(path.resolve()) for path in workload.paths),
            private=tuple(str(path.resolve()) for path in self._private),
            model=names[0],
            code=names[1],
            data=str(workload.data.resolve()) if workload.data is not None else None,
            label=workload.label,
            test_fraction=workload.test_fraction,
            seed=self._seed,
            table=None if self._table is None else self._table.encode().decode(),
            tallies=self._tallies,
            gpu=self._limits.gpu,
            shared_memory=self._limits.shared_memory,
        )

    async def _send(self, request: Request, body: bytes | memoryview = b"") -> None:
        if self._process is None or self._process.stdin is None:
            raise TrainingError("the training process is not running")
        stream = self._process.stdin
        head, rest = encode_frame(request, body)
        try:
            stream.write(head)
            for start in range(0, len(rest), _BLOCK_BYTES):
                stream.write(rest[start : start + _BLOCK_BYTES])
                async with asyncio.timeout(self._timeout_s):
                    await stream.drain()
            async with asyncio.timeout(self._timeout_s):
                await stream.drain()
        except ConnectionError as error:
            raise await self._fail("ended while it was sent a request", ended=True) from error
        except TimeoutError as error:
            raise await self._fail(f"took nothing for {self._timeout_s:g} s and was killed") from error

    async def _await(self, expected: type[R], body_bytes: int, progress: Progress | None = None) -> tuple[R, bytearray]:
        while True:
            try:
                reply, body = await self._receive(body_bytes)
            except asyncio.IncompleteReadError as error:
                raise await self._fail("ended", ended=True) from error
            except TimeoutError as error:
                raise await self._fail(f"said nothing for {self._timeout_s:g} s and was killed") from error
            except FrameError as error:
                raise await self._fail(f"broke the protocol and was killed: {error}") from error
            if isinstance(reply, Failed):
                raise await self._explain(reply)
            if isinstance(reply, TrainingProgress) and expected in (Trained, Evaluated):
                if progress is not None:
                    progress(reply)
            elif isinstance(reply, expected) and len(body) == body_bytes:
                return reply, body
            else:
                raise await self._fail(
                    f"broke the protocol and was killed: expected {expected.__name__} with {body_bytes} bytes, "
                    f"got {type(reply).__name__} with {len(body)}"
                )

    async def _receive(self, body_bytes: int) -> tuple[Reply, bytearray]:
        if self._process is None or self._process.stdout is None:
            raise TrainingError("the training process is not running")
        stream = self._process.stdout
        head_size, body_size = decode_prefix(await self._read(stream, PREFIX.size))
        if body_size not in (0, body_bytes):
            raise FrameError(f"a body of {body_size} bytes: expected {body_bytes}")
        reply = decode_reply(await self._read(stream, head_size))
        body = bytearray(body_size)
        for start in range(0, body_size, _BLOCK_BYTES):
            size = min(_BLOCK_BYTES, body_size - start)
            body[start : start + size] = await self._read(stream, size)
        return reply, body

    async def _read(self, stream: asyncio.StreamReader, size: int) -> bytes:
        async with asyncio.timeout(self._timeout_s):
            return await stream.readexactly(size)

    async def _explain(self, failed: Failed) -> Exception:
        if failed.reason == "confinement":
            await self._kill()
            return ConfinementError(
                f"the training process cannot be confined: {failed.message}. Run the agent where it can be, or accept "
                "that training code may read this user's files and keys: --unconfined"
            )
        if self._description is None:
            await self._kill()
        lack = find_lack_of_room(self._scratch.parent)
        if lack is not None:
            return TrainingError(f"{lack}; the training process said: {failed.message}")
        words = {"model": "the model cannot be used", "data": "the data cannot be used"}
        return TrainingError(f"{words.get(failed.reason, 'training failed')}: {failed.message}")

    async def _fail(self, what: str, *, ended: bool = False) -> TrainingError:
        """Kill the process and return the error; one that ended by itself gets a moment to say how."""
        process, status = self._process, ""
        if process is not None and ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_S):
                    status = _describe_exit(await process.wait())
        what, status = (f"{self._excess} and was killed", "") if self._excess else (what, status)
        await self._kill()
        lines = self._log.tail
        lack = find_lack_of_room(self._scratch.parent)
        if lack is not None:
            return TrainingError(f"{lack}; the training process {what}{status}")
        said = "; its last lines:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
        return TrainingError(f"the training process {what}{status}{said}")

    async def _kill(self) -> None:
        process, self._process = self._process, None
        watching, self._watch = self._watch, None
        if watching is not None:
            watching.cancel()
        if process is not None:
            _kill_group(process)
            if process.stdout is not None:  # what was not read would keep the pipe open
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_EXIT_S):
                        while await process.stdout.read(_BLOCK_BYTES):
                            pass
            await process.wait()
        drain, self._drain = self._drain, None
        if drain is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_S):
                    await drain


def _kill_group(process: Process) -> None:
    """Kill a process and all that it started, which cannot have left its group: setsid and setpgid are refused."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _describe_exit(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        hint = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f" with signal {name}{hint}"
    return f" with status {status}"
