"""The report: what evidence proves, in words for people who know nothing of Fabric, and the same for machines.

`make_report` verifies evidence and returns everything that the page says as plain values; `pages` draws the page. The
same evidence gives the same report, byte for byte: it states no time but those of the ledger.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from blockfl.audit import accounts, answers, changes, queries, views
from blockfl.audit.answers import count, join
from blockfl.audit.book import Book
from blockfl.audit.entry import Row
from blockfl.audit.glossary import GLOSSARY
from blockfl.audit.verification import Progress, VerificationReport, open_evidence, verify_chain, verify_opened
from blockfl.protocol.catalogue import CONSORTIUM, MODELS, ROUNDS, TASK
from blockfl.protocol.task import Task

FORMAT: Final = "blockfl-report-1"
_PIECE_BYTES: Final = 1 << 20
_TEDIOUS: Final = ("UploadChunk", "UploadModelChunk", "UploadSumChunk")
"""Left out of the timeline: a chunk says nothing that its header does not."""
_STANDINGS: Final = ("proven", "word", "unknown")


async def make_report(
    paths: Sequence[Path], genesis_hash: bytes, progress: Progress, *, expected_hash: str | None = None
) -> dict[str, Any]:
    """Verify evidence and return the report on it.

    Args:
        paths: A bundle, and those that it continues.
        genesis_hash: The pinned header hash of block 0.
        progress: Told what is being verified.
        expected_hash: Header hash, as hex, that the last block must have.

    Returns:
        Values that JSON knows, in the layout of ``docs/report.md``.

    Raises:
        VerificationError: Something is not as it must be.
        LedgerError: A file cannot be read.
    """
    with open_evidence(paths) as opened:
        chain = verify_chain(opened, genesis_hash, progress, expected_hash=expected_hash)
        verification = await verify_opened(opened, chain, progress)
    book = Book(chain)
    rejections = queries.list_rejections(book)
    contracts = changes.list_contracts(book)
    transactions = queries.list_transactions(book)
    timeline = [row for row in transactions if row["function"] not in _TEDIOUS]
    return {
        "format": FORMAT,
        "evidence": _describe_evidence(book, paths, is_end_known=expected_hash is not None),
        "verification": verification.as_dict(),
        "summary": _summarise(book, verification),
        "answers": [answers.answer_membership(book), answers.answer_end(book, is_end_known=expected_hash is not None)],
        "trust": _describe_trust(book, is_end_known=expected_hash is not None),
        "tasks": [await _describe_task(book, name, rejections, contracts) for name in book.list_tasks()],
        "rejections": rejections,
        "erasures": queries.list_erasures(book),
        "members": changes.list_members(book),
        "contracts": contracts,
        "timeline": timeline,
        "left_out": len(transactions) - len(timeline),
        "glossary": [{"word": word, "meaning": meaning} for word, meaning in sorted(GLOSSARY.items())],
    }


def _describe_evidence(book: Book, paths: Sequence[Path], *, is_end_known: bool) -> Row:
    chain = book.chain
    return {
        "files": [{"name": path.name, "sha256": _digest(path)} for path in paths],
        "channel": chain.config.channel_id if chain.config else "",
        "contract": chain.namespace,
        "genesis_hash": chain.genesis_hash.hex(),
        "last_block": chain.blocks - 1,
        "last_block_hash": chain.last_hash.hex(),
        "is_end_known": is_end_known,
    }


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _summarise(book: Book, verification: VerificationReport) -> list[str]:
    sentences = [
        f"The evidence holds {verification.blocks} blocks with {verification.transactions} transactions. All of it was "
        f"verified anew from the first block, and nothing was believed that could be computed."
    ]
    if verification.findings:
        sentences.append(
            f"{len(verification.findings)} transactions are recorded otherwise than this program judges them; most "
            "organisations' peers hold the record, so it went by theirs. They are named under the verification steps."
        )
    if void := {code: number for code, number in verification.codes.items() if code != "VALID"}:
        kinds = join([f"{number} {code}" for code, number in sorted(void.items())])
        sentences.append(
            f"{count(sum(void.values()), 'transaction')} had no effect ({kinds}): every organisation's peer refused "
            "them alike, and their senders sent them again where they were still needed."
        )
    for proof in verification.tasks:
        rejected = sum(len(one.rejected) for one in book.history.read_all(ROUNDS.below(proof.task)))
        versions = count(proof.versions - 1, "version")
        sentences.append(
            f"Task {proof.task} had {count(proof.rounds, 'round')}. Of {count(proof.updates, 'update')} "
            f"{proof.accepted} were accepted and {rejected} rejected. They made {versions} "
            "of the model after the initial one; each was computed again and came out the same."
        )
    if verification.silent:
        sentences.append(f"{join(verification.silent)} endorsed none of the latest verdicts.")
    return sentences


def _describe_trust(book: Book, *, is_end_known: bool) -> list[Row]:
    """Say of each kind of statement whether it is proven, and on whose word it stands otherwise."""
    consortium = book.history.find(CONSORTIUM.key())
    committee = f"{consortium.threshold} of {join(consortium.committee)}" if consortium else "the committee"
    tasks = [book.history.get(TASK.key(name)) for name in book.list_tasks()]
    paid = any(one.spec.economics for one in tasks)
    recomputed = [one.spec.task for one in tasks if not one.spec.is_committed]
    rows = [
        ("Whose key signed which update, and that nobody changed it since", "proven", "signatures of the institutions"),
        ("The order of everything, and that nothing was left out in between", "proven", "the chain of blocks"),
        ("Which code and which rules were in force", "proven", "definitions and tasks are on the ledger"),
        ("Every version of the model follows from the sums", "proven", "all were computed again"),
        ("Credits: what each round paid and cost", "proven", "all were computed again" if paid else "no task has any"),
        ("That an update kept or broke the rules", "word", f"the committee: {committee} had to agree"),
        ("Accuracy and all other metrics", "word", "each institution for itself, measured on its own data"),
        ("Numbers of samples", "word", "each institution for itself"),
        (
            "Times",
            "word",
            "the sender of the transaction; the others' computers refuse a time that is 30 seconds off",
        ),
        ("What data an update was trained on", "unknown", "nobody outside the institution saw it"),
        ("That each organisation alone held its keys", "unknown", "a ledger cannot show who held a key"),
    ]
    if len(recomputed) < len(tasks):
        names = join([one.spec.task for one in tasks if one.spec.is_committed])
        rows.append((f"The sums of {names} are those of the accepted updates", "proven", "the updates' commitments"))
    if recomputed:
        rows.append((f"The sums of {join(recomputed)} follow from the updates", "word", f"the committee: {committee}"))
    end = (
        ("proven", "the last block has the hash that the auditor named")
        if is_end_known
        else ("unknown", "no hash of it was named")
    )
    rows.append(("That no end was cut off before the last block of this report", *end))
    rows.sort(key=lambda row: _STANDINGS.index(row[1]))
    return [{"statement": statement, "standing": standing, "by": by} for statement, standing, by in rows]


async def _describe_task(book: Book, name: str, rejections: Sequence[Row], contracts: Sequence[Row]) -> Row:
    task = book.history.get(TASK.key(name))
    models = book.locate(await views.list_models(book, name))
    updates = book.locate(await views.list_updates(book, name, None))
    own = [row for row in rejections if row["task"] == name]
    last = book.history.read_all(MODELS.below(name))[-1].version
    return {
        "task": name,
        "title": task.spec.title,
        "created": book.place(TASK.key(name)),
        "rules": _list_rules(task),
        "answers": answers.answer_all(book, task, updates, models, own, contracts),
        "rounds": book.locate(await views.list_rounds(book, name)),
        "updates": updates,
        "models": models,
        "lineage": queries.list_lineage(book, name, last),
        "credits": book.locate(await accounts.list_outcomes(book, name)),
    }


def _list_rules(task: Task) -> list[str]:
    spec = task.spec
    rules = [
        f"Who may take part: {join(spec.institutions)}.",
        f"How updates become one (see the glossary): {views.describe_strategy(spec)}. A round needs at least "
        f"{spec.minimum_accepted} accepted updates.",
        f"The L2 norm of an update, which is its size, is at most {spec.bound_l2_micro / 10**6:g}.",
        f"Time to submit {spec.deadlines.submit_s} s, to judge {spec.deadlines.judge_s} s, to publish "
        f"{spec.deadlines.publish_s} s.",
    ]
    if spec.norms:
        rules.append(f"Further rules about norms: {views.describe_norms(spec.norms)}.")
    if spec.economics:
        rules.append(
            f"A round pays at most {spec.economics.pool} credits; who breaks a rule pays a share of its stake."
        )
    return rules
