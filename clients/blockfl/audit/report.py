"""The report: what evidence proves, in words for people who know nothing of Fabric, and the same for machines.

`make_report` verifies evidence and returns everything that the page says as plain values; `pages` draws the page. The
same evidence gives the same report, byte for byte: it states no time but those of the ledger.
"""

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from blockfl.audit import accounts, changes, queries, views
from blockfl.audit.book import Book
from blockfl.audit.entry import Row
from blockfl.audit.verification import Progress, VerificationReport, open_evidence, verify_chain, verify_opened
from blockfl.protocol.catalogue import CONSORTIUM, MODELS, ROUND, ROUNDS, TASK
from blockfl.protocol.task import Task

FORMAT: Final = "blockfl-report-1"
_PIECE_BYTES: Final = 1 << 20
_TEDIOUS: Final = ("UploadChunk", "UploadModelChunk")
"""Left out of the timeline: a chunk says nothing that its header does not."""


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
    return {
        "format": FORMAT,
        "evidence": _describe_evidence(book, paths, is_end_known=expected_hash is not None),
        "verification": verification.as_dict(),
        "summary": _summarise(book, verification),
        "trust": _describe_trust(book, is_end_known=expected_hash is not None),
        "tasks": [await _describe_task(book, name, rejections, contracts) for name in book.list_tasks()],
        "rejections": rejections,
        "erasures": queries.list_erasures(book),
        "members": changes.list_members(book),
        "contracts": contracts,
        "timeline": [row for row in queries.list_transactions(book) if row["function"] not in _TEDIOUS],
        "glossary": [{"word": word, "meaning": meaning} for word, meaning in GLOSSARY.items()],
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
    for proof in verification.tasks:
        rejected = sum(len(one.rejected) for one in book.history.read_all(ROUNDS.below(proof.task)))
        versions = _count(proof.versions - 1, "version")
        sentences.append(
            f"Task {proof.task} had {_count(proof.rounds, 'round')}. Of {_count(proof.updates, 'update')} "
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
    recomputed = [one.spec.task for one in tasks if not one.spec.is_committed]
    rows = [
        ("Who sent which update, and that nobody changed it since", "proven", "signatures of the institutions"),
        ("The order of everything, and that nothing was left out in between", "proven", "the chain of blocks"),
        ("Which code and which rules were in force", "proven", "definitions and tasks are on the ledger"),
        ("Every version of the model follows from the sums", "proven", "all were computed again"),
        ("Credits: what each round paid and cost", "proven", "all were computed again"),
        ("That an update kept or broke the rules", "word", f"the committee: {committee} had to agree"),
        ("Accuracy and all other metrics", "word", "each institution for itself, measured on its own data"),
        ("Numbers of samples", "word", "each institution for itself"),
        ("Times", "word", "the organisation that sent the transaction; others' peers allowed it 30 seconds"),
        ("What data an update was trained on", "unknown", "nobody outside the institution saw it"),
        ("That each organisation alone held its keys", "unknown", "a ledger cannot show who held a key"),
    ]
    if len(recomputed) < len(tasks):
        names = join([one.spec.task for one in tasks if one.spec.is_committed])
        rows.append((f"The sums of {names} are those of the accepted updates", "proven", "the updates' commitments"))
    if recomputed:
        rows.append((f"The sums of {join(recomputed)} follow from the updates", "word", f"the committee: {committee}"))
    end = ("proven", "the auditor named its hash") if is_end_known else ("unknown", "no hash of it was named")
    rows.append(("That the chain ends where this report ends", *end))
    return [{"statement": statement, "standing": standing, "by": by} for statement, standing, by in rows]


async def _describe_task(book: Book, name: str, rejections: Sequence[Row], contracts: Sequence[Row]) -> Row:
    task = book.history.get(TASK.key(name))
    models = book.locate(await views.list_models(book, name))
    own = [row for row in rejections if row["task"] == name]
    last = book.history.read_all(MODELS.below(name))[-1].version
    return {
        "task": name,
        "title": task.spec.title,
        "created": book.place(TASK.key(name)),
        "rules": _list_rules(task),
        "answers": [
            *_answer_versions(book, name),
            *_answer_rejections(own),
            *_answer_code(book, name, contracts),
            *_answer_accuracy(models),
        ],
        "rounds": book.locate(await views.list_rounds(book, name)),
        "updates": book.locate(await views.list_updates(book, name, None)),
        "models": models,
        "lineage": queries.list_lineage(book, name, last),
        "credits": book.locate(await accounts.list_outcomes(book, name)),
    }


def _list_rules(task: Task) -> list[str]:
    spec = task.spec
    rules = [
        f"Who may take part: {join(spec.institutions)}.",
        f"How updates become one: {views.describe_strategy(spec)}. At least {spec.minimum_accepted} must be accepted.",
        f"The norm of an update is at most {spec.bound_l2_micro / 10**6:g}.",
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


def _answer_versions(book: Book, name: str) -> list[Row]:
    return [
        _answer(
            f"Which institutions made version {model.version}?",
            f"Version {model.version} was made in round {model.round} from the updates of {join(model.accepted)}. "
            f"{join(model.voters)} voted for it.",
            f"model/{name}/{model.version:06d}",
            book,
        )
        for model in book.history.read_all(MODELS.below(name))
        if model.version
    ]


def _answer_rejections(rejections: Sequence[Row]) -> list[Row]:
    answers = []
    for number, group in groupby(rejections, key=lambda row: row["round"]):
        for row in group:
            question = f"Who was rejected in round {number}, and why?"
            place = {key: row[key] for key in ("key", "block", "transaction", "time", "time_by", "signers")}
            answers.append({"question": question, "answer": _explain_rejection(row)} | place)
    return answers or [{"question": "Who was rejected, and why?", "answer": "Nobody was rejected."}]


def _explain_rejection(row: Row) -> str:
    name, code = str(row["organisation"]), str(row["code"])
    why = str(row["why"]).removeprefix(f"rejected: {code} ")
    text = f"In round {row['round']} {name} was rejected ({code}): {why}."
    if code in _IN_PLAIN_WORDS:
        text += f" In plain words: {_IN_PLAIN_WORDS[code]}."
    text += f" {join(_names(row['signers']))} signed that. Nothing of the update is in any version."
    if row["penalty"]:
        text += f" It cost {name} {row['penalty']} credits."
    if row["overturned_by"]:
        text += f" {join(_names(row['overturned_by']))} overturned that: the credits went back."
    return text


def _answer_code(book: Book, name: str, contracts: Sequence[Row]) -> list[Row]:
    """Say for each stretch of rounds under which definition they were opened."""
    opened = [(one.round, book.list_writes(ROUND.key(name, one.round))[0][1]) for one in _rounds(book, name)]
    in_force = [row for row in contracts if row["state"] == "in force" and row["contract"] == book.chain.namespace]
    answers = []
    for sequence, group in groupby(opened, key=lambda one: _find_sequence(in_force, one[1].block)):
        numbers = [number for number, _ in group]
        row = next((one for one in in_force if one["sequence"] == sequence), None)
        if row is None:
            continue
        which = f"round {numbers[0]}" if len(numbers) == 1 else f"rounds {numbers[0]} to {numbers[-1]}"
        code = f"version {row['version']}, code digest {row['code_digest'] or 'not stated in the version'}"
        approved = join(_names(row["approved_by"]))
        answers.append(
            {
                "question": f"Which rules and which code were in force in {which}?",
                "answer": f"Definition {sequence} of the contract: {code}, approved by {approved}. "
                f"{_describe_packages(contracts, sequence)}"
                f"The rules are those of the task {name}, above; they cannot be changed.",
            }
            | {key: row[key] for key in ("block", "transaction", "time", "time_by", "signers")}
        )
    return answers


def _describe_packages(contracts: Sequence[Row], sequence: object) -> str:
    """Say which package the organisations run a definition with, or who runs which where they differ."""
    packages: dict[str, list[str]] = {}
    for row in contracts:
        if row["state"] == "approved" and row["sequence"] == sequence:
            packages.setdefault(str(row["package"]), []).append(str(row["by"]))
    if len(packages) == 1:
        return f"They run it as the package {next(iter(packages))}. "
    return "".join(f"{join(sorted(names))} run it as the package {package}. " for package, names in packages.items())


def _find_sequence(in_force: Sequence[Row], block: int) -> object:
    return next((row["sequence"] for row in reversed(in_force) if int(str(row["block"])) < block), None)


def _rounds(book: Book, name: str) -> list[Any]:
    return list(book.history.read_all(ROUNDS.below(name)))


def _answer_accuracy(models: Sequence[Row]) -> list[Row]:
    measured = [row for row in models if row["accuracy"] is not None]
    question = "On whose word does the accuracy stand?"
    if not measured:
        return [{"question": question, "answer": "No institution has reported an accuracy."}]
    last = measured[-1]
    reports = last["reports"] if isinstance(last["reports"], dict) else {}
    measured_by = {name: one for name, one in reports.items() if "accuracy" in one}
    parts = [f"{name} {one['accuracy']:.4f} on {one['samples']} samples" for name, one in measured_by.items()]
    answer = (
        f"On the word of the institutions alone: each measured version {last['version']} on its own test data and "
        f"reported {join(parts)}. Weighted by samples that is {last['accuracy']:.4f}. Nobody else can check it."
    )
    return [{"question": question, "answer": answer}]


def _answer(question: str, answer: str, key: str, book: Book) -> Row:
    return {"question": question, "answer": answer, "key": key} | book.place(key)


def _names(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else []


def join(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: "alpha, beta and gamma"."""
    if not names:
        return "nobody"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


_IN_PLAIN_WORDS: Final = {
    "BFL408": "it signed two different updates for one round, so neither counts",
    "BFL409": "it did not hand in the whole update in time",
    "BFL415": "the update holds a number that is larger than any may be",
    "BFL416": "the whole update is larger than the task allows",
    "BFL417": "one number of the update is larger than the task allows",
    "BFL418": "what it said of the update beforehand does not fit the update",
    "BFL419": "a part of the update is larger than the task allows",
    "BFL420": "the update is smaller than the task allows",
    "BFL421": "the update points another way than the last change of the model",
    "BFL424": "with the update the model fits the data of the committee worse than the task tolerates",
}
"""Of the codes whose meaning takes a mathematician."""
GLOSSARY: Final = {
    "Accuracy": "The share of cases that a model gets right. Each institution measures it on its own test data.",
    "Block": "A page of the ledger. It names the hash of the page before it, so no page can be changed unseen.",
    "Committee": "Organisations that open updates to judge them. A threshold of them must agree.",
    "Commitment": "A number that fixes an update without showing it. Sums of updates can be checked with it.",
    "Commitment, recompute": "Who checks a sum: with commitments everybody can, with recompute only the committee.",
    "Contract": "The program that each organisation runs for itself to check a transaction.",
    "Definition": "Which version of the contract is in force. A majority of organisations approves it.",
    "Endorsement": "A signature of an organisation's peer: its own contract came to the same result.",
    "FedAvg": "How updates become one: their mean, each weighted by its number of samples.",
    "Hash, digest": "A short number that stands for a file. Another file has another one.",
    "Institution": "An organisation that trains on its own data and sends updates, for example a hospital.",
    "Ledger": "The shared record. Each organisation's peer holds a copy.",
    "Norm": "How large an update is. A bound on it keeps one institution from outweighing the others. The L2 norm is "
    "the root of the sum of all squares (Σx²). The ledger holds its rough size: 35 bits is less than 2 to the 35th.",
    "Ordering node": "A computer that puts transactions into order. It cannot make one valid.",
    "Package": "The file that an organisation installed the contract from, named by its digest. `blockfl --version` "
    "tells the digest of the contract's source that a release has.",
    "Peer": "An organisation's computer that holds the ledger and endorses transactions.",
    "Round": "Institutions train once, send updates, and the accepted ones make the next version.",
    "Signers": "The organisations that endorsed a transaction.",
    "Stake": "Credits that an institution deposits and loses a share of when it breaks a rule.",
    "Transaction": "One entry in a block, signed by the organisation that sent it.",
    "Version": "The model after a round. Version 0 is the model that the task began with.",
}
