"""One round under attack: the attacker's moves, and the honest rest of the round.

The attacker is ``delta`` unless an attack says otherwise; alpha, beta and gamma are honest. Whatever came of the
attack, ``finish`` has everybody else take part, closes and publishes the round, and compares its model with one
computed by the naive reference from what the honest institutions learnt.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from attacks.catalogue import Outcome, recorded, rejected, succeeded
from attacks.terms import PLAIN, Terms
from blockfl.protocol.canonical import Record, compute_digest
from blockfl.protocol.claims import Dispute, Equivocation
from blockfl.protocol.codes import Code
from blockfl.protocol.economics import Settlement
from blockfl.protocol.model import decode_model, encode_model
from blockfl.protocol.records import Blob, Commitment, Header, Round, SignedHeader, Update, Vote
from blockfl.protocol.seal import seal
from blockfl.protocol.submission import compose_header, compose_place, verify_header_signature
from blockfl.protocol.task import TaskSpec
from reference.aggregation import combine_naively
from reference.sums import apply_naively
from support.scenario import Scenario, Values
from support.world import CONFLICT, Invalid

if TYPE_CHECKING:
    from attacks.arena import Arena, Site

R = TypeVar("R", bound=Record)

ATTACKER = "delta"
BACK_S = -28
"""How far a clock may go wrong without being refused: 30 s, less some time for the call itself."""
AHEAD_S = 28


class HonestRoundError(AssertionError):
    """The round under attack did not end as it should have for the honest."""


@dataclass(frozen=True)
class Forgery:
    """An update as an attacker has it in hand."""

    header: Header
    chunks: tuple[bytes, ...]

    def change(self, **fields: Any) -> Forgery:
        """Return it with other words in its header."""
        return Forgery(self.header.model_copy(update=fields), self.chunks)

    def replace(self, *chunks: bytes) -> Forgery:
        """Return it with other chunks, and a header that announces them."""
        digests = tuple(compute_digest(one) for one in chunks)
        return Forgery(self.header.model_copy(update={"chunk_digests": digests}), chunks)


class Bout:
    """One round of a task, and everybody in it.

    Attributes:
        excluded: institutions whose update must not be in the sum.
    """

    def __init__(self, arena: Arena, terms: Terms, site: Site) -> None:
        self.arena = arena
        self.network = arena.network
        self.scenario: Scenario = site.scenario
        self.task = site.scenario.task
        self.number = site.number + 1
        self.excluded: set[str] = set()
        self.terms = terms
        self._site = site
        self._round: Round | None = None
        self._backdated = False
        self._forsaken = False
        self._finished = False
        self.base = b""
        self.settlement: Settlement | None = None

    # The round

    @property
    def place(self) -> tuple[str, str]:
        """Task and round, as arguments."""
        return self.task, str(self.number)

    @property
    def place_typed(self) -> tuple[str, int]:
        """Task and round, as the product's client takes them."""
        return self.task, self.number

    @property
    def round(self) -> Round:
        """The round as it was opened."""
        assert self._round is not None, "open the round first"
        return self._round

    @property
    def weight(self) -> int:
        """The attacker's weight."""
        part = self.round.participant(ATTACKER)
        assert part is not None
        return part.weight

    async def open(self, *, ends_soon: bool = False, ahead_s: int = 0, refereed: bool = True) -> Round:
        """Open the round; one that ends soon can be closed without everybody by a clock that goes ahead.

        Its referee contributes at once, unless told otherwise: nobody else is judged before.
        """
        self._backdated = ends_soon
        with self.network.clock("coordinator", BACK_S if ends_soon else ahead_s):
            self._round = await self.scenario.open(self.number)
        if self._round.referee and refereed:
            await self.contribute(self._round.referee.organisation)
        return self._round

    def forsake(self) -> None:
        """Give the task up: the attack has stopped it for good, and only other tasks can go on."""
        self._forsaken = True

    async def adopt(self, spec: TaskSpec, model: bytes) -> None:
        """Go over to another task."""
        self.scenario = await self.arena.propose_task(spec, model)
        self.task, self.number = spec.task, 1

    async def play_before(self) -> Bout:
        """Play an honest round first, and go on to the next one."""
        before = Bout(self.arena, self.terms, self._site)
        await before.finish()
        self.number = self._site.number + 1
        return before

    # The attacker's moves

    def learnt(self, organisation: str = ATTACKER) -> Values:
        """Return what an institution honestly learnt."""
        return self.scenario.values(organisation, self.number)

    async def seal(self, organisation: str = ATTACKER, values: Values | None = None, salt: int = 0) -> Forgery:
        """Seal an update as it should be sealed."""
        forgery = Forgery(*await self.scenario.seal(organisation, self.number, values, salt))
        if values is None and not salt:
            # What the honest rest of the round goes on with, should the attacker submit just this.
            learnt = self.learnt(organisation)
            self.scenario.sealed[self.number, organisation] = (self.sign(forgery.header), forgery.chunks, learnt)
        return forgery

    def sign(self, header: Header) -> SignedHeader:
        """Sign a header with its organisation's enrolled key."""
        return self.scenario.sign(header)

    async def seal_bytes(self, values: bytes) -> Forgery:
        """Seal any bytes in the place of the values; the header announces their true length."""
        seed = self.scenario.seed(ATTACKER, self.number)
        place = compose_place(self.arena.consortium, self.round, ATTACKER)
        sealed = seal(values + seed, seed, place, self.round.committee)
        honest = await self.seal()
        task = await self.scenario.read_task()
        digest = honest.header.commitment_digest
        header = compose_header(self.arena.consortium, task, self.round, ATTACKER, sealed, digest)
        return Forgery(header, sealed.chunks)

    async def submit(self, header: Header | SignedHeader) -> None:
        """Submit a header as its organisation, signed if it is not yet."""
        signed = header if isinstance(header, SignedHeader) else self.sign(header)
        await self.network.submit(signed.header.organisation, "SubmitUpdate", signed.encode())

    async def upload(self, *chunks: bytes, organisation: str = ATTACKER, first: int = 0) -> None:
        """Upload chunks one after the other."""
        for index, chunk in enumerate(chunks, first):
            await self.network.submit(
                organisation,
                "UploadChunk",
                *self.place,
                str(index),
                transient={"chunk": chunk},
                endorsers=self.arena.consortium.committee,
            )

    async def judge(self, organisation: str = ATTACKER, by: str = "regulator") -> Outcome:
        """Have an update judged; one that is not accepted must not be in the sum."""
        endorsers = self.arena.consortium.committee
        await _patiently(lambda: self.network.submit(by, "JudgeUpdate", *self.place, organisation, endorsers=endorsers))
        return await self.read_verdict(organisation)

    async def read_verdict(self, organisation: str = ATTACKER) -> Outcome:
        """Return what the ledger says about an update."""
        update = await self.scenario.update(organisation, self.number)
        if update.state != "rejected":
            return succeeded(update.state)
        self.excluded.add(organisation)
        return rejected(next(one for one in Code if one.identifier == update.code))

    async def send(self, forgery: Forgery) -> Outcome:
        """Submit, upload and have judged."""
        await self.submit(forgery.header)
        await self.upload(*forgery.chunks, organisation=forgery.header.organisation)
        return await self.judge(forgery.header.organisation)

    async def poison(self, values: Values) -> Outcome:
        """Seal these values as an honest client would, send them and have them judged."""
        await self.scenario.submit(ATTACKER, self.number, values)
        await self.scenario.upload(ATTACKER, self.number)
        return await self.judge()

    async def contribute_as(self, organisation: str, values: Values) -> None:
        """Seal these values for an organisation and send them."""
        await self.scenario.submit(organisation, self.number, values)
        await self.scenario.upload(organisation, self.number)

    async def read_equivocation(self) -> Outcome:
        """Return what the ledger says of the attacker's second header."""
        (proof,) = await self.list(Equivocation, "ListEquivocations")
        first = await self.network.evaluate("coordinator", "ReadHeader", *self.place, proof.organisation)
        verify_header_signature(proof.second, self.certificate(proof.organisation))
        if proof.second.header == SignedHeader.decode(first).header or proof.organisation != ATTACKER:
            return succeeded("there is no proof")
        return recorded(Code.EQUIVOCATION)

    async def claim_wrap(self, member: str) -> None:
        """Have a member say on the ledger that its wrap of the attacker's update is wrong."""
        await self.network.submit(member, "ClaimWrap", *self.place, ATTACKER)

    async def settle_claim(self, member: str, settler: str, ephemeral_key: bytes) -> None:
        """Have a member's claim settled by somebody who shows a key."""
        shown = {"ephemeral_key": ephemeral_key}
        await self.network.submit(settler, "SettleWrap", *self.place, ATTACKER, member, transient=shown)

    async def read_claim(self) -> Outcome:
        """Return who was right about a wrap, as the ledger has it."""
        (dispute,) = await self.list(Dispute, "ListDisputes")
        return Outcome("recorded", f"claim {dispute.state}")

    async def list_standings(self) -> bytes:
        """Return everybody's stake and reputation."""
        return await self.network.evaluate("coordinator", "ListStandings", self.task)

    async def read_commitment(self, organisation: str) -> bytes:
        """Return the public commitment to an accepted update."""
        answer = await self.network.evaluate("alpha", "ReadCommitment", *self.place, organisation)
        return Commitment.decode(answer).content

    def certificate(self, organisation: str) -> str:
        """Return an institution's enrolled certificate."""
        return self.scenario.signers[organisation].identity.certificate_pem.decode()

    def measure_step(self) -> float:
        """Return how far the finished round's model is from the one before."""
        manifest = self.scenario.spec.manifest
        base, model = (decode_model(manifest, one).astype(np.float64) for one in (self.base, self._site.model))
        return float(np.linalg.norm(model - base))

    def measure_influence(self) -> float:
        """Return how far the finished round's model is from the honest mean, 1 being the farthest honest update."""
        weights = {one.organisation: one.weight for one in self.round.participants if one.organisation != ATTACKER}
        updates = {name: self.scenario.sealed[self.number, name][2].astype(np.float64) for name in weights}
        mean = sum(updates.values()) / sum(weights.values())
        spread = max(np.linalg.norm(values / weights[name] - mean) for name, values in updates.items())
        manifest = self.scenario.spec.manifest
        base, model = (decode_model(manifest, one).astype(np.float64) for one in (self.base, self._site.model))
        return float(np.linalg.norm(np.ldexp(model - base, self.round.scale) - mean) / spread)

    # The honest rest

    async def contribute(self, *organisations: str) -> None:
        """Have institutions take part as they should, all at once.

        In a round that ends soon their clocks go back, or a busy machine would make them late.
        """
        with ExitStack() as clocks:
            for name in organisations if self._backdated else ():
                clocks.enter_context(self.network.clock(name, BACK_S))
            await asyncio.gather(*(self._contribute(name) for name in organisations))

    async def send_unjudged(self, *organisations: str) -> None:
        """Have institutions submit and upload in a round that ends soon; nobody can be judged yet."""
        with ExitStack() as clocks:
            for name in organisations:
                clocks.enter_context(self.network.clock(name, BACK_S))
            for name in organisations:
                await self.contribute_as(name, self.learnt(name))

    async def wait_for_deadline(self) -> None:
        """Wait until the round takes no more updates by the true time."""
        left_ms = self.round.submit_deadline_ms + 1 - time.time_ns() // 1_000_000
        await asyncio.sleep(left_ms / 1000)

    async def await_sum(self, blob: Blob) -> None:
        """Wait until every committee member's peer has a sum: peers commit one by one."""
        for member in self.arena.consortium.committee:
            while b"0" in await self.network.evaluate(
                "coordinator", "ReadSumUpload", *self.place, blob.encode(), peer=member
            ):
                await asyncio.sleep(0.05)

    async def read_sum_chunk(self, reader: str, digest: str, peer: str = "") -> bytes:
        """Ask for a chunk of the round's sum that the committee keeps."""
        return await self.network.evaluate(reader, "ReadSumChunk", *self.place, digest, peer=peer or reader)

    async def close(self) -> Round:
        """Have everybody who is left contribute, an awaited referee first, and close the round."""
        updates = await self.list_updates()
        referee = self.round.referee
        if referee and referee.if_absent == "wait" and referee.organisation not in updates:
            await self.contribute(referee.organisation)
        honest = [one.organisation for one in self.round.participants if one.organisation not in self.excluded]
        waiting = [name for name in honest if name not in updates or updates[name].state == "submitted"]
        await self.contribute(*waiting)
        updates = await self.list_updates()
        undecided = [
            one.organisation
            for one in self.round.participants
            if one.organisation not in updates or updates[one.organisation].state == "submitted"
        ]
        early = bool(undecided) and self._backdated
        with self.network.clock("university", AHEAD_S) if early else nullcontext():
            return await self.scenario.close(self.number)

    async def derive_digest(self) -> str:
        """Return the digest of the model that the round's sum makes."""
        return compute_digest(await self.scenario.derive(self.number, self._site.model))

    async def publish(self) -> None:
        """Do what is left to do until the round has its model."""
        round_ = await self.scenario.round(self.number)
        if round_.state == "open":
            round_ = await self.close()
        if round_.state == "closed":
            if (await self.scenario.aggregate(self.number)).state == "pending":
                await self.scenario.attest(self.number)
            votes = {one.organisation for one in await self.list(Vote, "ListVotes")}
            voters = [one for one in self.arena.consortium.committee if one not in votes]
            await self.scenario.publish(self.number, self._site.model, voters)

    async def abandon(self) -> None:
        """Give the round up that can never be published, and go on to the next, on the same model."""
        with self.network.clock("university", AHEAD_S):
            await self.network.submit("university", "AbandonRound", *self.place)
        self._site.number = self.number
        self.number += 1
        self._round = None
        self.excluded.clear()

    async def finish(self) -> None:
        """Complete the round and verify its model.

        Raises:
            HonestRoundError: it is not the model that the honest updates give.
        """
        if self._forsaken:
            await (await self.arena.begin(PLAIN)).finish()
            return
        if self._finished:
            return
        self._finished = True
        if self._round is None:
            await self.open()
        await self.publish()
        model = await self._verify()
        if self.terms.economics and not self.settlement:
            await self.settle()
        self.base, self._site.model, self._site.number = self._site.model, model, self.number
        self.arena.keep(self.terms, self._site)

    async def list_updates(self) -> dict[str, Update]:
        """Return what was submitted, by organisation."""
        return {one.organisation: one for one in await self.list(Update, "ListUpdates")}

    async def list(self, kind: type[R], function: str) -> list[R]:
        """Return records of the round."""
        rows = json.loads(await self.network.evaluate("coordinator", function, *self.place))
        return [kind.model_validate_json(json.dumps(row)) for row in rows]

    async def _contribute(self, name: str) -> None:
        if name not in await self.list_updates():
            await self.scenario.submit(name, self.number)
        if b"0" in await self.network.evaluate(name, "ReadUpload", *self.place, name):
            await self.scenario.upload(name, self.number)
        outcome = await self.judge(name)
        if outcome != succeeded("accepted"):
            raise HonestRoundError(f"the honest update of {name} is {outcome}")

    async def _verify(self) -> bytes:
        """Compare round and model with what the naive reference makes of the honest updates; return the model."""
        round_ = await self.scenario.round(self.number)
        expected = tuple(one.organisation for one in self.round.participants if one.organisation not in self.excluded)
        if (round_.state, round_.accepted) != ("published", expected):
            raise HonestRoundError(f"expected {expected} in the sum, got {round_.accepted}; it is {round_.state}")
        manifest = self.scenario.spec.manifest
        updates = [self.scenario.sealed[self.number, name][2].tolist() for name in expected]
        weight = sum(one.weight for one in self.round.participants if one.organisation in expected)
        rule = self.scenario.spec.aggregation.model_dump()
        referee = round_.referee.organisation if round_.referee and round_.has_reference else None
        reference = self.scenario.sealed[self.number, referee][2].tolist() if referee else None
        total = combine_naively(rule, updates, round_.scale, reference)
        base = decode_model(manifest, self._site.model)
        divisor = count_naively(rule, weight)
        vector = np.array(apply_naively(base.tolist(), total, round_.scale, divisor), dtype=np.float32)
        model = encode_model(manifest, vector)
        record = await self.scenario.model(round_.base_version + 1)
        if (record.digest, record.divisor) != (hashlib.sha256(model).hexdigest(), divisor):
            raise HonestRoundError("the published model is not the one that the honest updates give")
        return model

    async def settle(self) -> Settlement:
        """Score and settle the published round."""
        committee = self.arena.consortium.committee
        await self.network.submit("regulator", "ScoreRound", *self.place, endorsers=committee)
        committed = await self.network.submit("gamma", "SettleRound", *self.place)
        self.settlement = Settlement.decode(committed.payload)
        return self.settlement


def count_naively(rule: Mapping[str, Any], weight: int) -> int:
    """Return how many values a rule's result adds up; the weight is the number of updates where it is no average."""
    match rule["rule"]:
        case "median":
            return 2
        case "trimmed_mean":
            return weight - 2 * int(rule["trim"])
        case "krum":
            return 1
        case "multi_krum":
            return int(rule["selected"])
        case _:
            return weight


async def _patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a transaction while it conflicts with another one, as clients do."""
    while True:
        try:
            return await call()
        except Invalid as error:
            if error.code != CONFLICT:
                raise
