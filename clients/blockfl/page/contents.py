"""What each page shows: the template, and the rows and records of the verified ledger that it prints.

Rows come from the same questions that `blockfl audit` answers (`views`, `queries`, `changes`, `accounts`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from blockfl.audit import accounts, changes, queries, views
from blockfl.audit.book import Book
from blockfl.audit.entry import Entry
from blockfl.ledger.errors import LedgerError
from blockfl.page.explorer import compare_values, view_transaction
from blockfl.page.lineage import PART_WORDS, draw_lineage
from blockfl.page.steps import STATE_WORDS, list_steps
from blockfl.page.watch import Watch
from blockfl.page.words import QUIET, describe_key, describe_sentence
from blockfl.protocol.catalogue import ACCOUNTS, CONSORTIUM, PROGRESS, ROUND, ROUNDS, STANDINGS, SUPPLY, TASK
from blockfl.protocol.economics import TREASURY
from blockfl.protocol.round import describe_ending

Arguments = Mapping[str, Any]
_NEWS: Final = 20
_PAGE_ROWS: Final = 50


@dataclass(frozen=True)
class Content:
    """A template, and what it prints."""

    template: str
    context: Mapping[str, Any]


async def show_overview(watch: Watch, _given: Arguments) -> Content:
    """The chain's state, the tasks, and what happened last."""
    book = watch.book
    latest = list(islice((one for one in reversed(book.entries) if one.function not in QUIET), _NEWS))
    tasks = await views.list_tasks(book)
    context = {
        "title": "Overview",
        "tasks": tasks,
        "news": [_tell(one) for one in latest],
        "codes": sorted(book.chain.codes.items()),
        "findings": [str(one) for one in book.chain.findings],
        "genesis": watch.chain.genesis_hash.hex(),
        "last": watch.heads[-1].digest if watch.heads else "",
        "transactions": len(book.entries),
    }
    return Content("overview.html", context)


async def show_task(watch: Watch, given: Arguments) -> Content:
    """A task: its rules, where its round stands, its lineage, rounds and versions."""
    book, task = watch.book, str(given["task"])
    book.check_task(task)
    spec = book.history.get(TASK.key(task)).spec
    rounds = book.history.read_all(ROUNDS.below(task))
    last = rounds[-1].round if rounds else 0
    rules = {
        "rounds": spec.rounds,
        "institutions": ", ".join(spec.institutions),
        "aggregator": spec.aggregator,
        "rule": views.describe_strategy(spec),
        "further norm rules": views.describe_norms(spec.norms) or "none",
        "least accepted updates": spec.minimum_accepted,
        "bound of a norm": f"{spec.bound_l2_micro / 10**6:g}",
        "time to submit, judge, publish": f"{spec.deadlines.submit_s}, {spec.deadlines.judge_s}, "
        f"{spec.deadlines.publish_s} seconds",
        "values of the model": spec.manifest.dimension,
        "moves credits": "yes" if spec.economics else "no",
    }
    if spec.table:
        rules["columns"] = ", ".join(column.name for column in spec.table.columns)
        rules["label"] = " ".join([spec.table.label.name, *(f"({one})" for one in spec.table.classes)])
    ending = describe_ending(book.history.get(PROGRESS.key(task)))
    if ending:
        rules["ended"] = ending
    context = {
        "title": f"Task {task}",
        "task": task,
        "said": spec.title,
        "rules": rules,
        "place": book.place(TASK.key(task)),
        "last": last,
        "steps": list_steps(book, task, last) if last else [],
        "words": STATE_WORDS,
        "picture": draw_lineage(book, task),
        "parts": PART_WORDS,
        "rounds": list(reversed(book.locate(await views.list_rounds(book, task)))),
        "versions": list(reversed(book.locate(await views.list_models(book, task)))),
    }
    return Content("task.html", context)


async def show_round(watch: Watch, given: Arguments) -> Content:
    """A round: its steps, verdicts with their reasons, and what it cost whom."""
    book, task, number = watch.book, str(given["task"]), int(given["number"])
    book.check_round(task, number)
    (row,) = [one for one in await views.list_rounds(book, task) if one["round"] == number]
    outcomes = [one for one in await accounts.list_outcomes(book, task) if one["round"] == number]
    context = {
        "title": f"Round {number} of {task}",
        "task": task,
        "number": number,
        "row": row,
        "place": book.place(ROUND.key(task, number)),
        "steps": list_steps(book, task, number),
        "words": STATE_WORDS,
        "updates": book.locate(await views.list_updates(book, task, number)),
        "outcomes": book.locate(outcomes),
        "definition": changes.find_definition(book, int(str(_first_place(book, task, number)["block"]))),
        "rounds": len(book.history.read_all(ROUNDS.below(task))),
    }
    return Content("round.html", context)


async def show_version(watch: Watch, given: Arguments) -> Content:
    """A version of a model: whose updates are in it, who vouches for it, what the institutions said of it."""
    book, task, number = watch.book, str(given["task"]), int(given["number"])
    lineage = queries.list_lineage(book, task, number)
    (row,) = [one for one in await views.list_models(book, task) if one["version"] == number]
    context = {
        "title": f"Version {number} of {task}",
        "task": task,
        "number": number,
        "row": row,
        "metrics": views.describe_metrics(row["metrics"]),
        "lineage": list(reversed(lineage)),
        "place": lineage[-1],
    }
    return Content("version.html", context)


async def show_credits(watch: Watch, _given: Arguments) -> Content:
    """Who holds what, in accounts and stakes; grants, transfers and what rounds paid and cost."""
    book = watch.book
    held = book.history.read_all(ACCOUNTS.below())
    supply = book.history.find(SUPPLY.key())
    standings = [one for task in book.list_tasks() for one in book.history.read_all(STANDINGS.below(task))]
    outcomes = [
        {"task": task} | row
        for task in book.list_tasks()
        for row in book.locate(await accounts.list_outcomes(book, task))
    ]
    context = {
        "title": "Credits",
        "granted": supply.granted if supply else 0,
        "treasury": next((one.credits for one in held if one.organisation == TREASURY), 0),
        "accounts": [one for one in held if one.organisation != TREASURY],
        "standings": standings,
        "outcomes": list(reversed(outcomes)),
        "receipts": book.locate(await accounts.list_receipts(book)),
    }
    return Content("credits.html", context)


async def show_rejections(watch: Watch, _given: Arguments) -> Content:
    """Every rejected update and equivocation with its reason, what it cost, and whether that was overturned."""
    rows = queries.list_rejections(watch.book)
    invalid = watch.book.entries.list_without_effect()
    context = {
        "title": "Rejections and penalties",
        "rows": list(reversed(rows)),
        "invalid": [_tell(one) for one in reversed(invalid[-_PAGE_ROWS:])],
        "invalid_count": len(invalid),
    }
    return Content("rejections.html", context)


async def show_members(watch: Watch, _given: Arguments) -> Content:
    """Who is a member and as what, how that changed, and when certificates end."""
    book = watch.book
    consortium = book.history.find(CONSORTIUM.key())
    rows = changes.list_members(book) if watch.heads else []
    context = {
        "title": "Members",
        "consortium": consortium,
        "changes": [one for one in rows if one["what"] != "certificate"],
        "certificates": [one for one in rows if one["what"] == "certificate"],
        "organisations": book.list_organisations() if watch.heads else [],
    }
    return Content("members.html", context)


async def show_organisation(watch: Watch, given: Arguments) -> Content:
    """All that one organisation did, and that others did about it."""
    name = str(given["name"])
    rows = queries.list_institution(watch.book, name)
    balance = await accounts.read_balance(watch.book, name)
    context = {"title": f"Organisation {name}", "name": name, "rows": list(reversed(rows)), "balance": balance}
    return Content("organisation.html", context)


async def show_contracts(watch: Watch, _given: Arguments) -> Content:
    """Every definition of a contract: which code, who approved it, since when it is in force."""
    return Content("contracts.html", {"title": "Contract", "rows": list(reversed(changes.list_contracts(watch.book)))})


async def show_blocks(watch: Watch, given: Arguments) -> Content:
    """The blocks, the last first, a page at a time."""
    end = _read_number(given.get("before"), watch.height)
    start = max(0, end - _PAGE_ROWS)
    rows = [
        {"head": head, "acts": [_tell(one) for one in _entries_of(watch, head.number)]}
        for head in reversed(watch.heads[start:end])
    ]
    newer = min(watch.height, end + _PAGE_ROWS) if end < watch.height else None
    context = {"title": "Blocks", "rows": rows, "older": start or None, "newer": newer}
    return Content("blocks.html", context)


async def show_block(watch: Watch, given: Arguments) -> Content:
    """One block: its hashes and its transactions."""
    number = int(given["number"])
    if number >= watch.height:
        raise LedgerError(f"there is no block {number}: verified are the blocks up to {watch.height - 1}")
    context = {
        "title": f"Block {number}",
        "head": watch.heads[number],
        "last": watch.height - 1,
        "rows": [_tell(one) for one in _entries_of(watch, number)],
    }
    return Content("block.html", context)


async def show_transaction(watch: Watch, given: Arguments) -> Content:
    """One transaction, down to what it read and wrote. ``BLOCK-INDEX`` names one that states no id of its own."""
    entry = _find_entry(watch.book, str(given["tx_id"]))
    if entry is None:
        raise LedgerError(f"there is no transaction {given['tx_id']!r:.100}, as far as verified")
    block = await watch.source.block(entry.block)
    view = view_transaction(watch.book, block, entry)
    return Content(
        "transaction.html", {"title": f"Transaction {_name(entry)[:16]}", "view": view, "name": _name(entry)}
    )


async def show_record(watch: Watch, given: Arguments) -> Content:
    """How a record came about: each write of it, what changed, and by whom."""
    key = str(given["key"])
    writes, before, rows = watch.book.list_writes(key), b"", []
    for write, entry in writes:
        rows.append(_tell(entry) | {"fields": list(compare_values(before, write.value))})
        before = write.value
    context = {"title": f"Record {key}", "key": key, "words": describe_key(key), "rows": list(reversed(rows))}
    return Content("record.html", context)


def find(watch: Watch, wanted: str) -> str | None:
    """Return the path, below the base, of what a reader looks for; None when nothing is called so."""
    book = watch.book
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 20 and int(wanted) < watch.height:
        return f"/blocks/{int(wanted)}"
    if _find_entry(book, wanted) is not None:
        return f"/transactions/{wanted}"
    if wanted in book.list_tasks():
        return f"/tasks/{wanted}"
    if watch.heads and wanted in book.list_organisations():
        return f"/organisations/{wanted}"
    number = next((one.number for one in watch.heads if one.digest == wanted.lower()), None)
    if number is not None:
        return f"/blocks/{number}"
    return f"/records/{wanted}" if wanted and book.history.count_writes(wanted) else None


def _tell(entry: Entry) -> dict[str, Any]:
    """Return a transaction's row."""
    return queries.describe_entry(entry) | {"sentence": describe_sentence(entry), "name": _name(entry)}


def _name(entry: Entry) -> str:
    """Return what names a transaction in an address: its id, or its place if it states none that is one."""
    return entry.tx_id if re.fullmatch(r"[0-9a-f]{64}", entry.tx_id) else f"{entry.block}-{entry.index}"


def _find_entry(book: Book, name: str) -> Entry | None:
    """Return the transaction of a name; of several with one id the valid one, else the first."""
    if re.fullmatch(r"\d{1,18}-\d{1,18}", name):
        found = [
            one for one in [book.entries.find(*map(int, name.split("-")))] if one is not None and _name(one) == name
        ]
    else:
        found = [one for one in book.entries.list_of_id(name) if _name(one) == name]
    return next((one for one in found if one.is_valid), found[0] if found else None)


def _entries_of(watch: Watch, number: int) -> list[Entry]:
    """Return the transactions of a block."""
    return [watch.book.entry((number, index)) for index in range(watch.heads[number].transactions)]


def _first_place(book: Book, task: str, number: int) -> Mapping[str, object]:
    return {"block": book.list_writes(ROUND.key(task, number))[0][1].block}


def _read_number(text: object, most: int) -> int:
    """Return a number that an address gives, at most this many; the most when it gives none."""
    given = str(text or "")
    return min(int(given), most) if given.isascii() and given.isdigit() and len(given) < 20 else most
