"""The table of codes: stable, unique, found in any error text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.codes import Code, ProtocolError


def test_no_identifier_is_used_twice() -> None:
    identifiers = [code.identifier for code in Code.__members__.values()]
    assert len(set(identifiers)) == len(identifiers)
    # An enum makes two members with equal values one: count the names too.
    assert len(Code.__members__) == len(list(Code))


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.name)
def test_each_code_has_an_identifier_of_a_known_class_and_a_meaning(code: Code) -> None:
    assert re.fullmatch(r"BFL[1-6][0-9]{2}", code.identifier)
    assert code.meaning
    assert code.meaning[-1] != "."


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.name)
def test_a_code_is_found_in_the_text_that_a_contract_returns(code: Code) -> None:
    text = f"chaincode response 500, {ProtocolError(code, 'round 7 is closed')}"
    assert Code.of(text) is code


@given(st.text())
def test_text_without_a_code_gives_none(text: str) -> None:
    assert Code.of(text.replace("BFL", "")) is None


@pytest.mark.parametrize("text", ["BFL1040 is longer", "XBFL104", "BFL999", "bfl104", ""])
def test_what_only_resembles_a_code_gives_none(text: str) -> None:
    assert Code.of(text) is None


def test_an_error_begins_with_its_code() -> None:
    error = ProtocolError(Code.ROUND_CLOSED, "round 7 is closed")
    assert str(error) == "BFL104 round 7 is closed"
    assert error.code is Code.ROUND_CLOSED


def test_the_codes_of_verdicts_keep_their_meaning() -> None:
    """Verdicts stay on ledgers for ever: a changed number would change what they say."""
    verdicts = {code.identifier: code.name for code in Code if code.identifier.startswith("BFL4")}
    assert verdicts == {
        "BFL401": "HEADER_NETWORK",
        "BFL402": "HEADER_ROUND",
        "BFL403": "HEADER_BASE",
        "BFL404": "HEADER_MANIFEST",
        "BFL405": "HEADER_TERMS",
        "BFL406": "HEADER_RECIPIENTS",
        "BFL407": "SIGNATURE",
        "BFL408": "EQUIVOCATION",
        "BFL409": "CHUNKS_MISSING",
        "BFL410": "SEAL_BROKEN",
        "BFL411": "KEY_COMMITMENT",
        "BFL412": "WRAP_WRONG",
        "BFL413": "PAYLOAD_DIGEST",
        "BFL414": "PAYLOAD_FORMAT",
        "BFL415": "RANGE",
        "BFL416": "NORM_L2",
        "BFL417": "NORM_LINF",
        "BFL418": "COMMITMENT",
        "BFL419": "NORM_TENSOR",
        "BFL420": "NORM_MINIMUM",
        "BFL421": "COSINE",
        "BFL422": "EPHEMERAL_KEY",
        "BFL423": "REFERENCE_COSINE",
        "BFL424": "HARMFUL",
    }
