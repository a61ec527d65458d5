"""The report answers what a person asks who knows nothing of Fabric, and nobody's words become markup."""

from __future__ import annotations

import asyncio
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockfl.audit.pages import render_page, render_pdf
from blockfl.audit.plot import draw_lines
from blockfl.audit.report import make_report
from blockfl.cli.main import app
from support.bent import bend
from support.played_ledger import HOSTILE, Played

HOSTILE_NAME = '"><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """What a person reads: each question with its answer, and every element's name and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.answers: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._question, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("dt", "dd"):
            self._inside = tag
            self._question = "" if tag == "dt" else self._question
            if tag == "dd":
                self.answers.setdefault(self._question.strip(), []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("dt", "dd"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._inside == "dt":
            self._question += data
        elif self._inside == "dd":
            self.answers[self._question.strip()][-1] += data


@pytest.fixture(scope="module")
def report(played: Played) -> Any:
    return asyncio.run(
        make_report([played.bundle], played.genesis_hash, lambda _: None, expected_hash=played.last_hash)
    )


@pytest.fixture(scope="module")
def page(report: Any) -> Page:
    return Page(render_page(report))


def test_it_says_which_institutions_made_a_version(page: Page) -> None:
    (answer,) = page.answers["Which institutions made version 2?"]
    assert answer.startswith("Version 2 was made in round 2 from the updates of alpha, beta and delta.")
    assert re.search(r"Block \d+, transaction [0-9a-f]{64}, .* stated by coordinator; endorsed by ", answer)


def test_it_says_who_was_rejected_why_and_what_became_of_the_penalty(page: Page) -> None:
    (answer,) = page.answers["Who was rejected in round 2, and why?"]
    assert answer.startswith(
        "In round 2 gamma was rejected: the whole update is larger than the task allows. Its norm was"
    )
    assert re.search(r"Its norm was [\d.e+]+ to [\d.e+]+, where 1 is allowed\.", answer)
    assert "The ledger says BFL416: the update's L2 norm is over the bound" in answer
    assert "the committee's word: 2 of its members had to agree" in answer
    assert "Nothing of the update is in any version." in answer
    assert "It cost gamma 320 credits. alpha, beta, coordinator and delta overturned that" in answer
    (other,) = page.answers["Who was rejected in round 3, and why?"]
    assert "beta was rejected: it signed two different updates for one round, so neither counts." in other
    assert "The ledger says BFL408: signed two different updates" in other
    assert "Who was rejected in round 1, and why?" not in page.answers


def test_it_says_which_rules_and_which_code_were_in_force(page: Page) -> None:
    (answer,) = page.answers["Which rules and which code were in force in rounds 1 to 3?"]
    assert answer.startswith("Definition 1 of the contract: version 1, ")
    assert "approved by alpha, beta, coordinator, delta, gamma, regulator and university" in answer
    assert re.search(r"They run it as the package app_1\.0:[0-9a-f]{64}\.", answer)
    text = " ".join(page.texts)
    assert "Who may take part: alpha, beta, delta and gamma." in text
    assert "The L2 norm of an update, which is its size, is at most 1." in text


def test_it_says_on_whose_word_the_accuracy_stands(page: Page) -> None:
    (answer,) = page.answers["On whose word does the accuracy stand?"]
    assert answer.startswith("On the word of the institutions alone")
    assert "alpha 0.8123 on 199 samples" in answer


def test_it_names_every_step_of_the_proof_and_both_ends(page: Page, report: Any, played: Played) -> None:
    text = " ".join(page.texts)
    assert all(step in text for step in report["verification"]["steps"])
    assert len(report["verification"]["steps"]) == 16
    assert played.genesis_hash.hex() in text
    assert played.last_hash in text
    (answer,) = page.answers["Is this the whole ledger, or was its end cut off?"]
    assert f"The auditor brought the hash that block {report['evidence']['last_block']} must have" in answer


async def test_it_says_where_the_end_is_not_known(played: Played) -> None:
    report = await make_report([played.bundle], played.genesis_hash, lambda _: None)
    (answer,) = Page(render_page(report)).answers["Is this the whole ledger, or was its end cut off?"]
    assert "Whether more blocks follow is not known" in answer
    assert {row["standing"] for row in report["trust"] if "end was cut off" in row["statement"]} == {"unknown"}


def test_it_says_who_takes_part_and_who_agreed_to_the_rules(page: Page) -> None:
    (members,) = page.answers["Who takes part, in which role, and did that change?"]
    assert "lpha, beta, delta and gamma are institutions, which train" in members
    assert "coordinator, regulator and university are the committee" in members
    assert "2 of the committee must agree on a verdict. That was so from the beginning." in members
    (rules,) = page.answers["Who agreed to the rules of heart?"]
    assert rules.startswith("coordinator made them when it created the task")
    assert "alpha (199 training samples, by its own word)" in rules


def test_it_says_what_it_leaves_out(page: Page, report: Any) -> None:
    text = " ".join(page.texts)
    listed = len(report["timeline"]) + report["left_out"]
    assert listed == report["verification"]["transactions"]
    assert f"Left out: {report['left_out']} transactions that only carry pieces" in text


def test_nobody_s_words_become_markup_and_nothing_is_loaded(report: Any, page: Page) -> None:
    assert f"Task heart: {HOSTILE}" in "".join(page.texts)
    bent = json.loads(json.dumps(report).replace("gamma", json.dumps(HOSTILE_NAME)[1:-1]))
    for one in (page, Page(render_page(bent))):
        names = {tag for tag, _ in one.tags}
        assert not names & {"script", "img", "link", "iframe", "object", "form"}
        assert not [name for _, found in one.tags for name in found if name.startswith("on") or name == "src"]
        assert all(str(found["href"]).startswith("#") for tag, found in one.tags if tag == "a")
        (policy,) = [found["content"] for _, found in one.tags if found.get("http-equiv")]
        assert str(policy).startswith("default-src 'none'")
    assert f"{HOSTILE_NAME} was rejected" in "".join(Page(render_page(bent)).texts)


def test_hostile_texts_everywhere_leave_the_report_its_elements(report: Any, page: Page) -> None:
    text = render_page(bend(report, {"proven", "word", "unknown"}))
    assert not any(one in text for one in "\u202e\u2066\x00")
    bent = Page(text)
    assert {tag for tag, _ in bent.tags} <= {tag for tag, _ in page.tags}
    assert not [name for _, found in bent.tags for name in found if name.startswith("on") or name == "src"]
    assert all(str(found["href"]).startswith("#") for tag, found in bent.tags if tag == "a")
    assert "".join(bent.texts).count("<script>alert(1)</script>") > 100


def test_plots_name_their_lines_in_text_that_is_escaped() -> None:
    drawn = str(draw_lines("norms", {HOSTILE_NAME: [(1, 3), (2, 4)]}, unit="bits", whole=True))
    assert "<img" not in drawn
    assert "&lt;img" in drawn
    assert draw_lines("norms", {}, unit="bits") == ""


def test_the_same_evidence_gives_the_same_report_and_the_command_writes_page_and_twin(
    played: Played, report: Any, tmp_path: Path
) -> None:
    output = tmp_path / "report.html"
    trusted = ["--genesis-hash", played.genesis_hash.hex(), "--expect-hash", played.last_hash]
    result = CliRunner().invoke(app, ["audit", "report", str(played.bundle), *trusted, "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert output.read_text() == render_page(report)
    assert json.loads(output.with_suffix(".json").read_bytes()) == json.loads(json.dumps(report))


def test_it_is_drawn_as_pdf_too(report: Any) -> None:
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"WeasyPrint or Pango is missing: {error}")
    tables = ("timeline", "members", "contracts", "rejections")
    small = {**report, **{name: report[name][:2] for name in tables}}
    small["tasks"] = [{**task, "updates": task["updates"][:2], "credits": [], "models": []} for task in report["tasks"]]
    assert render_pdf(render_page(small)).startswith(b"%PDF-")


def test_evidence_that_does_not_verify_gives_no_report(played: Played, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    result = CliRunner().invoke(
        app, ["audit", "report", str(played.bundle), "--genesis-hash", "0" * 64, "-o", str(output)]
    )
    assert "step 2, first block" in str(result.exception)
    assert not output.exists()
