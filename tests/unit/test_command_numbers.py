"""Numbers on the command line: what is one, its limits, and that nothing is computed with anything else."""

import datetime
import re
from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from blockfl.cli import aggregator, institution
from blockfl.cli.main import app
from blockfl.cli.norms import parse_norms
from blockfl.cli.number import ANY, Limits, limits_of, make_limits, parse_micro, parse_number, parse_whole
from blockfl.cli.strategy import parse_optimiser, parse_rule
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol.model import manifest_of
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.optimiser import Adam
from blockfl.protocol.training import Training

NO_NUMBERS = [
    "",
    " ",
    "1 ",
    " 1",
    "1\n",
    "+",
    ".",
    "e5",
    "1e",
    "0x10",
    "1_0",
    "1,5",
    "--1",
    "٣",
    "１",
    "²",
    "many",
    "NaN",
    "sNaN",
    "-sNaN123",
    "inf",
    "-Infinity",
    "1e999999",
    "1e3000000",
    "-1e999999999999999999",
    "1e-999999",
    "1e100",
    "1e+99",
    "9" * 21,
    "0." + "0" * 20,
    "9" * 100_000,
    "1\x00",
    "\udcff",
]
MANIFEST = manifest_of({"kernel": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("+7", "7"),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("2.", "2"),
        ("1e3", "1000"),
        ("25E-1", "2.5"),
        ("0e99", "0"),
        ("12345678901.234567", "12345678901.234567"),
        ("007", "7"),
    ],
)
def test_a_number_is_digits_with_a_sign_a_point_and_a_short_exponent(text: str, value: str) -> None:
    assert parse_number("--x", text) == Decimal(value)


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("parse", [parse_number, parse_whole, parse_micro])
def test_anything_else_is_refused_with_what_is_expected(parse: Callable[..., object], text: str) -> None:
    with pytest.raises(LedgerError, match=r"^--x: expected a (whole )?number from -10+ to 10+, got ") as caught:
        parse("--x", text)
    assert len(str(caught.value)) < 400


@given(st.text(max_size=40) | st.from_regex(r"[-+0-9.eE_ ]{0,40}", fullmatch=True))
def test_of_any_text_there_is_a_number_within_the_limits_or_one_clear_error(text: str) -> None:
    limits = make_limits("-2.5", 1000)
    for parse in (parse_number, parse_whole, parse_micro):
        value: Decimal | int
        try:
            value = parse("--x", text, limits)
        except LedgerError:
            continue
        assert value == Decimal(text) * (10**6 if parse is parse_micro else 1)
        assert limits.lowest <= Decimal(text) <= limits.highest


@given(st.integers(-(10**18), 10**18))
def test_millionths_are_exact(micro: int) -> None:
    assert parse_micro("--x", f"{Decimal(micro).scaleb(-6):f}") == micro


@pytest.mark.parametrize("limits", [ANY, make_limits(0, 10), make_limits("0.5", "0.75")])
def test_both_limits_are_allowed_and_no_more(limits: Limits) -> None:
    for value in (limits.lowest, limits.highest):
        assert parse_number("--x", f"{value:f}", limits) == value
    for value in (limits.lowest - Decimal("0.001"), limits.highest + Decimal("0.001")):
        with pytest.raises(LedgerError, match=re.escape(f"from {limits.words}, got")):
            parse_number("--x", f"{value:f}", limits)


def test_a_whole_number_has_no_fraction_and_millionths_no_seventh_decimal() -> None:
    assert parse_whole("--x", "+2") == 2
    for text in ("2.5", "2.0", "2e0"):
        with pytest.raises(LedgerError, match=f"expected a whole number from .*, got '{text}'"):
            parse_whole("--x", text)
    with pytest.raises(LedgerError, match=r"up to six decimals, got '0\.0000001'"):
        parse_micro("--x", "0.0000001")


def test_limits_are_those_of_the_records() -> None:
    assert limits_of(Training, "epochs") == make_limits(1, 10_000)
    assert limits_of(Training, "learning_rate_micro") == make_limits(0, 1000)
    assert limits_of(Adam, "beta1_micro") == make_limits(0, "0.999999")
    assert str(limits_of(TensorBound, "bound_l2_micro")) == "0.000001..1000000000"
    assert str(make_limits(0, 1000)) == "0..1000"


@pytest.mark.parametrize("cosine", ["-0.999999", "0.999999"])
@pytest.mark.parametrize("factor", ["1", "100"])
def test_the_limits_of_norm_options_are_those_of_the_record(cosine: str, factor: str) -> None:
    rules = parse_norms(MANIFEST, 10_000_000, None, {"minimum_cosine_micro": cosine}, f"factor={factor}")
    assert rules is not None
    assert rules.minimum_cosine_micro is not None
    outward = 1 if rules.minimum_cosine_micro > 0 else -1
    with pytest.raises(ValidationError):
        NormRules.model_validate(rules.model_dump() | {"minimum_cosine_micro": rules.minimum_cosine_micro + outward})
    assert rules.adaptive is not None
    beyond = {"1": 999, "100": 100_001}[factor]
    with pytest.raises(ValidationError):
        AdaptiveBound.model_validate(rules.adaptive.model_dump() | {"factor_permille": beyond})


# --- every option that is a number


def parse_norm_options(text: str, which: int) -> object:
    options: list[Any] = [None, {}, {}, None]
    options[which] = [
        [f"*={text}"],
        {"minimum_l2_micro": text},
        {"minimum_cosine_micro": text},
        f"rounds={text}",
    ][which]
    return parse_norms(MANIFEST, 10_000_000, options[0], options[1] | options[2], options[3])


PARAMETERS: dict[str, Callable[[str], object]] = {
    "trim": lambda text: parse_rule(f"trimmed_mean:trim={text}", 11),
    "byzantine": lambda text: parse_rule(f"krum:byzantine={text}", 11),
    "selected": lambda text: parse_rule(f"multi_krum:selected={text}", 11),
    "clip_l2": lambda text: parse_rule(f"norm_clipped_mean:clip_l2={text}", 11),
    **{
        key: lambda text, key=key: parse_optimiser(f"adam:{key}={text}")  # type: ignore[misc]
        for key in ("learning_rate", "beta1", "beta2", "tau")
    },
    "beta": lambda text: parse_optimiser(f"momentum:beta={text}"),
    "tensor-bound": lambda text: parse_norm_options(text, 0),
    "minimum-norm": lambda text: parse_norm_options(text, 1),
    "minimum-cosine": lambda text: parse_norm_options(text, 2),
    "rounds": lambda text: parse_norm_options(text, 3),
    "factor": lambda text: parse_norms(MANIFEST, 10_000_000, None, {}, f"factor={text}"),
    "floor": lambda text: parse_norms(MANIFEST, 10_000_000, None, {}, f"floor={text}"),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_no_parameter_of_a_task_takes_what_is_no_number(name: str) -> None:
    for text in NO_NUMBERS:
        with pytest.raises(LedgerError, match=f"(?s){name}.*: expected "):
            PARAMETERS[name](text)


OPTIONS = {
    "task create heart": [
        "rounds",
        "minimum",
        "norm-bound",
        "weight-cap",
        "samples-cap",
        "epochs",
        "batch-size",
        "learning-rate",
        "submit-seconds",
        "judge-seconds",
        "publish-seconds",
        "seed",
    ],
    "institution run --task heart --directory d": ["samples", "rounds", "seed", "test-fraction"],
    "aggregator run --directory d": ["enrolment-patience", "judge-patience", "takeover"],
    "audit updates --task heart": ["round"],
    "network up": ["base-port"],
    "network logs node": ["lines"],
}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in OPTIONS.items() for name in names])
def test_no_option_takes_what_is_no_number_or_beyond_its_limits(
    command: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKFL_PROFILE", "/dev/null")
    monkeypatch.setenv("COLUMNS", "500")
    for text in ("", "1_0", "٣", "nan", "inf", "1e999999", "1e15", "-1", "99999999999999999999999"):
        result = CliRunner().invoke(app, [*command.split(), f"--{name}={text}"])
        assert result.exit_code == 2, (text, result.output, result.exception)
        assert re.search(
            rf"Invalid value for '--{name}'[^:]*: expected a (whole )?number (from|of up to)", result.output
        )


def test_a_version_to_export_is_best_or_a_whole_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKFL_PROFILE", "/dev/null")
    monkeypatch.setenv("COLUMNS", "500")
    for text in ("", "1_0", "٣", "nan", "inf", "1e999999", "1e15", "-1", "99999999999999999999999", "worst"):
        result = CliRunner().invoke(app, ["task", "export", "heart", "--output", "m.npz", f"--version={text}"])
        assert result.exit_code == 2, (text, result.output, result.exception)
        assert re.search(r"error: --version: expected a whole number (from|of up to)", result.output), result.output


@pytest.mark.parametrize(
    "command",
    [
        "audit check-aggregate heart",
        "aggregator claim-wrap heart",
        "aggregator settle-wrap heart",
        "institution settle-wrap --directory d heart",
        "task overturn heart",
        "task grant bonus alpha",
        "institution transfer bonus alpha",
    ],
)
def test_no_argument_takes_what_is_no_number(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKFL_PROFILE", "/dev/null")
    monkeypatch.setenv("COLUMNS", "500")
    for text in ("1_0", "٣", "nan", "0", "1.5", "9007199254740992"):
        result = CliRunner().invoke(app, [*command.split(), text, "x", "y"])
        assert result.exit_code == 2, (text, result.output, result.exception)
        assert "expected a whole number from 1 to 9007199254740991" in result.output


# --- files that are not what they should be


def test_a_certificate_of_an_unknown_version_is_no_certificate(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 7, start, start).sign(key, None)
    der = certificate.public_bytes(serialization.Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert version in der
    body = b64encode(der.replace(version, bytes.fromhex("a003020109"), 1))
    pem = tmp_path / "certificate.pem"
    pem.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n")
    with pytest.raises(
        LedgerError, match=r"certificate\.pem: expected a file with a certificate in PEM, or its digest"
    ):
        institution.read_certificate_digest(str(pem))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"ab" * 31, b"ab" * 31 + b"\xff", b"zz" * 32])
def test_an_opening_key_that_is_no_hex_is_refused_with_its_file_and_never_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "opening-key"
    path.write_bytes(content)
    path.chmod(0o600)
    fields = ("network", "channel", "contract", "organisation", "endpoint", "tls_roots", "certificate", "private_key")
    profile = ConnectionProfile.model_validate(dict.fromkeys(fields, "regulator") | {"opening_key": str(path)})
    with pytest.raises(LedgerError, match="opening-key: BFL301 expected an opening key of 64 hex digits") as caught:
        aggregator._load_opening_key(profile)
    assert "abab" not in str(caught.value)
