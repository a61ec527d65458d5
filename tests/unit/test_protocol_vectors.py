"""Every format against its vectors: our code, and where there is one the naive reference, give what is written."""

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor, prod
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol import catalogue
from blockfl.protocol.rules import JUDGING
from reference import commitment as lattice
from reference import seal as naive
from reference.aggregation import combine_naively
from reference.canonical import encode_naively
from reference.economics import points as compute_points_naively
from reference.norms import judge_naively, judge_rules_naively
from reference.optimiser import step_naively
from reference.sums import add_naively, apply_naively
from reference.terms import (
    adapt_naively,
    compute_linf_squared_naively,
    compute_typical_naively,
    compute_weight_naively,
    fits_int16,
    limit_shares_naively,
    root_floor,
)
from support.vectors import DERIVATIONS, DIRECTORY, Document, list_record_kinds, read_vectors

CHUNK = 4 * 1024 * 1024


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record_naively(given: Document) -> Document:
    text = encode_naively(json.loads(given["text"]))
    return {"text": text.decode(), "digest": sha256(text)}


KEYS = {
    "task_key": "task/{}",
    "progress_key": "progress/{}",
    "committee_key_key": "committee-key/{}",
    "enrolment_key": "enrolment/{}/{}",
    "round_key": "round/{}/{:06}",
    "header_key": "header/{}/{:06}/{}",
    "update_key": "update/{}/{:06}/{}",
    "commitment_key": "commitment/{}/{:06}/{}",
    "equivocation_key": "equivocation/{}/{:06}/{}",
    "aggregate_key": "aggregate/{}/{:06}",
    "model_key": "model/{}/{:06}",
    "metrics_key": "metrics/{}/{:06}/{}",
    "appraisal_key": "appraisal/{}/{:06}",
    "sealed_chunk_key": "chunk/{}/{:06}/{}/{:06}",
    "account_key": "account/{}",
    "receipt_key": "receipt/{}/{}",
    "pace_key": "pace/{}",
    "standing_key": "standing/{}/{}",
    "score_key": "score/{}/{:06}",
    "settlement_key": "settlement/{}/{:06}",
    "model_chunk_key": "chunk/{}/{}",
    "vote_key": "vote/{}/{:06}/{}",
    "dispute_key": "dispute/{}/{:06}/{}/{}",
    "assessment_key": "assessment/{}/{:06}/{}/{}",
    "withdrawal_key": "withdrawal/{}/{}",
    "erasure_key": "erasure/{}/{}",
    "objection_key": "objection/{}/{:06}/{}/{}",
    "reversal_key": "reversal/{}/{:06}/{}",
}


def key_naively(given: Document) -> Document:
    return {"key": KEYS[given["what"]].format(*given["of"])}


def commitment_sum_naively(given: Document) -> Document:
    values = [sum(column) for column in zip(*(one["values"] for one in given["updates"]), strict=True)]
    expanded = [lattice.expand(bytes.fromhex(one["seed"])) for one in given["updates"]]
    randomness = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*expanded, strict=True)]
    flat = [*values, *(one for row in randomness for one in row)]
    return {
        "digest": sha256(lattice.commit(values, randomness)),
        "sum_digest": sha256(struct.pack(f"<{len(flat)}i", *flat)),
    }


def signature_naively(given: Document) -> Document:
    header = encode_naively(json.loads(given["signed_header"])["header"])
    der = base64.b64decode("".join(given["certificate"].splitlines()[1:-1]))
    return {"signed_bytes_digest": sha256(b"BLOCKFL-UPDATE-V1\x00" + header), "certificate_digest": sha256(der)}


def payload_naively(given: Document) -> Document:
    payload = b"".join(struct.pack("<h", value) for value in given["values"]) + bytes.fromhex(given["seed"])
    return {"payload": payload.hex(), "digest": sha256(payload)}


def seal_naively(given: Document) -> Document:
    payload = bytes.fromhex(given["payload"])
    key = naive.data_key(payload[-32:], given["place"], sha256(payload))
    publics = {
        one: X25519PrivateKey.from_private_bytes(bytes.fromhex(raw)).public_key().public_bytes_raw().hex()
        for one, raw in given["opening_keys"].items()
    }
    return {
        "chunks": [chunk.hex() for chunk in naive.chunks(key, given["place"], payload)],
        "wrapped_keys": [naive.wrap(key, given["place"], one, public) for one, public in publics.items()],
        "key_commitment": naive.commitment(key),
        "payload_digest": sha256(payload),
    }


def commitment_secret_naively(given: Document) -> Document:
    payload = bytes.fromhex(given["payload"])
    secret = naive.commitment_secret(payload[-32:], given["place"], sha256(payload))
    randomness = lattice.expand(secret)
    flat = [one for row in randomness for one in row]
    values = struct.unpack(f"<{len(payload) // 2 - 16}h", payload[:-32])
    return {
        "secret": secret.hex(),
        "randomness_digest": sha256(struct.pack(f"<{len(flat)}h", *flat)),
        "commitment_digest": sha256(lattice.commit(list(values), randomness)),
    }


def dispute_naively(given: Document) -> Document:
    """A right wrap is what the data key gives; a shown key counts if it is of a right one, or of the disputed one."""
    payload = bytes.fromhex(given["payload"])
    key = naive.data_key(payload[-32:], given["place"], sha256(payload))
    right = {one["organisation"]: one for one in seal_naively(given)["wrapped_keys"]}
    there = {one: wrap | given["changed"].get(one, {}) for one, wrap in right.items()}
    shown = X25519PrivateKey.from_private_bytes(bytes.fromhex(given["shown"])).public_key().public_bytes_raw().hex()
    of = [one for one, wrap in there.items() if wrap["encapsulation"] == shown]
    if any(there[one] == right[one] for one in of):
        outcome = "refuted" if there[given["member"]] == right[given["member"]] else "upheld"
    else:
        outcome = "upheld" if given["member"] in of else "BFL422"
    keys = {
        one: naive.ephemeral_key(key, given["place"], one, wrap["public_key"]).private_bytes_raw().hex()
        for one, wrap in right.items()
    }
    return {"ephemeral_keys": keys, "outcome": outcome}


def norm_terms_naively(given: Document) -> Document:
    power = Fraction(4) ** given["scale"]
    tensors, offset = [], 0
    for one in given["tensors"]:
        size = prod(one["shape"])
        if one["bound_l2_micro"]:
            bound = floor(power * Fraction(one["bound_l2_micro"], 10**6) ** 2)
            tensors.append({"tensor": one["tensor"], "offset": offset, "size": size, "l2_squared": str(bound)})
        offset += size
    return {
        "bound_l2_micro": given["bound_l2_micro"],
        "tensors": tensors,
        "minimum_l2_squared": str(ceil(power * Fraction(given["minimum_l2_micro"], 10**6) ** 2)),
        "minimum_cosine_micro": given["minimum_cosine_micro"] if given["has_last_sum"] else None,
        "typical_l2_micro": 0,
    }


def adaptive_bound_naively(given: Document) -> Document:
    typical = [compute_typical_naively([(a, b) for a, b in one["accepted"]], one["scale"]) for one in given["rounds"]]
    policy = (given["factor_permille"], given["floor_l2_micro"], given["bound_l2_micro"])
    return {"typical_l2_micro": typical, "bound_l2_micro": adapt_naively(typical, *policy)}


def terms_naively(given: Document) -> Document:
    largest = max(given["samples"].values())
    weights = {
        one: compute_weight_naively(samples, largest, given["samples_cap"], given["weight_cap"])
        for one, samples in given["samples"].items()
    }
    weights = limit_shares_naively(weights, given.get("weight_share_max_micro", 10**6))
    bound, dimension = given["bound_l2_micro"], given["dimension"]
    scale = max(s for s in range(-64, 65) if fits_int16(s, bound, max(weights.values()), dimension))
    power = Fraction(4) ** scale
    return {
        "weights": weights,
        "scale": scale,
        "bound_l2_squared": str(floor(power * Fraction(bound, 10**6) ** 2)),
        "bound_linf": root_floor(power * compute_linf_squared_naively(bound, dimension)),
    }


def verdict_naively(given: Document) -> Document:
    code = judge_naively(given["values"], given["weight"], int(given["bound_l2_squared"]), given["bound_linf"])
    if code is None and "norms" in given:
        rules = given["norms"]
        code = judge_rules_naively(
            given["values"],
            given["weight"],
            [(one["offset"], one["size"], int(one["l2_squared"])) for one in rules["tensors"]],
            int(rules["minimum_l2_squared"]),
            rules["minimum_cosine_micro"],
            given["last_sum"],
            rules.get("minimum_reference_cosine_micro"),
            given.get("reference", ()),
        )
    return {"code": code or ""}


def model_naively(given: Document) -> Document:
    header: dict[str, Any] = {}
    tensors: list[dict[str, Any]] = []
    offset = 0
    for one in given["tensors"]:
        size = len(one["values"]) // 2
        header[one["name"]] = {"dtype": "F32", "shape": one["shape"], "data_offsets": [offset, offset + size]}
        tensors.append({"name": one["name"], "dtype": "float32", "shape": one["shape"], "offset": offset // 4})
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + bytes.fromhex("".join(one["values"] for one in given["tensors"]))
    return {
        "file": data.hex(),
        "model_digest": sha256(data),
        "manifest_digest": sha256(encode_naively({"tensors": tensors})),
    }


def version_naively(given: Document) -> Document:
    state = [
        {"name": f"optimiser.{name}", "shape": [len(values) // 8], "values": values}
        for name, values in given["state"].items()
    ]
    file = model_naively({"tensors": given["tensors"] + state})
    return {"file": file["file"], "model_digest": file["model_digest"]}


def points_naively(given: Document) -> Document:
    vectors = given["known"] + given["updates"]
    return {
        "gram": [[sum(x * y for x, y in zip(a, b, strict=True)) for b in vectors] for a in vectors],
        "points": compute_points_naively(given["known"], given["updates"]),
    }


def aggregation_naively(given: Document) -> Document:
    raw = bytes.fromhex(given["base"])
    base = struct.unpack(f"<{len(raw) // 4}f", raw)
    total = add_naively(given["updates"])
    model = apply_naively(base, total, given["scale"], given["divisor"])
    return {
        "sum": struct.pack(f"<{len(total)}i", *total).hex(),
        "model": struct.pack(f"<{len(model)}f", *model).hex(),
    }


def effect_naively(given: Document) -> Document:
    rises = given["rises_micro"]
    against = [rise for rise in rises if rise > given["tolerance_micro"]]
    return {"rejected": len(rises) > given["assessors"] / 2 and len(against) > len(rises) / 2}


def combination_naively(given: Document) -> Document:
    parameters, count = given["aggregation"], len(given["updates"])
    divisors = {
        "median": 2,
        "trimmed_mean": count - 2 * parameters.get("trim", 0),
        "krum": 1,
        "norm_clipped_mean": count,
        "trusted_mean": count,
    }
    return {
        "x": combine_naively(parameters, given["updates"], given["scale"], given.get("reference")),
        "divisor": divisors.get(parameters["rule"], parameters.get("selected")),
    }


def optimiser_naively(given: Document) -> Document:
    raw = bytes.fromhex(given["base"])
    elements = [{"model": value} for value in struct.unpack(f"<{len(raw) // 4}f", raw)]
    versions = []
    for one in given["rounds"]:
        elements = [
            dict(step_naively(given["optimiser"], element, x, one["scale"], one["divisor"]))
            for element, x in zip(elements, one["x"], strict=True)
        ]
        versions.append(
            {
                name: struct.pack(f"<{len(elements)}f", *(element[name] for element in elements)).hex()
                for name in elements[0]
            }
        )
    return {"versions": versions}


def blob_naively(given: Document) -> Document:
    data = bytes.fromhex(given["byte"]) * given["size_bytes"]
    return {
        "digest": sha256(data),
        "size_bytes": len(data),
        "chunks": [sha256(data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)],
    }


def commitment_naively(given: Document) -> Document:
    randomness = lattice.expand(bytes.fromhex(given["seed"]))
    commitment = lattice.commit(given["values"], randomness)
    return {
        "randomness_begins": randomness[0][:4],
        "commitment_begins": commitment[:32].hex(),
        "digest": sha256(commitment),
    }


REFERENCES: dict[str, Callable[[Document], Document]] = {
    "records": record_naively,
    "credits": record_naively,
    "keys": key_naively,
    "commitment-sums": commitment_sum_naively,
    "signatures": signature_naively,
    "payloads": payload_naively,
    "seals": seal_naively,
    "commitment-secrets": commitment_secret_naively,
    "disputes": dispute_naively,
    "terms": terms_naively,
    "norm-terms": norm_terms_naively,
    "adaptive-bounds": adaptive_bound_naively,
    "verdicts": verdict_naively,
    "models": model_naively,
    "versions": version_naively,
    "points": points_naively,
    "aggregations": aggregation_naively,
    "combinations": combination_naively,
    "effects": effect_naively,
    "optimisers": optimiser_naively,
    "blobs": blob_naively,
    "commitments": commitment_naively,
}
CASES = [
    pytest.param(name, case["given"], case["gives"], id=f"{name}: {case['name']}")
    for name in DERIVATIONS
    for case in read_vectors(name)
]


@pytest.mark.parametrize(("name", "given", "gives"), CASES)
def test_our_code_gives_the_vector(name: str, given: Document, gives: Document) -> None:
    assert DERIVATIONS[name](given) == gives


@pytest.mark.parametrize(("name", "given", "gives"), CASES)
def test_the_naive_reference_gives_the_vector(name: str, given: Document, gives: Document) -> None:
    assert REFERENCES[name](given) == gives


def test_every_file_of_vectors_is_used() -> None:
    files = {path.stem for path in DIRECTORY.glob("*.json")}
    assert set(DERIVATIONS) == set(REFERENCES) == files - {"hpke", "schemas"}


def test_every_record_of_the_ledger_has_a_vector() -> None:
    """Parts of records are covered by the records that hold them."""
    parts = {
        "Blob",
        "Deadlines",
        "Effect",
        "Ending",
        "Goal",
        "Member",
        "Metric",
        "Participant",
        "Recipient",
        "RoundEffect",
        "RoundReferee",
        "Training",
        "WrappedKey",
    }
    assert {case["given"]["record"] for case in read_vectors("records")} == list_names(
        "records", "claims", "goal", "metrics", "task", "assessment"
    ) - parts


def test_every_record_of_credits_has_a_vector() -> None:
    parts = {"Economics", "Credit", "Outcome", "Payment"}
    assert {case["given"]["record"] for case in read_vectors("credits")} == list_names("economics") - parts


def list_names(*modules: str) -> set[str]:
    """The kinds of record that these modules of the protocol define."""
    places = {f"blockfl.protocol.{one}" for one in modules}
    return {name for name, kind in list_record_kinds().items() if kind.__module__ in places}


def test_every_rule_about_values_has_a_verdict() -> None:
    codes = [rule.code.identifier for rule in JUDGING]
    rules = codes[codes.index("BFL415") : codes.index("BFL423") + 1]
    assert {case["gives"]["code"] for case in read_vectors("verdicts")} == {"", *rules}


def test_every_key_has_a_vector() -> None:
    cases = read_vectors("keys")
    assert {case["gives"]["key"].partition("/")[0] for case in cases} == {
        "chunk", *(one.prefix for one in catalogue.RECORDS.values() if one.parts.names)
    }  # fmt: skip
