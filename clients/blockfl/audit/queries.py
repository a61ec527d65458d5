"""What an auditor asks of a verified ledger: histories, lineages, one organisation's doings, rejections.

Pure functions over a `book.Book`. Each row has the columns of `entry.PLACE`: block, transaction, time, whose word the
time is, and signers. A name that the ledger does not know is a `LedgerError` that lists those it knows.
"""

import json
from typing import Final

from blockfl.audit.book import Book
from blockfl.audit.entry import Entry, Row, format_time, place
from blockfl.protocol.catalogue import (
    EQUIVOCATION,
    EQUIVOCATIONS,
    ERASURES,
    HEADER,
    MODELS,
    REVERSAL,
    ROUND,
    ROUNDS,
    SEALED_COLLECTION,
    SETTLEMENT,
    UPDATE,
    UPDATES,
    find_key,
    sealed_chunk_key,
)
from blockfl.protocol.effect import find_verdict
from blockfl.protocol.judging import describe_verdict
from blockfl.protocol.publication import find_version_without
from blockfl.protocol.records import Model

ACTS: Final = {
    "RegisterConsortium": "registered the consortium's record",
    "RegisterCommitteeKey": "registered its opening key",
    "WithdrawCertificate": "withdrew a certificate",
    "CreateTask": "created the task",
    "EndTask": "ended the task",
    "UploadModelChunk": "uploaded a chunk of a model or sum",
    "UploadSumChunk": "uploaded a chunk of a sum for the committee",
    "Enrol": "enrolled",
    "OpenRound": "opened the round",
    "SubmitUpdate": "submitted its update",
    "UploadChunk": "uploaded a sealed chunk of its update",
    "JudgeUpdate": "had the committee judge the update of {organisation}",
    "AssessUpdate": "said what the update of {organisation} does to its loss",
    "ClaimWrap": "claimed that it cannot open its wrapped key of the update of {organisation}",
    "SettleWrap": "settled a claim about a wrapped key of the update of {organisation}",
    "CloseRound": "closed the round",
    "AttestAggregate": "had the committee attest the sum",
    "PublishModel": "voted for the model",
    "AbandonRound": "gave the round up",
    "ReportMetrics": "reported its metrics",
    "AppraiseVersion": "had a version appraised by the task's goal",
    "RequestErasure": "asked for its updates to be erased",
    "EraseUpdate": "had the sealed update of {organisation} erased",
    "Grant": "created credits for {organisation}",
    "Transfer": "transferred credits to {organisation}",
    "Withdraw": "took its stake back",
    "ScoreRound": "had the committee score the round",
    "OverturnPenalty": "voted to overturn the penalty of {organisation}",
    "SettleRound": "settled the round",
    "ApproveChaincodeDefinitionForMyOrg": "approved a definition of a contract",
    "CommitChaincodeDefinition": "put a definition of a contract into force",
}
"""What each transaction does, in the words of a row whose subject is its submitter."""
_VALUE_SHOWN: Final = 60


def list_transactions(book: Book, task: str | None = None) -> list[Row]:
    """Return a row for each transaction, valid or not, in the chain's order; of a task or of all."""
    if task is not None:
        book.check_task(task)
    return [
        describe_entry(one)
        for one in book.entries
        if task is None or (one.notice is not None and one.notice.task == task)
    ]


def describe_entry(entry: Entry) -> Row:
    """Return the row of one transaction."""
    notice = entry.notice
    return {
        "submitter": entry.submitter,
        "act": describe_act(entry),
        "function": entry.function,
        "chaincode": entry.chaincode,
        "kind": entry.kind,
        "task": notice.task if notice else "",
        "round": notice.round if notice and notice.round else None,
        "organisation": notice.organisation if notice else "",
        "detail": notice.detail if notice else "",
        "validity": entry.code,
        "reason": entry.reason,
        "index": entry.index,
    } | place(entry)


def describe_act(entry: Entry) -> str:
    """Return in words what a transaction did, or tried to do."""
    if entry.kind == "configuration":
        act = "configured the channel"
    elif entry.kind == "unreadable":
        act = "sent what nobody can read"
    else:
        act = f"called {entry.function or 'nothing'} of {entry.chaincode or 'nothing'}"
    if entry.kind in ("contract", "lifecycle") and entry.function in ACTS:
        act = ACTS[entry.function].format(organisation=entry.notice.organisation if entry.notice else "somebody")
    return act if entry.is_valid else f"{act} (invalid: {entry.code})"


def list_history(book: Book, key: str) -> list[Row]:
    """Return a row for each write of a record, the oldest first: what changed, by whom."""
    rows, before = [], b""
    for write, entry in book.list_writes(key):
        row = {"key": key, "act": describe_act(entry), "submitter": entry.submitter}
        rows.append(row | {"changes": _list_changes(before, write.value), "value": _parse(write.value)} | place(entry))
        before = write.value
    return rows


def list_lineage(book: Book, task: str, version: int) -> list[Row]:
    """Return a row for each version up to one: what it was made from, by whom, who vouches for it."""
    book.check_version(task, version)
    return [
        _describe_version(book, model)
        for model in book.history.read_all(MODELS.below(task))
        if model.version <= version
    ]


def _describe_version(book: Book, model: Model) -> Row:
    key = find_key(model)
    row: Row = {
        "key": key,
        "task": model.task,
        "version": model.version,
        "round": model.round or None,
        "digest": model.digest,
        "base_version": model.version - 1 if model.version else None,
        "base_digest": model.base_digest,
        "made_by": list(model.accepted),
        "updates": [_describe_part(book, model, one) for one in model.accepted],
        "sum": model.sum.digest if model.sum else None,
        "summed_by": model.summed_by,
        "voters": list(model.voters),
    }
    return row | book.place(key)


def _describe_part(book: Book, model: Model, organisation: str) -> Row:
    """One institution's part in a version: its signed header, and the verdict on it."""
    part = book.history.get(ROUND.key(model.task, model.round)).participant(organisation)
    header = HEADER.key(model.task, model.round, organisation)
    verdict = UPDATE.key(model.task, model.round, organisation)
    return {
        "organisation": organisation,
        "samples": part.samples if part else None,
        "weight": part.weight if part else None,
        "header": header,
        "header_digest": book.history.get(header).header.record_digest,
        "submission": book.place(header),
        "verdict": book.place(verdict),
    }


def list_institution(book: Book, name: str) -> list[Row]:
    """Return a row for each valid transaction that an organisation sent, or that is about it, in all tasks."""
    book.check_organisation(name)
    rows = []
    for entry in book.entries:
        is_about = entry.notice is not None and name in entry.notice.details
        if entry.is_valid and (entry.submitter == name or is_about):
            row = describe_entry(entry)
            row["result"] = _describe_result(book, entry, name)
            rows.append(row)
    return rows


def _describe_result(book: Book, entry: Entry, name: str) -> str:
    """What came of a transaction, where a record says so in words."""
    notice = entry.notice
    if notice is None:
        return ""
    if entry.function == "JudgeUpdate" and name in notice.details:
        update = book.history.find(UPDATE.key(notice.task, notice.round, name))
        return describe_verdict(update) if update and update.code else update.state if update else ""
    return notice.detail


def list_rejections(book: Book, task: str | None = None) -> list[Row]:
    """Return a row for each rejected update and each proof of equivocation: why, what it cost, whether that stands."""
    if task is not None:
        book.check_task(task)
    rows = []
    for name in [task] if task is not None else book.list_tasks():
        for round_ in book.history.read_all(ROUNDS.below(name)):
            for update in book.history.read_all(UPDATES.below(name, round_.round)):
                verdict = find_verdict(round_, update)
                if verdict.state == "rejected":
                    why = describe_verdict(verdict)
                    rows.append(_rejection(book, name, round_.round, verdict.organisation, verdict.code, why))
            for proof in book.history.read_all(EQUIVOCATIONS.below(name, round_.round)):
                why = f"signed two different updates: {proof.first_digest} and {proof.second.header.record_digest}"
                rows.append(_rejection(book, name, round_.round, proof.organisation, "BFL408", why))
    return rows


def list_erasures(book: Book, task: str | None = None) -> list[Row]:
    """Return a row for each institution that asked for its updates to be erased: what is gone, what is still there."""
    if task is not None:
        book.check_task(task)
    rows = []
    for name in [task] if task is not None else book.list_tasks():
        for erasure in book.history.read_all(ERASURES.below(name)):
            gone, kept = _list_chunks(book, name, erasure.organisation, erasure.until_round)
            versions = book.history.read_all(MODELS.below(name))
            row: Row = {
                "key": find_key(erasure),
                "task": name,
                "organisation": erasure.organisation,
                "until_round": erasure.until_round,
                "purged_rounds": gone,
                "kept_rounds": kept,
                "version_without": find_version_without(versions, erasure.organisation),
            }
            rows.append(row | book.place(find_key(erasure)))
    return rows


def _list_chunks(book: Book, task: str, organisation: str, until: int) -> tuple[list[int], list[int]]:
    """Return the rounds of whose update no chunk is on the ledger any more, and those of which one is."""
    gone: list[int] = []
    kept: list[int] = []
    for number in range(1, until + 1):
        signed = book.history.find(HEADER.key(task, number, organisation))
        if signed is not None:
            keys = [
                sealed_chunk_key(task, number, organisation, one) for one in range(len(signed.header.chunk_digests))
            ]
            is_there = any(book.history.private_hash(SEALED_COLLECTION, key) for key in keys)
            (kept if is_there else gone).append(number)
    return gone, kept


def _rejection(book: Book, task: str, number: int, organisation: str, code: str, why: str) -> Row:
    kind = EQUIVOCATION if code == "BFL408" else UPDATE
    key = str(kind.key(task, number, organisation))
    settlement = book.history.find(SETTLEMENT.key(task, number))
    outcomes = settlement.outcomes if settlement else ()
    reversal = book.history.find(REVERSAL.key(task, number, organisation))
    row: Row = {
        "key": key,
        "task": task,
        "round": number,
        "organisation": organisation,
        "code": code,
        "why": why,
        "penalty": next((one.penalty for one in outcomes if one.organisation == organisation), None),
        "overturned_by": list(reversal.voters) if reversal else [],
    }
    return row | book.place(key)


def _list_changes(before: bytes, after: bytes) -> list[str]:
    """Return in words which fields of a record are another."""
    old, new = _parse(before) if before else {}, _parse(after)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return ["written"]
    if not old:
        return ["created"]
    return [
        f"{name}: {_show(name, old.get(name))} → {_show(name, new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ] or ["written again as it was"]


def _show(name: str, value: object) -> str:
    if name.endswith("_ms") and isinstance(value, int):
        return str(format_time(value) or "never")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return (text if len(text) <= _VALUE_SHOWN else f"{text[:_VALUE_SHOWN]}…") or "nothing"


def _parse(value: bytes) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return {"bytes": value.hex()}
