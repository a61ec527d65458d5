"""The public check of a round's sum, as an ordinary institution makes it: every fixture breaks one thing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from blockfl.audit.aggregate import check_aggregate
from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.log import LoggedWrite, WriteLog
from blockfl.audit.records import verify_models
from blockfl.cli import audit as commands
from blockfl.cli.main import main
from blockfl.ledger.errors import LedgerError, RefusedError
from blockfl.ledger.lineage import compute_model, obtain_model
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.change import CHANGE_INTERVAL_MS
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Aggregate, Blob, Commitment, Model, Progress, Round, SignedHeader
from support.refusal import refused
from support.scenario import TASK, Scenario, make_spec
from support.world import World
from support.world_ledger import WorldHub

Check = Literal["commitment", "recompute"]
AGGREGATE, MODEL = catalogue.AGGREGATE.key(TASK, 1), catalogue.MODEL.key(TASK, 1)


class Federation:
    """A task in a world, and everybody's client."""

    def __init__(self, check: Check = "commitment", dimension: int = 10) -> None:
        self.world = World()
        self.hub = WorldHub(self.world)
        world, spec = self.world, make_spec(check=check, dimension=dimension)
        self.scenario = Scenario(self.hub, world.consortium, world.signers, world.opening_keys, spec)

    async def close(self) -> None:
        await self.scenario.prepare()
        await self.scenario.open()
        await self.scenario.contribute()
        await self.scenario.close()

    async def publish(self) -> None:
        await self.close()
        await self.scenario.attest()
        await self.scenario.publish(1, self.scenario.initial_model)

    def replace(self, kind: Any, key: str, **changes: Any) -> None:
        """Change a record past all policies, as organisations in sufficient number could."""
        data = self.world.get(key)
        assert data is not None
        self.world.force("", key, kind.decode(data).model_copy(update=changes).encode())

    def put(self, content: bytes) -> Blob:
        """Put the bytes of a sum on every member's peer."""
        blob, chunks = split_blob(content)
        for digest, chunk in zip(blob.chunks, chunks, strict=True):
            self.world.force(catalogue.MODEL_COLLECTION, catalogue.model_chunk_key(TASK, digest), chunk)
        return blob

    async def forge(self, index: int = 0) -> None:
        """Publish a sum that is off by one, with a model that follows from it: everybody but one reader colludes."""
        numbers = np.frombuffer(await self.scenario.total(), dtype="<i4").copy()
        numbers[index] += 1 if numbers[index] <= 0 else -1
        blob = self.put(numbers.tobytes())
        round_ = await self.scenario.round()
        content = compute_model(
            self.scenario.spec, self.scenario.initial_model, numbers.tobytes(), 4, round_.scale, round_.divisor
        )
        self.replace(Aggregate, AGGREGATE, sum=blob)
        self.replace(Model, MODEL, sum=blob, digest=compute_digest(content))
        self.replace(Progress, catalogue.PROGRESS.key(TASK), model_digest=compute_digest(content))


@pytest.fixture
async def published() -> Federation:
    federation = Federation()
    await federation.publish()
    return federation


@pytest.mark.parametrize("organisation", ["alpha", "gamma", "university"])
async def test_any_organisation_verifies_a_sum(published: Federation, organisation: str) -> None:
    ledger = published.hub.ledger(organisation)
    report = await check_aggregate(ledger, TASK, 1)
    assert report.accepted == report.signed == ("alpha", "beta", "delta", "gamma")
    assert (report.dimension, report.renewed) == (10, ())
    assert report.as_dict()["verified"] is True
    assert "ReadChunk" not in ledger.calls


async def test_a_sum_is_verified_once_the_committee_agrees_on_its_model_and_everybody_may_read_it() -> None:
    federation = Federation()
    await federation.close()
    blob = await federation.scenario.attest()
    with pytest.raises(RefusedError, match=r"BFL111 .* has not been uploaded"):
        await check_aggregate(federation.hub.ledger("alpha"), TASK, 1)
    for member in ("coordinator", "regulator"):
        await federation.scenario.vote(member, "ab" * 32)
    await federation.scenario.upload_model("coordinator", await federation.scenario.total())
    assert (await check_aggregate(federation.hub.ledger("alpha"), TASK, 1)).sum_digest == blob.digest


@pytest.mark.parametrize("index", [0, 9, -1])
async def test_a_forged_sum_is_found_whoever_attested_and_published_it(published: Federation, index: int) -> None:
    await published.forge(index)
    with pytest.raises(VerificationError, match=r"task heart, round 1: BFL501 .* do not open"):
        await check_aggregate(published.hub.ledger("alpha"), TASK, 1)


async def test_an_institution_does_not_take_a_model_whose_sum_is_forged(published: Federation, tmp_path: Path) -> None:
    ledger, store = published.hub.ledger("beta"), ModelStore(tmp_path)
    task = await ledger.read(catalogue.TASK.key(TASK))
    assert await obtain_model(ledger, store, task, 1)
    await published.forge()
    with refused(Code.SUM_MISMATCH):
        await obtain_model(published.hub.ledger("beta"), ModelStore(tmp_path / "another"), task, 1)


def history_of(world: World) -> History:
    chain = ChainProof(genesis_hash=b"", namespace="blockfl")
    cells = {key: cell.value for (collection, key), cell in world.snapshot().items() if not collection}
    chain.writes = WriteLog(LoggedWrite(block_number=1, key=key, value=value) for key, value in sorted(cells.items()))
    return History(chain)


async def test_the_audit_of_a_whole_ledger_finds_it_too(published: Federation) -> None:
    ledger = published.hub.ledger("university")
    task = await ledger.read(catalogue.TASK.key(TASK))
    digest = await verify_models(ledger, history_of(published.world), task)
    assert digest == (await ledger.read(catalogue.MODEL.key(TASK, 1))).digest
    await published.forge()
    with pytest.raises(VerificationError, match="BFL501"):
        await verify_models(ledger, history_of(published.world), task)


async def test_models_of_a_task_that_recomputes_verify_without_commitments(tmp_path: Path) -> None:
    federation = Federation("recompute")
    await federation.publish()
    ledger = federation.hub.ledger("alpha")
    task = await ledger.read(catalogue.TASK.key(TASK))
    content = await obtain_model(ledger, ModelStore(tmp_path), task, 1)
    assert await verify_models(ledger, history_of(federation.world), task) == compute_digest(content)
    assert "ReadModelChunk" in ledger.calls
    assert not {"ReadEvidence", "ListCommitments"} & set(ledger.calls)


async def test_a_commitment_that_was_exchanged_is_found(published: Federation) -> None:
    other = Commitment.decode(published.world.get(catalogue.COMMITMENT.key(TASK, 1, "beta")) or b"")
    published.replace(Commitment, catalogue.COMMITMENT.key(TASK, 1, "alpha"), value=other.value)
    with pytest.raises(VerificationError, match="BFL501 the commitment of alpha in round 1 of heart is not the one"):
        await check_aggregate(published.hub.ledger("gamma"), TASK, 1)


async def test_a_header_that_its_institution_did_not_sign_is_found(published: Federation) -> None:
    """Commitment and header exchanged together: the signature still tells."""
    key = catalogue.HEADER.key(TASK, 1, "alpha")
    signed = SignedHeader.decode(published.world.get(key) or b"")
    header = signed.header.model_copy(update={"commitment_digest": "0" * 64})
    published.replace(SignedHeader, key, header=header)
    with pytest.raises(VerificationError, match="BFL407"):
        await check_aggregate(published.hub.ledger("gamma"), TASK, 1)


async def test_a_header_of_another_round_is_found(published: Federation) -> None:
    key = catalogue.HEADER.key(TASK, 1, "alpha")
    header = SignedHeader.decode(published.world.get(key) or b"").header
    published.replace(SignedHeader, key, header=header.model_copy(update={"base_digest": "0" * 64}))
    with pytest.raises(VerificationError, match="BFL403"):
        await check_aggregate(published.hub.ledger("gamma"), TASK, 1)


async def test_an_accepted_update_that_was_left_out_is_found(published: Federation) -> None:
    total = await published.scenario.sum(1, ("alpha", "beta", "delta"))
    blob = published.put(total.encode())
    published.replace(Aggregate, AGGREGATE, sum=blob)
    published.replace(Model, MODEL, sum=blob)
    with pytest.raises(VerificationError, match="BFL501"):
        await check_aggregate(published.hub.ledger("gamma"), TASK, 1)
    published.replace(Aggregate, AGGREGATE, accepted=("alpha", "beta", "delta"))
    with pytest.raises(VerificationError, match="not one of the updates that the round accepted"):
        await check_aggregate(published.hub.ledger("gamma"), TASK, 1)


async def test_a_version_with_another_sum_than_the_attested_one_is_found(published: Federation) -> None:
    published.replace(Model, MODEL, sum=published.put(b"another"))
    with pytest.raises(VerificationError, match="another sum than the attested one"):
        await check_aggregate(published.hub.ledger("gamma"), TASK, 1)


async def test_a_certificate_that_was_renewed_since_is_told(published: Federation) -> None:
    published.world.add_organisation("beta", 77)
    published.world.now_ms += CHANGE_INTERVAL_MS
    await published.scenario.enrol("beta")
    report = await check_aggregate(published.hub.ledger("gamma"), TASK, 1)
    assert (report.signed, report.renewed) == (("alpha", "delta", "gamma"), ("beta",))


async def test_a_task_without_commitments_says_who_checks_its_sums() -> None:
    federation = Federation("recompute")
    await federation.publish()
    with pytest.raises(LedgerError, match="has no commitments: its sums are checked by the committee"):
        await check_aggregate(federation.hub.ledger("gamma"), TASK, 1)


async def test_a_round_without_a_sum_says_so() -> None:
    federation = Federation()
    await federation.scenario.prepare()
    ledger = federation.hub.ledger("gamma")
    with pytest.raises(RefusedError, match="BFL103"):
        await check_aggregate(ledger, TASK, 1)
    await federation.scenario.open()
    with pytest.raises(LedgerError, match="round 1 of heart is open: it has no sum"):
        await check_aggregate(ledger, TASK, 1)
    await federation.scenario.contribute()
    await federation.scenario.close()
    with pytest.raises(LedgerError, match="not attested yet"):
        await check_aggregate(ledger, TASK, 1)
    federation.replace(Round, catalogue.ROUND.key(TASK, 1), state="failed")
    with pytest.raises(LedgerError, match="is failed"):
        await check_aggregate(ledger, TASK, 1)


# --- the command


class Connection:
    """Stands where the command connects to a ledger."""

    def __init__(self, federation: Federation) -> None:
        self._ledger = federation.hub.ledger("alpha")

    async def __aenter__(self) -> Any:
        return self._ledger

    async def __aexit__(self, *exception: object) -> None:
        pass


def run(federation: Federation, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(commands, "reach", lambda _: Connection(federation))
    monkeypatch.setattr(ConnectionProfile, "load", lambda _: None)
    words = ["blockfl", "audit", "check-aggregate", TASK, "1", "--profile", "alpha.json", *options]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_verifies_a_sum_and_refuses_a_forged_one_with_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = Federation()
    asyncio.run(federation.publish())
    assert run(federation, monkeypatch) == 0
    assert "of round 1 of heart is that of the 4 accepted updates" in capsys.readouterr().out
    assert run(federation, monkeypatch, "--json") == 0
    assert '"verified": true' in capsys.readouterr().out
    asyncio.run(federation.forge())
    assert run(federation, monkeypatch) == 3
    assert "BFL501" in capsys.readouterr().err
