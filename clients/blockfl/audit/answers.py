"""Questions that people ask of an audit's report, each answered in sentences with the place on the ledger."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from blockfl.audit.book import Book
from blockfl.audit.entry import Row
from blockfl.protocol.catalogue import CONSORTIUM, ENROLMENTS, MODELS, ROUND, ROUNDS, TASK
from blockfl.protocol.task import Task

Rows = Sequence[Row]


def answer_all(book: Book, task: Task, updates: Rows, models: Rows, rejections: Rows, contracts: Rows) -> list[Row]:
    """Return the questions about a task with their answers.

    Args:
        book: The evidence.
        task: The task.
        updates: Its updates, as ``views.list_updates`` has them.
        models: Its versions, as ``views.list_models`` has them.
        rejections: Its rejected updates, as ``queries.list_rejections`` has them.
        contracts: Definitions and approvals, as ``changes.list_contracts`` has them.
    """
    return [
        _answer_rules(book, task),
        *_answer_code(book, task.spec.task, contracts),
        *_answer_versions(book, task.spec.task),
        *_answer_rejections(book, task, updates, rejections),
        *_answer_accuracy(models),
    ]


def answer_end(book: Book, *, is_end_known: bool) -> Row:
    """Say whether the evidence holds the whole ledger."""
    last = book.chain.blocks - 1
    answer = f"Nothing is missing between the first block and block {last}: each names the hash of the one before. "
    if is_end_known:
        answer += (
            f"The auditor brought the hash that block {last} must have, and it has it: no end was cut off before it. "
            "What was written later is not in this report."
        )
    else:
        answer += "Whether more blocks follow is not known: the auditor brought no hash of the last one."
    return {"question": "Is this the whole ledger, or was its end cut off?", "answer": answer}


def answer_membership(book: Book) -> Row:
    """Say who takes part, and whether that changed."""
    question = "Who takes part, in which role, and did that change?"
    record = book.history.find(CONSORTIUM.key())
    if record is None:
        return {"question": question, "answer": "Nobody registered who takes part."}
    roles = {role: [one.organisation for one in record.members if role in one.roles] for role in _ROLES}
    parts = [f"{join(names)} {'is' if len(names) == 1 else 'are'} {_ROLES[role]}" for role, names in roles.items()]
    changed = (
        "That was so from the beginning."
        if record.sequence == 1
        else f"This is the record number {record.sequence}; its changes stand under the members."
    )
    if (configurations := len(book.chain.configurations)) > 1:
        changed += f" The channel's configuration changed {count(configurations - 1, 'time')}."
    answer = f"{'; '.join(parts)}. {record.threshold} of the committee must agree on a verdict. {changed}"
    return _answer(question, f"{answer[0].upper()}{answer[1:]}", CONSORTIUM.key(), book)


def _answer_rules(book: Book, task: Task) -> Row:
    name = task.spec.task
    enrolled = book.history.read_all(ENROLMENTS.below(name))
    parts = [f"{one.organisation} ({one.samples} training samples, by its own word)" for one in enrolled]
    return _answer(
        f"Who agreed to the rules of {name}?",
        f"{task.created_by} made them when it created the task, and the contract has no way to change them. An "
        f"institution agrees by enrolling, with its own signature: {join(parts)} did.",
        TASK.key(name),
        book,
    )


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


def _answer_rejections(book: Book, task: Task, updates: Rows, rejections: Rows) -> list[Row]:
    answers = []
    sizes = {(row["round"], row["organisation"]): str(row["norm"]) for row in updates}
    for number, group in groupby(rejections, key=lambda row: row["round"]):
        for row in group:
            question = f"Who was rejected in round {number}, and why?"
            place = {key: row[key] for key in ("key", "block", "transaction", "time", "time_by", "signers")}
            size = sizes.get((number, row["organisation"]), "")
            answers.append({"question": question, "answer": _explain_rejection(book, task, row, size)} | place)
    return answers or [{"question": "Who was rejected, and why?", "answer": "Nobody was rejected."}]


def _explain_rejection(book: Book, task: Task, row: Row, size: str) -> str:
    name, code = str(row["organisation"]), str(row["code"])
    why = str(row["why"]).removeprefix(f"rejected: {code} ")
    plain = _IN_PLAIN_WORDS.get(code, "")
    text = f"In round {row['round']} {name} was rejected"
    text += f": {plain}. " if plain else ". "
    if code == "BFL416" and size:
        text += f"Its norm was {size}, where {task.spec.bound_l2_micro / 10**6:g} is allowed. "
    text += f"The ledger says {code}: {why}. Nothing of the update is in any version."
    record = book.history.find(CONSORTIUM.key())
    if record is not None:
        text += f" That it broke the rule is the committee's word: {record.threshold} of its members had to agree."
    if row["penalty"]:
        text += f" It cost {name} {row['penalty']} credits."
    else:
        text += f" It cost {name} nothing" + ("." if task.spec.economics else ": this task has no credits.")
    if row["overturned_by"]:
        return f"{text} {join(_names(row['overturned_by']))} overturned that: the credits went back."
    return f"{text} Nobody overturned that."


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


def count(number: int, word: str) -> str:
    """Return a number with its word: "1 block", "2 blocks"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


_ROLES: Final = {
    "institution": "institutions, which train",
    "committee": "the committee, which opens updates to judge them",
    "coordinator": "coordinator, which creates tasks",
}
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
