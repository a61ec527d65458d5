"""What an auditor asks: every row names the transaction behind it, and a name that nobody knows is an error."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from inspect import getsource, isfunction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blockfl.audit import changes, queries, views
from blockfl.audit.book import Book, open_book
from blockfl.audit.bundle import Bundle
from blockfl.audit.entry import PLACE
from blockfl.audit.queries import ACTS
from blockfl.cli import query
from blockfl.cli.main import app
from blockfl.cli.query import _QUESTIONS, Answer
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.catalogue import TASK
from blockfl.protocol.norm_rules import RoundNorms
from blockfl.protocol.value_rules import CHOICES
from support.federation import ALL_NORMS, make_federation
from support.played_ledger import CERTIFICATE, HOSTILE, INSTITUTIONS, Played
from support.world import World

ARGUMENTS = {
    "rounds": ["--task", "heart"],
    "updates": ["--task", "heart"],
    "models": ["--task", "heart"],
    "credits": ["--task", "heart"],
    "history": ["round/heart/000002"],
    "lineage": ["heart", "2"],
    "institution": ["gamma"],
}


@pytest.fixture(scope="module")
def book(played: Played) -> Book:
    return open_book([played.bundle], played.genesis_hash, lambda _: None)


def ask(played: Played, *words: str) -> Any:
    trusted = ["--bundle", str(played.bundle), "--genesis-hash", played.genesis_hash.hex()]
    return CliRunner().invoke(app, ["audit", *words, *trusted])


def test_every_question_has_a_command() -> None:
    asking = [one for one in vars(query).values() if isfunction(one) and one.__annotations__.get("return") is Answer]
    assert {one.__name__ for one in asking} == {one.__name__ for one in _QUESTIONS.values()}
    answering = {name for name, one in vars(queries).items() if name.startswith("list_") and isfunction(one)}
    assert answering == set(re.findall(r"queries\.(list_\w+)", getsource(query)))


@pytest.mark.parametrize("name", sorted(_QUESTIONS))
def test_every_row_of_every_question_names_a_transaction_of_the_ledger(played: Played, name: str) -> None:
    result = ask(played, name, *ARGUMENTS.get(name, []), "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert rows
    with Bundle.open(played.bundle) as bundle:
        for row in rows:
            assert set(PLACE) <= row.keys()
            block = bundle.block(row["block"])
            assert block is not None
            sent = [decode_transaction(envelope) for envelope in block.data.data]
            assert row["transaction"] in [one.tx_id for one in sent]
            assert row["time_by"].startswith("stated ")
            assert row["signers"] or row["block"] == 0


def test_the_norms_of_what_was_accepted_propose_a_bound(played: Played, book: Book) -> None:
    result = ask(played, "updates", "--task", "heart")
    rows = views_of_updates(book)
    largest = max(row["norm_at_most"] for row in rows if row["state"] == "accepted")
    assert f"the largest accepted norm is at most {largest:.2g}; " in result.stdout
    proposed = float(result.stdout.split("--norm-bound ")[1].split()[0])
    assert 1.5 * largest <= proposed < 3.2 * largest
    assert "--norm-bound" not in ask(played, "updates", "--task", "heart", "--csv").stdout


def views_of_updates(book: Book) -> list[Any]:
    return list(asyncio.run(views.list_updates(book, "heart", None)))


def test_words_are_there_for_every_transaction_of_the_contract() -> None:
    functions = {name for name in World().contracts["alpha"].table if not name.startswith(("Read", "List"))}
    assert functions
    assert functions <= set(ACTS)


def test_a_row_s_signers_are_those_who_endorsed(book: Book) -> None:
    (row,) = [row for row in queries.list_rejections(book) if row["code"] == "BFL416"]
    assert (row["task"], row["round"], row["organisation"]) == ("heart", 2, "gamma")
    assert row["signers"] == ["coordinator", "regulator", "university"]
    assert row["time_by"] == "stated by regulator"
    assert row["overturned_by"] == ["alpha", "beta", "coordinator", "delta"]
    assert row["penalty"] == 320
    assert "the update's L2 norm is over the bound" in str(row["why"])


def test_an_equivocation_is_a_rejection(book: Book) -> None:
    rows = queries.list_rejections(book, "heart")
    assert [(row["round"], row["organisation"], row["code"]) for row in rows] == [
        (2, "gamma", "BFL416"),
        (3, "beta", "BFL408"),
    ]


def test_a_history_says_what_each_write_changed(book: Book) -> None:
    opened, closed, published = queries.list_history(book, "round/heart/000002")
    assert opened["changes"] == ["created"]
    assert "state: open → closed" in closed["changes"]  # type: ignore[operator]
    assert 'rejected: [] → ["gamma"]' in closed["changes"]  # type: ignore[operator]
    assert published["changes"] == ["state: closed → published"]
    assert (closed["submitter"], closed["act"]) == ("university", "closed the round")
    assert not [one for row in (opened, closed, published) for one in row["changes"] if "_ms: 1" in one]  # type: ignore[attr-defined]


def test_a_lineage_names_every_update_with_its_header_and_verdict(book: Book) -> None:
    rows = queries.list_lineage(book, "heart", 2)
    assert [row["version"] for row in rows] == [0, 1, 2]
    assert rows[2]["made_by"] == ["alpha", "beta", "delta"]
    assert rows[2]["base_digest"] == rows[1]["digest"]
    for part in rows[2]["updates"]:  # type: ignore[attr-defined]
        assert part["submission"]["time_by"] == f"stated by {part['organisation']}"
        assert part["verdict"]["signers"] == ["coordinator", "regulator", "university"]


def test_an_institution_s_doings_are_its_own_and_those_about_it(book: Book) -> None:
    rows = queries.list_institution(book, "gamma")
    assert {row["submitter"] for row in rows if row["function"] == "SubmitUpdate"} == {"gamma"}
    (verdict,) = [row for row in rows if row["function"] == "JudgeUpdate" and row["round"] == 2]
    assert str(verdict["result"]).startswith("rejected: BFL416")
    assert verdict["act"] == "had the committee judge the update of gamma"
    assert "beta" not in {row["submitter"] for row in rows if row["function"] == "SubmitUpdate"}


def test_definitions_name_code_and_everybody_who_approved(book: Book) -> None:
    *approvals, in_force = changes.list_contracts(book)
    everybody = [*INSTITUTIONS, "coordinator", "regulator", "university"]
    assert sorted(str(row["by"]) for row in approvals) == sorted(everybody)
    assert in_force["approved_by"] == sorted(everybody)
    assert all(":" in str(row["package"]) for row in approvals)
    assert (in_force["sequence"], in_force["collections"]) == (1, ["sealed", "models"])
    assert changes.find_definition(book, int(str(in_force["block"]))) is None
    assert changes.find_definition(book, int(str(in_force["block"])) + 1) == in_force


def test_members_roots_and_withdrawals_are_listed_with_their_ends(book: Book) -> None:
    rows = changes.list_members(book)
    assert [row["organisation"] for row in rows if row["what"] == "withdrawal"] == ["delta"]
    assert any(CERTIFICATE in str(row["detail"]) for row in rows)
    roots = [row for row in rows if str(row["detail"]).startswith("signing root")]
    assert [row["organisation"] for row in roots] == sorted(book.list_organisations())
    assert all(str(row["ends"])[:2] == "20" for row in roots)
    assert "ordering: raft, 1 ordering node" in str(rows[0]["detail"])
    assert "etcdraft" not in json.dumps(rows)


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["rounds", "--task", "nope"], "there is no task 'nope': there are heart"),
        (["updates", "--task", "heart", "--round", "9"], "there is no round 9: there are 1, 2, 3"),
        (["lineage", "heart", "9"], "there is no version 9: there are 0, 1, 2, 3"),
        (["institution", "nobody"], "there are alpha, beta, coordinator, delta, gamma, regulator, university"),
        (["history", "round/heart/000009"], "there are round/heart/000001, round/heart/000002, round/heart/000003"),
        (["rejections", "--task", "nope"], "there are heart"),
        (["transactions", "--task", "nope"], "there are heart"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_a_name_that_nobody_knows_is_an_error_that_lists_those_there_are(
    played: Played, words: list[str], known: str
) -> None:
    result = ask(played, *words)
    assert result.exit_code != 0
    assert isinstance(result.exception, LedgerError)
    assert known in str(result.exception)


def test_csv_has_the_table_s_columns_and_no_formula(played: Played) -> None:
    result = ask(played, "tasks", "--csv")
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert row["title"] == HOSTILE
    assert row["block"].isdigit()
    rows = list(csv.DictReader(io.StringIO(ask(played, "credits", "--task", "heart", "--csv").stdout)))
    assert {row["paid"] for row in rows if row["organisation"] == "gamma" and row["round"] == "2"} == {"320", "-320"}


async def test_the_same_rows_come_from_the_book_and_from_a_peer(book: Book) -> None:
    rows = await views.list_rounds(book, "heart")
    assert [row["round"] for row in book.locate(rows)] == [1, 2, 3]
    with pytest.raises(LedgerError, match="BFL101 there is no task nope"):
        await book.read(TASK.key("nope"))


def test_without_a_first_block_that_the_auditor_trusts_nothing_is_answered(played: Played) -> None:
    result = CliRunner().invoke(app, ["audit", "tasks", "--bundle", str(played.bundle)], env={"BLOCKFL_PROFILE": ""})
    assert result.exit_code != 0
    assert "a bundle cannot vouch for itself" in str(result.exception)


def test_a_trusted_first_block_is_named_as_a_file_or_as_its_hash(played: Played, tmp_path: Path) -> None:
    def verify(root: str) -> Result:
        command = ["audit", "verify", str(played.bundle), "--trust-root", root]
        return CliRunner().invoke(app, command, env={"BLOCKFL_PROFILE": ""})

    block, certificate = tmp_path / "genesis.block", tmp_path / "root.pem"
    with Bundle.open(played.bundle) as bundle:
        first = bundle.block(0)
    assert first is not None
    block.write_bytes(first.SerializeToString())
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    assert verify(str(block)).exit_code == 0
    assert verify(played.genesis_hash.hex()).exit_code == 0
    assert "this is another ledger than the one you pinned" in str(verify("0" * 64).exception)
    assert "name that with --founding FILE, too" in str(verify(str(certificate)).exception)
    assert "is neither a file nor a block's hash" in str(verify("nothing").exception)


def test_a_round_tells_every_number_by_which_its_task_chose_a_rule() -> None:
    round_ = make_federation(norms=ALL_NORMS).round
    assert round_.norms is not None
    frozen = [one.field for one in CHOICES if one.field in RoundNorms.model_fields]
    assert {"minimum_cosine_micro", "minimum_reference_cosine_micro"} <= set(frozen)
    norms = round_.norms.model_copy(update=dict.fromkeys(frozen, 250_000))
    told = views._norms(round_.model_copy(update={"norms": norms}))
    assert {field: told[field.removesuffix("_micro")] for field in frozen} == dict.fromkeys(frozen, 0.25)
