"""The documentation is true where a program can tell: codes, transactions, records, commands, links."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel
from typer.main import get_command

from blockfl.cli.main import app
from blockfl.contract.authority import compute_creator_digest
from blockfl.protocol import catalogue
from blockfl.protocol.assessment import Assessment, Effect
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import Code
from blockfl.protocol.combination import RULES
from blockfl.protocol.economics import DEFAULT_ECONOMICS
from blockfl.protocol.limits import CHANGE_INTERVAL_MS
from blockfl.protocol.optimiser import OPTIMISERS
from blockfl.protocol.rules import JUDGING
from blockfl.protocol.seal import encode_public_key
from blockfl.protocol.task import TaskSpec
from support.assessed_task import AssessedTask, make_assessed_spec
from support.contract import make_registered_world
from support.credit_examples import make_credit_examples
from support.documentation import (
    PROTOCOL,
    ROOT,
    TABLES,
    list_anchors,
    list_commands,
    list_links,
    list_pages,
    list_quoted,
    mark,
    read_table,
    render_codes,
    with_tables,
)
from support.federation import make_consortium
from support.paid_task import PaidTask, make_paid_spec
from support.refusals import list_refusals
from support.scenario import Scenario
from support.strict_task import StrictTask, make_strict_spec
from support.world import Refused, Transaction, World

PAGES = list_pages()
README = ROOT / "README.md"
TRANSACTIONS = read_table(PROTOCOL.read_text(), "Transactions")
RECORDS = read_table(PROTOCOL.read_text(), "Records")
READS = [
    *((reads, refusals) for reads, _, refusals in read_table(PROTOCOL.read_text(), "Reads")),
    *((reads, refusals) for _, _, _, reads, refusals in RECORDS if reads),
]
"""Which reads may refuse with which codes."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# The tables of rules and codes


def test_the_tables_are_current() -> None:
    text = PROTOCOL.read_text()
    assert with_tables(text) == text, "write them anew: make docs"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_not_current_is_written_anew(name: str) -> None:
    text = PROTOCOL.read_text()
    begin, end = mark(name)
    assert text.count("\n", text.index(begin), text.index(end)) > 10
    stale = text[: text.index(begin) + len(begin)] + "\n| BFL999 |\n" + text[text.index(end) :]
    assert with_tables(stale) == text


def test_the_rendered_table_has_a_row_for_every_code() -> None:
    rows = render_codes().splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [code.identifier for code in Code]
    assert all(code.meaning in row and f"`{code.name}`" in row for code, row in zip(Code, rows, strict=True))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_page_without_both_markers_of_a_table_is_refused(name: str, which: int) -> None:
    text, marker = PROTOCOL.read_text(), mark(name)[which]
    for wrong in (text.replace(marker, ""), f"{text}\n{marker}\n"):
        with pytest.raises(ValueError, match=rf"{name}.*once each"):
            with_tables(wrong)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_page_names_a_code_that_there_is_not(path: Path) -> None:
    known = {code.identifier for code in Code}
    assert set(re.findall(r"BFL\d{3}", path.read_text())) <= known


# Transactions, reads and records


@dataclass
class Observed:
    """What the transactions of one kind did in a whole task."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)


class Watched(World):
    """A world that notes what each transaction reads and writes, and whose endorsement it needs."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: dict[str, Observed] = defaultdict(Observed)

    async def endorse(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Transaction:
        transaction = await super().endorse(creator, function, *arguments, transient=transient, endorsers=endorsers)
        simulation = transaction.simulation
        if simulation.writes:
            seen = self.observed[function]
            touched = {
                *simulation.reads,
                *simulation.private_reads,
                *(("", start) for start, _, _ in simulation.ranges),
            } - {("", catalogue.WITHDRAWAL.key(creator, compute_creator_digest(self.signers[creator].identity)))}
            seen.reads |= {kind_of(*place) for place in touched}
            seen.writes |= {kind_of(*place) for place in simulation.writes}
            seen.needs |= {self.need(*place) for place in simulation.writes}
            seen.events.add(transaction.event)
        return transaction

    def need(self, collection: str, key: str) -> str:
        if collection:
            return {"models": "members", "sealed": "committee"}[collection]
        return "committee" if self.policy(key) else "majority"


def kind_of(collection: str, key: str) -> str:
    return collection or key.partition("/")[0]


@pytest.fixture(scope="module")
def observed() -> Mapping[str, Observed]:
    """What every transaction did in a whole task."""
    return asyncio.run(play())


async def play() -> Mapping[str, Observed]:
    """A task with an honest round, a failed and a given up one, an equivocation, a second enrolment and consortium."""
    world = Watched()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    await scenario.contribute()
    second, _ = await scenario.seal("delta", salt=1)
    await world.submit("delta", "SubmitUpdate", scenario.sign(second).encode())
    await scenario.close()
    await scenario.attest()
    model = await scenario.publish(1, scenario.initial_model)
    await world.submit("alpha", "ReportMetrics", scenario.metrics("alpha", 1, model).encode())
    world.now_ms += CHANGE_INTERVAL_MS
    await world.submit("alpha", "Enrol", scenario.task, "150")
    await scenario.open(2)
    world.now_ms += 3_600_000
    assert (await scenario.close(2)).state == "failed"
    await scenario.open(3)
    await scenario.contribute(number=3)
    world.now_ms = (await scenario.close(3)).publish_deadline_ms + 1
    await world.submit("regulator", "AbandonRound", scenario.task, "3")
    await world.submit("university", "ClaimWrap", scenario.task, "1", "alpha")
    shown = {"ephemeral_key": scenario.ephemeral_key("alpha", "university")}
    await world.submit("regulator", "SettleWrap", scenario.task, "1", "alpha", "university", transient=shown)
    await world.submit("alpha", "RequestErasure", scenario.task)
    await world.submit("coordinator", "EndTask", scenario.task, "wrong columns")
    erased = (scenario.task, "1", "alpha")
    await world.submit("university", "EraseUpdate", *erased, endorsers=world.consortium.committee)
    await world.submit("alpha", "WithdrawCertificate", "ab" * 32)
    successor = world.consortium.model_copy(update={"sequence": 2})
    for organisation in world.signers:
        world.configure(organisation, successor)
    await world.submit("coordinator", "RegisterConsortium", successor.encode())
    await play_strictly(world)
    await play_for_credits(world)
    await play_on_rows(world)
    return world.observed


async def play_strictly(world: Watched) -> None:
    """A third task, with every norm rule and a stable set: the second round is compared with the first."""
    spec, initial_model = make_strict_spec("kidneys")
    stable = TaskSpec.model_validate({**dict(spec), "stable_set": True}), initial_model
    task = StrictTask(world, world.consortium, world.signers, world.opening_keys, stable)
    await task.create()
    await task.enrol()
    _, model = await task.play(1, task.initial_model, {})
    await task.play(2, model, {})


async def play_on_rows(world: Watched) -> None:
    """A fourth task, whose committee measures what updates do to its loss."""
    spec = make_assessed_spec(task="livers")
    task = AssessedTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.create()
    await task.enrol()
    await task.open()
    await task.contribute()
    for name in spec[0].institutions:
        await task.assess(name, 0, 0, 0)
    await task.close()


async def play_for_credits(world: Watched) -> None:
    """A second task, which moves credits: a round that follows another, settled, and a stake taken back."""
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, make_paid_spec(task="lungs"))
    task.world, task.file = world, task.initial_model
    await task.create()
    await task.fund()
    await task.enrol()
    world.now_ms += CHANGE_INTERVAL_MS
    await world.submit("alpha", "Enrol", "lungs", "150")
    for number in (1, 2):
        await task.play(number)
        report = task.metrics("alpha", number, task.file)
        await world.submit("alpha", "ReportMetrics", report.encode())
        await task.settle(number)
    await task.play(3, "alpha", "beta", "delta")
    await task.settle(3)
    for voter in ("alpha", "beta", "coordinator", "delta"):
        await world.submit(voter, "OverturnPenalty", "lungs", "3", "gamma")
    world.now_ms += CHANGE_INTERVAL_MS
    await world.submit("alpha", "Enrol", "lungs", "160")
    await world.submit("alpha", "Transfer", "rent", "beta", "1")
    await world.submit("alpha", "Withdraw", "lungs")


def test_the_scenario_calls_every_transaction(observed: Mapping[str, Observed]) -> None:
    assert set(observed) == {called(row[0])[0] for row in TRANSACTIONS}


@pytest.mark.parametrize("row", TRANSACTIONS, ids=lambda row: row[0])
def test_a_transaction_reads_writes_and_announces_what_its_row_says(
    observed: Mapping[str, Observed], row: list[str]
) -> None:
    transaction, _, endorsed, reads, writes, events, _ = row
    seen = observed[called(transaction)[0]]
    assert set(list_quoted(reads)) == seen.reads
    assert set(list_quoted(writes)) == seen.writes
    assert set(list_quoted(events)) == seen.events
    assert {endorsed.partition(",")[0]} == seen.needs


def called(cell: str) -> tuple[str, int]:
    """The function that a cell names, and its number of arguments."""
    found = re.fullmatch(r"(\w+)\((.*)\)", list_quoted(cell)[0])
    assert found is not None, cell
    return found[1], len(found[2].split(",")) if found[2] else 0


async def test_the_contract_has_the_documented_transactions_and_reads_and_no_others() -> None:
    table = (await make_registered_world()).contracts["coordinator"].table
    documented = {called(row[0])[0]: called(row[0])[1] for row in TRANSACTIONS}
    for row in READS:
        documented |= dict(called(f"`{one}`") for one in list_quoted(row[0]))
    assert documented == {function: len(entry.arguments) for function, entry in table.items()}
    transient = {called(row[0])[0]: tuple(list_quoted(row[0])[1:]) for row in TRANSACTIONS}
    assert transient == {function: table[function].transient for function in transient}


def test_every_kind_of_record_is_described_with_the_policy_that_it_has(observed: Mapping[str, Observed]) -> None:
    described = {list_quoted(key)[0].partition("/")[0]: needs for key, _, needs, *_ in RECORDS}
    written: set[str] = set().union(*(seen.writes for seen in observed.values()))
    assert set(described) == written - {"sealed", "models"}
    for kind in ("update", "commitment", "aggregate", "score"):
        assert described.pop(kind) == "committee"
    assert set(described.values()) == {"majority"}


def page() -> str:
    return PROTOCOL.read_text()


# Refusals

OF_EVERY_CALL = {"BFL208", "BFL301", "BFL302", "BFL303"}
"""And BFL112 of every transaction but two; the page says so."""
NEVER: Sequence[tuple[set[str], set[str], str]] = (
    (
        {"RegisterConsortium", "UploadModelChunk", "Enrol", "Withdraw"},
        {"BFL103"},
        "the round that a task's progress names is there",
    ),
    ({"OpenRound", "PublishModel", "SettleRound"}, {"BFL117"}, "the versions up to the last one are there"),
    (
        {"AttestAggregate", "PublishModel", "UploadModelChunk"},
        {"BFL117"},
        "a closed round has an aggregate, and its updates commitments",
    ),
    ({"ScoreRound"}, {"BFL117"}, "a closed round of a task with economics has a score"),
    ({"SubmitUpdate", "AttestAggregate", "PublishModel", "ScoreRound"}, {"BFL114"}, "what was submitted has a header"),
    ({"CloseRound", "AttestAggregate", "PublishModel"}, {"BFL101"}, "the task of a round is there"),
    ({"SubmitUpdate"}, {"BFL402"}, "the round is the one that the header names"),
    ({"JudgeUpdate"}, {"BFL414"}, "what was opened has the type that commitments are made of"),
    ({"JudgeUpdate"}, {"BFL204"}, "whoever submitted takes part in the round"),
    ({"SettleWrap"}, {"BFL119"}, "whoever has claimed is a recipient"),
    ({"CloseRound"}, {"BFL104", "BFL107"}, "a round that is not open is a success; it was closed just now"),
    ({"AbandonRound"}, {"BFL506"}, "a round that was abandoned is a success"),
    ({"SettleRound"}, {"BFL204"}, "whoever takes part has a stake"),
    ({"JudgeUpdate", "ScoreRound"}, {"BFL501"}, "the sums of published models were attested with their lengths"),
)
"""What `list_refusals` finds and cannot come about: transactions, codes, why."""


def list_codes(cell: str) -> set[str]:
    """The codes that a cell names, ranges included."""
    found = set(re.findall(r"BFL\d{3}", cell))
    for first, last in re.findall(r"(BFL\d{3}) to (BFL\d{3})", cell):
        found |= {code.identifier for code in Code if first <= code.identifier <= last}
    return found


def find_refusals(functions: Iterable[str]) -> set[str]:
    """The codes that these transactions or reads may refuse with, beside those of every call."""
    table = World().contracts["coordinator"].table
    found = {code.identifier for function in functions for code in list_refusals(table[function].run)}
    return found - OF_EVERY_CALL


@pytest.mark.parametrize("row", TRANSACTIONS, ids=lambda row: row[0])
def test_a_transaction_refuses_with_what_its_row_says(row: list[str]) -> None:
    function, _ = called(row[0])
    never: set[str] = set().union(*(codes for names, codes, _ in NEVER if function in names))
    found = find_refusals([function])
    assert never <= found, "no longer to be excepted"
    assert not never & list_codes(row[-1])
    assert found - never - {"BFL112"} == list_codes(row[-1])
    assert ("BFL112" in found) == (function not in ("RegisterConsortium", "UploadChunk"))


@pytest.mark.parametrize("row", READS, ids=lambda row: row[0])
def test_reads_refuse_with_what_their_row_says(row: tuple[str, str]) -> None:
    assert find_refusals(called(f"`{one}`")[0] for one in list_quoted(row[0])) == list_codes(row[-1])


# Callers

NOT_YOU = {"BFL201", "BFL202", "BFL203", "BFL206", "BFL207", "BFL613"}
"""What is refused because of who calls."""
CALLS: Mapping[str, tuple[str, ...]] = {
    "RegisterCommitteeKey": (encode_public_key(X25519PrivateKey.from_private_bytes(b"9" * 32)),),
    "WithdrawCertificate": ("ab" * 32,),
    "EndTask": ("lungs", "wrong columns"),
    "Enrol": ("lungs", "150"),
    "OpenRound": ("lungs", "2"),
    "UploadChunk": ("lungs", "1", "0"),
    "JudgeUpdate": ("lungs", "1", "alpha"),
    "ClaimWrap": ("lungs", "1", "alpha"),
    "SettleWrap": ("lungs", "1", "alpha", "regulator"),
    "RequestErasure": ("lungs",),
    "EraseUpdate": ("lungs", "1", "alpha"),
    "CloseRound": ("lungs", "1"),
    "PublishModel": ("lungs", "1", "0" * 64),
    "AbandonRound": ("lungs", "1"),
    "Grant": ("gift", "alpha", "1"),
    "Transfer": ("rent", "beta", "1"),
    "Withdraw": ("lungs",),
    "ScoreRound": ("lungs", "1"),
    "OverturnPenalty": ("lungs", "1", "alpha"),
    "SettleRound": ("lungs", "1"),
}
"""Arguments for a round of which alpha is a part; the others follow from records."""


@pytest.fixture(scope="module")
def answers() -> Mapping[str, Mapping[str, str]]:
    """By transaction and caller: the code with which the caller is refused because of who it is, or ""."""
    return asyncio.run(ask_as_everybody())


def make_assessment(organisation: str) -> bytes:
    """What regulator says of an update of the task lungs."""
    return Assessment(
        task="lungs",
        round=1,
        organisation=organisation,
        member="regulator",
        base_loss_micro=1,
        loss_micro=1,
        assessed_at_ms=0,
    ).encode()


async def ask_as_everybody() -> Mapping[str, Mapping[str, str]]:
    """A round that waits for its model: gamma is not of its task, and university not of its committee."""
    world = World()
    spec, model = make_paid_spec(task="lungs")
    effect = Effect(assessors=("regulator",), tolerance_micro=0)
    spec = spec.model_copy(update={"institutions": ("alpha", "beta", "delta"), "effect": effect})
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, (spec, model))
    task.world, task.file = world, model
    await world.submit("coordinator", "RegisterConsortium", world.consortium.encode())
    for name in ("coordinator", "regulator"):
        await world.submit(name, "RegisterCommitteeKey", encode_public_key(world.opening_keys[name]))
    task.consortium = world.consortium
    await task.create()
    await task.fund()
    await task.enrol()
    await task.open(1)
    for name in spec.institutions:
        await task.submit(name)
        await world.submit(name, "UploadChunk", "lungs", "1", "0", transient={"chunk": task.sealed[1, name][1][0]})
        await world.submit("regulator", "JudgeUpdate", "lungs", "1", name, endorsers=["coordinator", "regulator"])
        await world.submit("regulator", "AssessUpdate", make_assessment(name))
    await task.close(1)
    sealers = ["coordinator", "regulator"]
    total = await task.total(1)
    blob, _ = split_blob(total)
    for digest in blob.chunks:
        place, shown = ("lungs", "1", digest), {"chunk": total}
        await world.submit("coordinator", "UploadSumChunk", *place, transient=shown, endorsers=sealers)
    await world.submit("coordinator", "AttestAggregate", "lungs", "1", blob.encode(), endorsers=sealers)
    settlement = make_credit_examples()["settlement"].model_copy(update={"task": "lungs"})
    assert [one.organisation for one in settlement.outcomes if one.penalty] == ["alpha"]  # type: ignore[attr-defined]
    world.force("", catalogue.SETTLEMENT.key("lungs", 1), settlement.encode())
    world.now_ms = settlement.settled_at_ms  # type: ignore[attr-defined]
    world.add_organisation("omega", 50)
    calls: dict[str, tuple[str | bytes, ...]] = {
        **CALLS,
        "RegisterConsortium": (world.consortium.model_copy(update={"sequence": 2}).encode(),),
        "CreateTask": (make_paid_spec(task="kidneys")[0].encode(),),
        "UploadModelChunk": ("lungs", spec.initial_model.chunks[0]),
        "UploadModelChunk of a sum": ("lungs", "0" * 64),
        "SubmitUpdate": (task.sealed[1, "alpha"][0].encode(),),
        "UploadSumChunk": ("lungs", "1", "0" * 64),
        "AttestAggregate": ("lungs", "1", blob.encode()),
        "ReportMetrics": (task.metrics("alpha", 0, model).encode(),),
        "AssessUpdate": (make_assessment("alpha"),),
    }
    transients = dict.fromkeys(("UploadChunk", "UploadModelChunk", "UploadSumChunk"), "chunk")
    transients["SettleWrap"] = "ephemeral_key"
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for call, arguments in calls.items():
        function = call.split()[0]
        transient = {transients[function]: b"x"} if function in transients else {}
        for caller in world.signers:
            try:
                await world.simulate("regulator", caller, function, *arguments, transient=transient)
            except Refused as refusal:
                code = refusal.text[:6]
                # An upload goes to the caller's own update, so that of others it knows nothing.
                is_own = function == "UploadChunk" and code == "BFL114"
                found[call][caller] = code if code in NOT_YOU or is_own else ""
            else:
                found[call][caller] = ""
    return found


def list_callers(cell: str, call: str) -> set[str]:
    """Who may call by the words of the column, in the round of the fixture."""
    consortium = make_consortium()
    members = {one.organisation for one in consortium.members}
    who = {
        "a member of the round's committee": {"coordinator", "regulator"},
        "a member that the record names": members,
        "a member": members,
        "a committee member": set(consortium.committee),
        "an assessor of the round": {"regulator"},
        "the coordinator": {"coordinator"},
        "the coordinator for the initial model": {"coordinator"} if call == "UploadModelChunk" else set(),
        "an institution of the task": {"alpha", "beta", "delta"},
        "the institution that the header names": {"alpha"},
        "the institution whose update it is": {"alpha"},
    }
    allowed: set[str] = set()
    for one in cell.split("; "):
        words, _, narrower = one.partition(", ")
        allowed |= who[words] - ({"alpha"} if narrower == "not in its own case" else set())
    return allowed


@pytest.mark.parametrize("row", TRANSACTIONS, ids=lambda row: row[0])
def test_a_transaction_is_for_the_callers_that_its_row_names(
    answers: Mapping[str, Mapping[str, str]], row: list[str]
) -> None:
    function, _ = called(row[0])
    calls = [call for call in answers if call.split()[0] == function]
    assert calls
    for call in calls:
        allowed = {caller for caller, code in answers[call].items() if not code}
        # What these two are about is the caller's own, which is alpha's here.
        others = {"beta", "delta"} if function in ("UploadChunk", "ReportMetrics") else set()
        assert allowed - others == list_callers(row[1], call) - others


# Rules


@pytest.mark.parametrize(("heading", "known"), [("Aggregation", RULES), ("Optimisers", OPTIMISERS)])
def test_the_page_has_every_rule_and_optimiser_with_its_parameters(
    heading: str, known: Mapping[str, type[BaseModel]]
) -> None:
    rows = {list_quoted(row[0])[0]: row for row in read_table(PROTOCOL.read_text(), heading)}
    assert rows.keys() == known.keys()
    section = PROTOCOL.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for name, kind in known.items():
        place = rows[name][1] if heading == "Aggregation" else section
        assert {*kind.model_fields} - {"rule", "method"} <= {*list_quoted(place)}, name


# Economics


def test_the_page_about_economics_gives_the_defaults() -> None:
    text = (ROOT / "docs" / "economics.md").read_text()
    defaults = text.partition("\n## Defaults\n")[2].partition("\n## ")[0]
    told = {name: int(number.replace(" ", "")) for name, number in re.findall(r"`(\w+)` ([\d ]*\d)", defaults)}
    rows = read_table(text, "Penalties")
    told |= {list_quoted(row[2])[0]: int(row[1].split(",")[0]) for row in rows}
    assert told == DEFAULT_ECONOMICS.model_dump()


def test_the_page_about_economics_has_a_penalty_for_every_verdict() -> None:
    rows = read_table((ROOT / "docs" / "economics.md").read_text(), "Penalties")
    policies = {list_quoted(row[2])[0] for row in rows}
    assert policies == {"equivocation", "absence", *(rule.penalty for rule in JUDGING)}


# The two commands, and all others


def test_the_readme_names_the_two_commands_that_are_all_the_set_up() -> None:
    commands = list(list_commands(README.read_text()))
    assert commands.index("make demo") < commands.index("make test")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_make_target_on_a_page_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for command in list_commands(path.read_text()) for word in re.findall(r"\bmake ([a-z]+)\b", command)}
    named |= set(re.findall(r"`(?:[A-Z_]+=\S+ )?make ([a-z]+)", path.read_text()))
    assert named <= targets


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_blockfl_command_on_a_page_exists_with_its_options(path: Path) -> None:
    for command in list_commands(path.read_text()):
        for call in re.findall(r"(?<![\w./-])(?:\S*/)?blockfl ((?:[^;&|()<>])+)", command):
            check_call(shlex.split(call))


def check_call(words: list[str]) -> None:
    """Follow the words down to a command, and look up each option."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if words == ["--version"]:
        return
    assert not hasattr(command, "commands"), f"{command.name} has no command {words[:1]}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= {*known, "--help"}, words


@pytest.mark.parametrize("words", [["network", "begin"], ["network"], ["network", "up", "--quick"]])
def test_the_look_at_commands_finds_what_it_looks_for(words: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_call(words)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_python_module_that_a_page_runs_exists(path: Path) -> None:
    for command in list_commands(path.read_text()):
        for module in re.findall(r"python -m ([\w.]+)", command):
            here = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            under_tests = (ROOT / "tests").joinpath(*module.split(".")).with_suffix(".py")
            assert here.exists() or under_tests.exists() or importlib.util.find_spec(module), module


# Files and links


def list_texts(root: Path) -> Iterator[Path]:
    """The repository's files that are text; what tools and runs leave behind is not looked at."""
    for folder, folders, names in os.walk(root):
        folders[:] = [
            one for one in folders if one == ".ci" or not re.match(r"\.|build$|node_modules$|__pycache__$", one)
        ]
        yield from (path for path in sorted(Path(folder, one) for one in names) if b"\0" not in path.read_bytes())


def list_conflicts(root: Path) -> list[str]:
    """The lines that a merge left for somebody to decide: file and number."""
    marks = tuple(7 * sign.encode() + b" " for sign in "<>|")
    return [
        f"{path.relative_to(root)}:{number}"
        for path in list_texts(root)
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if line.startswith(marks)
    ]


def test_no_file_holds_a_merge_that_nobody_finished() -> None:
    assert list_conflicts(ROOT) == []
    assert ROOT / "docs" / "threat-model.md" in list_texts(ROOT)
    assert ROOT / ".ci" / "run" in list_texts(ROOT)


@pytest.mark.parametrize("sign", ["<", ">", "|"])
def test_an_unfinished_merge_is_found(tmp_path: Path, sign: str) -> None:
    (tmp_path / "page.md").write_text(f"one\n{7 * sign} HEAD\ntwo\n{6 * sign} three\n")
    (tmp_path / "picture").write_bytes(b"\0\n" + 7 * sign.encode() + b" no text")
    assert list_conflicts(tmp_path) == ["page.md:2"]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(path: Path) -> None:
    broken = []
    for target in list_links(path.read_text()):
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        if not found.exists() or (anchor and anchor not in list_anchors(found.read_text())):
            broken.append(target)
    assert broken == []


def test_links_in_code_are_not_links_and_images_are() -> None:
    text = '# A\n```\n[x](nowhere.md)\n```\n[y](b.md#c) ![z](d.svg) <img src="e.svg"> [w](https://example.org)\n'
    assert list_links(text) == ["b.md#c", "d.svg", "e.svg"]


def list_documented_modules(room: str) -> set[str]:
    """The modules and packages in the table of a room's README."""
    table = (ROOT / room / "README.md").read_text().split("\n|---|")[1].split("\n\n")[0]
    modules = [module for row in table.splitlines()[1:] for module in list_quoted(row.split(" | ")[0])]
    return {module.removeprefix("blockfl.").removesuffix(".py").rstrip("/") for module in modules}


@pytest.mark.parametrize(
    "place", ["protocol/protocol", "fabric/fabric", "network/network", "chaincode/contract", "clients"]
)
def test_a_rooms_table_has_its_modules_and_no_others(place: str) -> None:
    room, _, package = place.partition("/")
    entries = [path for path in (ROOT / room / "blockfl" / package).iterdir() if "__" not in path.name]
    modules = {path.stem for path in entries if path.is_dir() or path.suffix == ".py"} - {"errors"}
    assert modules, "nothing to compare with"
    assert list_documented_modules(room) - {"__main__", "errors"} == modules


def test_every_architecture_decision_has_context_choice_and_price() -> None:
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        if path.name == "README.md":
            continue
        parts = re.findall(r"^\*\*([A-Z][\w ]+)\.\*\*", path.read_text(), re.MULTILINE)
        order = [parts.index(part) for part in ("Context", "Choice", "Price")]
        assert all(one < other for one, other in pairwise(order)), path.name


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_page_names_a_place_of_one_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp)/", path.read_text())
