"""consortium.yaml: what is wrong is named with its line and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from blockfl.network.description import Description, default_description
from blockfl.network.errors import DescriptionError
from blockfl.network.foundation import found
from blockfl.network.layout import Layout
from blockfl.network.organisation import Ports
from blockfl.network.source import Fault

DEFAULT = default_description()


def line_of(text: str, fragment: str) -> int:
    """The number of the first line that holds a fragment."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if fragment in line)


def refusal(text: str, ledger: str = "embedded") -> str:
    with pytest.raises(DescriptionError) as refused:
        Description.parse(text, "my.yaml", ledger)  # type: ignore[arg-type]
    return str(refused.value)


def replaced(old: str, new: str, count: int = 1) -> str:
    assert old in DEFAULT
    return DEFAULT.replace(old, new, count)


def test_the_default_consortium_has_seven_members_four_of_which_order() -> None:
    description = Description.load_default(18000)
    assert [one.name for one in description.orderers] == ["coordinator", "regulator", "university", "cleveland"]
    assert description.organisation("regulator").ports == Ports.from_base(18010)
    assert description.consortium.committee == ("coordinator", "regulator", "university")


def test_what_is_dumped_says_the_same_with_every_port() -> None:
    description = Description.load_default(18000)
    assert Description.parse(description.dump(), "dumped") == description
    assert yaml.safe_load(description.dump())["organisations"][1]["ports"]["peer_chaincode"] == 18016


def test_ports_of_its_own_replace_single_defaults() -> None:
    text = replaced("  - name: regulator\n", "  - name: regulator\n    ports: {peer: 30000}\n")
    ports = Description.parse(text, "my.yaml").organisation("regulator").ports
    assert (ports.peer, ports.contract) == (30000, 17061)


def test_an_unknown_organisation_is_named_with_the_known_ones() -> None:
    with pytest.raises(DescriptionError, match=r"no organisation paris; the consortium has coordinator, .*switzerland"):
        Description.load_default().organisation("paris")


@pytest.mark.parametrize(
    ("old", "new", "fragment", "reason"),
    [
        ("network: heart", "network: heart\nsize: 3", "size: 3", "size: unknown key; known here are network, channel"),
        (
            "orderer: true",
            "order: true",
            "order: true",
            "unknown key; known here are name, msp_id, roles, orderer, host, listen",
        ),
        ("[institution]", "[institutions]", "[institutions]", "got 'institutions'"),
        ("name: hungary", "name: Hungary", "name: Hungary", "begins with a letter and does not end with a dash"),
        ("name: hungary", "name: cleveland", "name: cleveland", "organisation cleveland is described twice"),
        ("threshold: 2 ", "threshold: 1 ", "threshold: 1", "greater than or equal to 2, got 1"),
        ("threshold: 2 ", "threshold: 4 ", "threshold: 4", "more than half of the committee's 3 members"),
        ("threshold: 2 ", "threshold: two ", "threshold: two", "valid integer, got 'two'"),
        ("channel: federation", "", "network:", "channel: is missing"),
        ("contract: blockfl", "contract: block--fl", "contract: block--fl", "joined by single dashes"),
        ("base_port: 17050", "base_port: 65500", "base_port: 65500", "room for 10 ports of each of 7 organisations"),
        ("consensus: BFT ", "consensus: solo ", "consensus: solo", "expected 'BFT' or 'raft', got 'solo'"),
    ],
)
def test_a_fault_is_named_with_its_line(old: str, new: str, fragment: str, reason: str) -> None:
    text = replaced(old, new)
    # Of a name that stands there twice the second line is the wrong one.
    lines = [number for number, line in enumerate(text.splitlines(), 1) if fragment in line]
    said = refusal(text)
    assert said.startswith(f"my.yaml, line {lines[-1]}: ")
    assert reason in said


def test_a_port_that_is_used_twice_is_named_with_both_users() -> None:
    text = replaced("  - name: regulator\n", "  - name: regulator\n    ports:\n      contract: 17050\n")
    said = refusal(text)
    assert said.startswith(f"my.yaml, line {line_of(text, 'contract: 17050')}: organisations.1.ports.contract: ")
    assert "port 17050 of 127.0.0.1 is used twice: coordinator (peer) and regulator (contract)" in said


def test_one_port_on_two_hosts_is_no_fault() -> None:
    text = replaced("  - name: regulator\n", "  - name: regulator\n    host: 127.0.0.2\n    ports: {peer: 17050}\n")
    assert Description.parse(text, "my.yaml").organisation("regulator").ports.peer == 17050


@pytest.mark.parametrize("host", ["", "two words", "http://here", "-x"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    text = replaced("  - name: regulator\n", f"  - name: regulator\n    host: '{host}'\n")
    said = refusal(text)
    assert said.startswith(f"my.yaml, line {line_of(text, 'host:')}: organisations.1.host: ")
    assert "expected a host name or an IP address" in said


def test_the_name_of_the_treasury_is_refused_where_it_is() -> None:
    text = replaced("  - name: regulator\n", "  - name: treasury\n")
    said = refusal(text)
    assert said.startswith(f"my.yaml, line {line_of(text, 'name: treasury')}: organisations.1.name: ")
    assert "treasury is the account that belongs to nobody: choose another name" in said


def test_a_committee_of_one_is_refused_where_its_member_is() -> None:
    text = DEFAULT.replace("roles: [committee]", "roles: [institution]")
    said = refusal(text)
    assert said.startswith(f"my.yaml, line {line_of(text, 'roles: [committee, coordinator]')}: ")
    assert "expected a committee of two or more, got 1" in said


def test_a_second_coordinator_is_refused_where_it_is() -> None:
    text = replaced("roles: [committee]", "roles: [committee, coordinator]  # too")
    said = refusal(text)
    assert said.startswith(f"my.yaml, line {line_of(text, '# too')}: ")
    assert "exactly one organisation with the role coordinator, got 2" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DEFAULT.replace("orderer: true", "orderer: false"), "no organisation has `orderer: true`"),
        (DEFAULT.replace("[institution]", "[committee]"), "no organisation has the role institution"),
        (DEFAULT.replace("[committee, coordinator]", "[committee]"), "role coordinator, got 0"),
    ],
)
def test_what_nobody_has_is_refused_where_the_organisations_begin(text: str, reason: str) -> None:
    said = refusal(text)
    assert said.startswith(f"my.yaml, line {line_of(text, 'organisations:')}: ")
    assert reason in said


@pytest.mark.parametrize("word", ["True", "TRUE", "yes", "Yes", "on", "ON"])
def test_true_in_the_other_words_of_yaml(word: str) -> None:
    text = DEFAULT.replace("orderer: true", f"orderer: {word}")
    assert Description.parse(text, "my.yaml") == Description.parse(DEFAULT, "my.yaml")


@pytest.mark.parametrize("word", ["False", "NO", "Off"])
def test_false_in_the_other_words_of_yaml(word: str) -> None:
    said = refusal(DEFAULT.replace("orderer: true", f"orderer: {word}"))
    assert "no organisation has `orderer: true`" in said


@pytest.mark.parametrize("word", ["null", "Null", "NULL", "~", ""])
def test_nothing_in_the_words_of_yaml_is_no_text(word: str) -> None:
    text = replaced("  - name: regulator\n", f"  - name: regulator\n    host: {word}\n")
    assert "organisations.1.host: should be a valid string" in refusal(text)


def test_too_few_ordering_nodes_for_bft_are_refused_where_the_last_is() -> None:
    at = DEFAULT.rindex("    orderer: true\n")
    text = DEFAULT[:at] + DEFAULT[at:].replace("    orderer: true\n", "", 1)
    assert Description.parse(text, "my.yaml").consensus == "BFT", "a single node does for the embedded node"
    for ledger in ("local", "compose"):
        said = refusal(text, ledger)
        last = max(number for number, line in enumerate(text.splitlines(), 1) if "orderer: true" in line)
        assert said.startswith(f"my.yaml, line {last}: organisations.2.orderer: ")
        assert "BFT ordering needs at least 4 to tolerate one fault: name more, or use `consensus: raft`" in said


def test_three_ordering_nodes_do_for_raft() -> None:
    at = DEFAULT.rindex("    orderer: true\n")
    text = (DEFAULT[:at] + DEFAULT[at:].replace("    orderer: true\n", "", 1)).replace("BFT ", "raft ", 1)
    assert len(Description.parse(text, "my.yaml", "local").orderers) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("network: heart\nnetwork: heart\n", "line 2: network stands here twice"),
        (
            DEFAULT.replace("    orderer: true\n", "    orderer: true\n    orderer: true\n", 1),
            "orderer stands here twice",
        ),
        ("- a\n- b\n", "line 1: expected a mapping with network, channel, organisations"),
        ("", "line 1: expected a mapping"),
        ("network: [", "line 1: "),
        ("network: a\n? [a]\n: b\n", "line 2: expected a name as key"),
        ("network: &all [*all]\n", "line 1: *all: write the value out here"),
        ("a: &a [b, b]\nnetwork: [*a, *a]\n", "line 2: *a: write the value out here"),
        ("network: !!timestamp heart\n", "line 1: tag:yaml.org,2002:timestamp: leave this tag out"),
        ("!own network: heart\n", "line 1: !own: leave this tag out"),
        ("network:\n  " + "[" * 500, "line 2: more than 16 mappings and lists in one another"),
        ("base_port: 2020-13-45\n", "line 1: network: is missing"),
        (f"base_port: {'9' * 5000}\n", "line 1: network: is missing"),
        ("base_port: 0b_\n", "line 1: network: is missing"),
        ("network: \x00", "this is not YAML"),
        (DEFAULT[: DEFAULT.index("organisations:")] + "organisations: 7\n", "organisations: should be a valid list"),
    ],
)
def test_text_that_is_no_description_is_refused(text: str, reason: str) -> None:
    assert reason in refusal(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        Description.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DescriptionError, match=r"binary\.yaml: cannot be read \(it is not UTF-8\)"):
        Description.load(tmp_path / "binary.yaml")


def test_the_number_of_the_members_record_is_part_of_it() -> None:
    text = replaced("network: heart ", "sequence: 3\nnetwork: heart ")
    assert Description.parse(text, "my.yaml").consortium.sequence == 3
    assert Description.load_default().consortium.sequence == 1
    assert "greater than or equal to 1, got 0" in refusal(text.replace("sequence: 3", "sequence: 0"))


def test_the_silence_after_which_a_leader_is_replaced_is_said_there_and_kept() -> None:
    text = default_description().replace("threshold: 2", "threshold: 2\nleader_timeout_s: 20")
    said = Description.parse(text, "consortium.yaml")
    assert (Description.load_default().leader_timeout_s, said.leader_timeout_s) == (5, 20)
    with pytest.raises(Fault, match="expected 5 as before, got 20: a running network keeps it"):
        said.check_extends(Description.load_default())
    with pytest.raises(DescriptionError, match="leader_timeout_s"):
        Description.parse(text.replace("_s: 20", "_s: 3"), "consortium.yaml")


def test_the_leader_timeout_of_the_description_is_in_the_first_block(tmp_path: Path) -> None:
    text = default_description().replace("threshold: 2", "threshold: 2\nleader_timeout_s: 20")
    hosts = found(Description.parse(text, "consortium.yaml"), Layout(tmp_path))
    assert hosts[0].require_founding().terms.leader_timeout_s == 20
