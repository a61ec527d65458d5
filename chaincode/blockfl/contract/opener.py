"""The committee member's part of the contract: opens sealed updates, in memory only.

Owns the private opening key. What an opened update is worth is a verdict, the same in every member's service;
what is wrong with this member itself (no key, bytes not there yet) is a refusal, so that the others go on without it.
"""

import asyncio
from collections.abc import Iterator, Sequence

from blockfl.contract.chunk import fetch_model, fetch_sealed, find_sealed, find_small_sealed, list_sealed_presence
from blockfl.contract.settings import ContractSettings
from blockfl.contract.state import State
from blockfl.protocol.aggregation import combine, compare, drive_async
from blockfl.protocol.aggregation_arithmetic import REFERENCE
from blockfl.protocol.blob import compute_blob
from blockfl.protocol.catalogue import HEADER, MODEL
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import KNOWN_SUMS
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.judging import Judgement, judge_update, judge_upload, open_update, require_upload
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.norms import Integers
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Blob, Header, Round
from blockfl.protocol.scoring import Vector, compute_points, decode_values, weigh_points
from blockfl.protocol.sums import encode_sum
from blockfl.protocol.task import TaskSpec


class Opener:
    """Opens updates with the key of one organisation."""

    def __init__(self, settings: ContractSettings) -> None:
        self._organisation = settings.organisation
        self._key = settings.opening_key
        # However many transactions come at once, one of them opens updates: memory is bounded by what one needs.
        self._turn = asyncio.Lock()

    async def find_small(self, state: State, headers: Sequence[Header]) -> dict[str, Iterator[bytes]]:
        """Return the chunks of several updates, by organisation, where this member can open them and they are small."""
        return await find_small_sealed(state, headers) if self._key and len(headers) > 1 else {}

    async def judge(
        self, state: State, round_: Round, header: Header, *, is_compared: bool, chunks: Iterator[bytes] | None = None
    ) -> Judgement:
        """Open an update and apply every rule to it, and open the referee's before where the two are compared.

        Args:
            state: The transaction's.
            round_: The round.
            header: Of the update.
            is_compared: Whether the update is compared with the referee's.
            chunks: The sealed chunks, verified, if they are here already.

        Raises:
            ProtocolError: BFL119, BFL116 or BFL304: this member cannot judge; BFL115: chunks may still come.
        """
        async with self._turn:
            if chunks is None and self._key:
                chunks = await find_sealed(state, header)
            if chunks is None:
                presence = await list_sealed_presence(state, header)
                require_upload(round_, header, presence, state.now_ms)
                if incomplete := judge_upload(presence):
                    return incomplete
                self._require_key(round_)
                chunks = await fetch_sealed(state, header)
            key = self._require_key(round_)
            last_sum = await _fetch_last_sum(state, round_, header.dimension)
            reference = await self._open(state, round_, REFERENCE, key) if is_compared else None
            return judge_update(header, round_, chunks, self._organisation, key, last_sum=last_sum, reference=reference)

    async def _open(self, state: State, round_: Round, index: int, key: OpeningKey) -> Values:
        """Return the values of an accepted update by its index, or of the referee's."""
        header = (await state.read(HEADER.key(round_.task, round_.round, round_.get_contributor(index)))).header
        return open_update(header, await fetch_sealed(state, header), self._organisation, key).values

    async def compute_sum(self, state: State, round_: Round, spec: TaskSpec) -> Blob:
        """Open the accepted updates again, one after the other, and return what the task's rule makes of them.

        Rules that compare updates ask for them more than once, and keep a bounded part of them.

        Raises:
            ProtocolError: BFL119, BFL116 or BFL304: this member cannot say.
        """
        key = self._require_key(round_)

        async def fetch(index: int) -> Values:
            return await self._open(state, round_, index, key)

        async with self._turn:
            count = len(round_.accepted)
            combination = combine(
                spec.aggregation,
                dimension=spec.manifest.dimension,
                count=count,
                scale=round_.scale,
                trained=spec.manifest.trained,
                has_reference=round_.has_reference,
            )
            return compute_blob(encode_sum(await drive_async(combination, fetch)))

    async def compute_points(self, state: State, round_: Round, manifest: Manifest) -> tuple[int, ...]:
        """Open the accepted updates again, one after the other, and return the points of each, in their order.

        Their trained weights are compared with each other, with the last public sums, and with the referee's update if
        there is one; a bounded part of all is kept at once.

        Raises:
            ProtocolError: BFL119, BFL116 or BFL304: this member cannot say.
        """
        key, dimension = self._require_key(round_), manifest.dimension
        models = await state.find_latest_models(round_.task, round_.base_version, KNOWN_SUMS)
        sums = [model.sum for model in models if model.sum]
        known = len(sums) + int(round_.has_reference)

        async def fetch(index: int) -> Vector:
            if index < len(sums):
                return decode_values(await fetch_model(state, round_.task, sums[index]), dimension)
            return await self._open(state, round_, index - known, key)

        async with self._turn:
            comparison = compare(dimension, known + len(round_.accepted), trained=manifest.trained)
            gram = await drive_async(comparison, fetch)
            points = compute_points(gram, known=known, dimension=manifest.trained)
            return weigh_points(points, gram, len(sums)) if round_.has_reference else points

    def _require_key(self, round_: Round) -> OpeningKey:
        # Whether it is the round's key shows when the first update is opened.
        if self._key is None:
            raise ProtocolError(
                Code.OPENING_KEY,
                f"the contract service of {self._organisation} has no opening key: ask the committee of round "
                f"{round_.round} of {round_.task}, {', '.join(one.organisation for one in round_.committee)}",
            )
        return self._key


async def _fetch_last_sum(state: State, round_: Round, dimension: int) -> Integers | None:
    """Return the sum of the last published version, where the round compares updates with it."""
    if round_.norms is None or not round_.norms.needs_last_sum:
        return None
    model = await state.read(MODEL.key(round_.task, round_.base_version))
    if model.sum is None:
        raise ProtocolError(
            Code.RECORD_UNKNOWN, f"version {model.version} of the model of task {model.task} has no sum"
        )
    return decode_values(await fetch_model(state, round_.task, model.sum), dimension)
