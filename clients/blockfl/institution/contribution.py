"""One round's update, from the base model to the last uploaded chunk.

The order is the point: train, quantise, mark, sign, seal, write to the disk, and only then send. Whatever happened
before the mark may be repeated; whatever is on the disk is only ever sent again.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from blockfl.institution.encoder import UpdateEncoder
from blockfl.institution.errors import OutboxError, RejectionError, SettingsError, TrainingError
from blockfl.institution.frames import Trained, TrainingProgress
from blockfl.institution.outbox import Outbox, Parcel
from blockfl.institution.policy import Departures
from blockfl.institution.precheck import find_refusal
from blockfl.institution.round_training import check_loss, encode_trained, make_request
from blockfl.institution.step import Report, Stage, Step
from blockfl.institution.training import TrainingService
from blockfl.institution.vector import Vector
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import RefusedError
from blockfl.ledger.transfer import upload_update
from blockfl.protocol.catalogue import HEADER
from blockfl.protocol.codes import Code
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.payload import SEED_BYTES, Values
from blockfl.protocol.records import Consortium, Participant, Round, SignedHeader
from blockfl.protocol.submission import compose_update, sign_header
from blockfl.protocol.task import Task, TaskSpec
from blockfl.protocol.training import plan_training

R = TypeVar("R")

_ATTEMPTS = 2
_DISK_RETRY_S = 2.0
_LAST_MOMENT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A signed update that is not on the disk yet."""

    signed: SignedHeader
    payload: bytes
    chunks: Sequence[bytes]


class Contribution:
    """Makes, keeps and sends the updates of one institution in one task."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        training: TrainingService,
        encoder: UpdateEncoder,
        outbox: Outbox,
        report: Report,
        seed: int | None,
        obeys: bool = True,
        departures: Departures | None = None,
    ) -> None:
        self._ledger = ledger
        self._training = training
        self._encoder = encoder
        self._outbox = outbox
        self._report = report
        self._seed = seed
        self._obeys = obeys
        self._departures = departures or Departures(None)

    async def make(self, consortium: Consortium, task: Task, round_: Round, part: Participant, base: Vector) -> Parcel:
        """Train and leave the sealed update on the disk.

        Args:
            consortium: Who takes part.
            task: The task.
            round_: The open round.
            part: The institution's part in it.
            base: The round's base model, shape (d,).

        Raises:
            TrainingError: Training failed twice.
            RejectionError: The update breaks a rule, which only other training could change.
            ProtocolError: BFL307, training gave NaN or infinity; or no update can be made of what it gave.
            TimeoutError: The submit deadline passed.
            OutboxError: The disk refused until then.
        """
        async with asyncio.timeout(compute_remaining_s(round_, self._ledger.organisation)):
            trained = await self._train(task, round_, base)
            values = await asyncio.to_thread(self._encode, task, round_, part, base, trained)
            if self._obeys:
                refusal = await find_refusal(self._ledger, task, round_, part, values)
                if refusal:
                    raise RejectionError(f"the update would be rejected, so none is sent: {refusal}")
        # What is begun and not kept is a lost round: an agent that is told to end keeps it first.
        work = asyncio.create_task(self._seal_and_keep(consortium, task, round_, values))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work}, timeout=_LAST_MOMENT_S)
            work.cancel()
            raise

    async def _seal_and_keep(self, consortium: Consortium, task: Task, round_: Round, values: Values) -> Parcel:
        started = time.monotonic()
        await self._insist(round_, lambda: self._outbox.begin(round_.task, round_.round))
        draft = await asyncio.to_thread(self._seal, consortium, task, round_, values, secrets.token_bytes(SEED_BYTES))
        parcel = await self._insist(round_, lambda: self._outbox.keep(draft.signed, draft.payload, draft.chunks))
        self._tell("seal", round_, f"sealed {len(draft.payload)} bytes", started)
        return parcel

    async def send(self, round_: Round, parcel: Parcel, report: Metrics | None = None) -> bool:
        """Submit the header and upload the chunks that are not there yet. Repeating it changes nothing.

        Args:
            round_: The round.
            parcel: The sealed update.
            report: What the header is to take along: metrics of the round's base model.

        Returns:
            Whether the report went with the header.

        Raises:
            LedgerError: As the transactions do.
            OutboxError: A chunk on the disk is damaged.
            SettingsError: Another update of this organisation is on the ledger already.
        """
        started = time.monotonic()
        existing = await self.find_header(round_)
        if existing is not None and existing.header != parcel.signed.header:
            raise SettingsError(
                f"round {round_.round} of {round_.task}: another update of {self._ledger.organisation} is on the "
                "ledger than the one in this outbox; only one agent may use an identity: stop the other one"
            )
        is_reported = False
        if existing is None:
            digest = parcel.signed.header.record_digest
            self._departures.add("update", round_.task, round_.round, header=digest)
            is_reported = await self._submit(parcel.signed, report)
            self._tell("submit", round_, "header submitted", started)
        started = time.monotonic()

        def on_chunk(done: int, total: int) -> None:
            self._report(Step(stage="upload", round=round_.round, text="uploading", done=done, total=total))

        chunks = len(parcel.signed.header.chunk_digests)
        present = None if existing else [False] * chunks
        await upload_update(self._ledger, round_.task, round_.round, parcel.read_chunk, present, progress=on_chunk)
        size = parcel.signed.header.payload_bytes
        self._departures.add("sealed chunks", round_.task, round_.round, bytes=size)
        self._tell("upload", round_, f"uploaded {chunks} {'chunk' if chunks == 1 else 'chunks'}", started)
        return is_reported

    async def _submit(self, signed: SignedHeader, report: Metrics | None) -> bool:
        """Submit a header with a report, or, if that is refused, without: no update is lost for what goes beside it."""
        if report is not None:
            with contextlib.suppress(RefusedError):
                await self._ledger.submit_update(signed, report)
                return True
        await self._ledger.submit_update(signed)
        return False

    async def find_header(self, round_: Round) -> SignedHeader | None:
        """Return the header of this organisation that is on the ledger, if there is one."""
        try:
            return await self._ledger.read(HEADER.key(round_.task, round_.round, self._ledger.organisation))
        except RefusedError as error:
            if error.code not in (Code.UPDATE_UNKNOWN, Code.RECORD_UNKNOWN):
                raise
            return None

    async def _train(self, task: Task, round_: Round, base: Vector) -> Vector:
        request = make_request(task.spec, round_.round, self._seed)

        def on_progress(progress: TrainingProgress) -> None:
            text = f"epoch {progress.epoch} of {progress.epochs}"
            steps = max(progress.steps, 1)
            done = max(progress.epoch - 1, 0) * steps + progress.step
            self._report(
                Step(stage="train", round=round_.round, text=text, done=done, total=max(progress.epochs, 1) * steps)
            )

        for attempt in range(_ATTEMPTS):
            started = time.monotonic()
            self._report(Step(stage="train", round=round_.round, text=_describe_begin(task.spec, round_.round)))
            try:
                values, trained = await self._training.train(base, request, on_progress)
            except TrainingError as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                self._report(Step(stage="retry", round=round_.round, text=f"{error}\ntraining again"))
            else:
                check_loss(trained)
                self._tell("train", round_, _describe_end(task.spec, trained), started)
                return values
        raise AssertionError("unreachable")

    def _encode(self, task: Task, round_: Round, part: Participant, base: Vector, trained: Vector) -> Values:
        values, losses = encode_trained(self._encoder, task.spec, round_, part.weight, base, trained)
        for text in losses:
            self._report(Step(stage="seal", round=round_.round, text=text))
        return values

    def _seal(self, consortium: Consortium, task: Task, round_: Round, values: Values, seed: bytes) -> Draft:
        composed = compose_update(consortium, task, round_, self._ledger.organisation, values, seed)
        signed = sign_header(composed.header, self._ledger.signer.sign)
        return Draft(signed=signed, payload=composed.payload, chunks=composed.chunks)

    async def _insist(self, round_: Round, write: Callable[[], R]) -> R:
        """Write to the disk; when it refuses, keep everything in memory and try again: nothing has left."""
        while True:
            try:
                return await asyncio.to_thread(write)
            except OutboxError as error:
                if not compute_remaining_s(round_, self._ledger.organisation):
                    raise
                self._report(Step(stage="retry", round=round_.round, text=f"{error}; trying again"))
                await asyncio.sleep(_DISK_RETRY_S)

    def _tell(self, stage: Stage, round_: Round, text: str, started: float) -> None:
        self._report(Step(stage=stage, round=round_.round, text=text, seconds=time.monotonic() - started))


def _describe_begin(spec: TaskSpec, number: int) -> str:
    if spec.tallies:
        return "counting the columns of the rows that train"
    return f"training: {plan_training(spec.training, number).describe()}"


def _describe_end(spec: TaskSpec, trained: Trained) -> str:
    if spec.tallies:
        return f"counted {trained.samples} rows"
    return f"trained on {trained.samples} samples, loss {trained.loss:.4f}"


def compute_remaining_s(round_: Round, organisation: str) -> float:
    """Return the seconds until an organisation's submit deadline by this machine's clock, 0 when it has passed."""
    return max(round_.get_submit_deadline_ms(organisation) / 1000 - time.time(), 0.0)
