"""Vectors of the formats: what our code gives for the inputs in ``tests/vectors``.

To write them anew after a deliberate change of a format: ``PYTHONPATH=tests python -m support.vectors``.
"""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import TypeAdapter

from blockfl.protocol import catalogue
from blockfl.protocol import seal as seal_rules
from blockfl.protocol.aggregation import Aggregation, combine, drive
from blockfl.protocol.aggregation_arithmetic import REFERENCE
from blockfl.protocol.assessment import RoundEffect
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import Record, compute_digest
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.commitment import add_commitments, compute_commitment, expand_randomness, verify_sum
from blockfl.protocol.disclosure import limit_shares
from blockfl.protocol.dispute import claim_wrap, settle_claim
from blockfl.protocol.effect import is_harmful
from blockfl.protocol.evidence import RoundEvidence
from blockfl.protocol.judging import judge_values
from blockfl.protocol.model import compute_model_digest, encode_model, flatten, manifest_of
from blockfl.protocol.norm_rules import MICRO, AdaptiveBound, NormRules, RoundNorms, TensorBound
from blockfl.protocol.opening import derive_opening
from blockfl.protocol.optimiser import Optimiser
from blockfl.protocol.payload import INT16
from blockfl.protocol.records import Recipient, SignedHeader, WrappedKey
from blockfl.protocol.rule import require
from blockfl.protocol.scoring import compute_gram, compute_points
from blockfl.protocol.seal import SealPlace, encode_public_key, seal
from blockfl.protocol.status import TaskStatus
from blockfl.protocol.submission import compute_certificate_digest, signing_bytes, verify_header_signature
from blockfl.protocol.sums import Sum, apply_sum, decode_randomness
from blockfl.protocol.terms import adapt_bound, compute_bounds, compute_typical, compute_weights, freeze_norms
from blockfl.protocol.value_rules import VALUE_RULES, Candidate
from blockfl.protocol.version import ModelFile, apply_step, decode_version, encode_version
from support.credit_examples import make_credit_examples
from support.federation import make_federation
from support.record_examples import make_examples
from support.refusal import code_of

DIRECTORY: Final = Path(__file__).parents[1] / "vectors"
Document = dict[str, Any]


def derive_record(given: Document) -> Document:
    """Canonical text → the digest of the record that it decodes to."""
    record = list_record_kinds()[given["record"]].decode(given["text"].encode())
    return {"text": record.encode().decode(), "digest": record.record_digest}


def derive_key(given: Document) -> Document:
    """What stands on the ledger → where."""
    make = getattr(catalogue, given["what"], None) or getattr(catalogue, given["what"].removesuffix("_key").upper()).key
    return {"key": make(*given["of"])}


def derive_commitment_sum(given: Document) -> Document:
    """Values and seeds of updates → the sum of their commitments, which opens to the sum of both."""
    openings = [
        (np.array(one["values"], dtype=np.int16), expand_randomness(bytes.fromhex(one["seed"])))
        for one in given["updates"]
    ]
    commitments = [compute_commitment(values, randomness) for values, randomness in openings]
    total = Sum(len(openings[0][0]), committed=True)
    for values, randomness in openings:
        total.add(values, randomness)
    verify_sum(total.values, decode_randomness(total.encode(), len(total.values)), commitments)
    return {"digest": compute_digest(add_commitments(commitments)), "sum_digest": compute_digest(total.encode())}


def derive_signature(given: Document) -> Document:
    """Signed header and certificate → what was signed, once the signature is verified."""
    signed = SignedHeader.decode(given["signed_header"].encode())
    verify_header_signature(signed, given["certificate"])
    return {
        "signed_bytes_digest": compute_digest(signing_bytes(signed.header)),
        "certificate_digest": compute_certificate_digest(given["certificate"]),
    }


def derive_payload(given: Document) -> Document:
    """Values and seed → the payload."""
    payload = INT16.encode_payload(np.array(given["values"], dtype=np.int16), bytes.fromhex(given["seed"]))
    return {"payload": payload.hex(), "digest": compute_digest(payload)}


def derive_seal(given: Document) -> Document:
    """Payload, place and the members' opening keys → the sealed update."""
    keys = {one: X25519PrivateKey.from_private_bytes(bytes.fromhex(key)) for one, key in given["opening_keys"].items()}
    recipients = [Recipient(organisation=one, public_key=encode_public_key(key)) for one, key in keys.items()]
    payload = bytes.fromhex(given["payload"])
    sealed = seal(payload, payload[-32:], SealPlace.model_validate(given["place"]), recipients)
    return {
        "chunks": [chunk.hex() for chunk in sealed.chunks],
        "wrapped_keys": [one.model_dump(mode="json") for one in sealed.wrapped_keys],
        "key_commitment": sealed.key_commitment,
        "payload_digest": sealed.payload_digest,
    }


def derive_commitment_secret(given: Document) -> Document:
    """Payload and place → the secret behind the commitment, and the randomness that it gives."""
    payload = bytes.fromhex(given["payload"])
    sealed_place = SealPlace.model_validate(given["place"])
    secret = seal_rules.derive_commitment_secret(payload[-32:], sealed_place, compute_digest(payload))
    opening = derive_opening(
        np.frombuffer(payload[:-32], dtype="<i2"), payload[-32:], sealed_place, compute_digest(payload)
    )
    return {
        "secret": secret.hex(),
        "randomness_digest": compute_digest(opening.randomness.astype("<i2").tobytes()),
        "commitment_digest": compute_digest(opening.commit()),
    }


def derive_dispute(given: Document) -> Document:
    """A sealed update with wraps changed, a claim and a shown key → every right ephemeral key, and who was right."""
    sealed = derive_seal(given)
    wraps = [one | given["changed"].get(one["organisation"], {}) for one in sealed["wrapped_keys"]]
    federation = make_federation()
    header, _ = federation.update("alpha", np.zeros(federation.dimension, dtype=np.int16))
    fields = {name: sealed[name] for name in ("key_commitment", "payload_digest")}
    header = header.model_copy(
        update={**given["place"], **fields, "wrapped_keys": tuple(WrappedKey.model_validate(one) for one in wraps)}
    )
    payload, sealed_place = bytes.fromhex(given["payload"]), SealPlace.model_validate(given["place"])
    data_key = seal_rules.derive_data_key(payload[-32:], sealed_place, sealed["payload_digest"])
    keys = {one.organisation: seal_rules.derive_ephemeral_key_of(header, data_key, one) for one in header.wrapped_keys}
    claim = claim_wrap(header, given["member"], 1)
    try:
        outcome: str = settle_claim(claim, header, bytes.fromhex(given["shown"]), "alpha", 2).state
    except ProtocolError as error:
        outcome = error.code.identifier
    return {
        "ephemeral_keys": {one: key.private_bytes_raw().hex() for one, key in keys.items()},
        "outcome": outcome,
    }


def derive_norm_terms(given: Document) -> Document:
    """Norm rules and a scale → the integers that a round freezes."""
    manifest = manifest_of({one["tensor"]: np.zeros(one["shape"], np.float32) for one in given["tensors"]})
    bounds = tuple(
        TensorBound(tensor=one["tensor"], bound_l2_micro=one["bound_l2_micro"])
        for one in given["tensors"]
        if one["bound_l2_micro"]
    )
    rules = NormRules(
        tensors=bounds,
        minimum_l2_micro=given["minimum_l2_micro"],
        minimum_cosine_micro=given["minimum_cosine_micro"],
        adaptive=None,
    )
    spec = make_federation().task.spec.model_copy(update={"manifest": manifest, "norms": rules})
    frozen = freeze_norms(
        spec, given["bound_l2_micro"], scale=given["scale"], has_last_sum=given["has_last_sum"], has_referee=False
    )
    assert frozen is not None
    return frozen.model_dump(mode="json")


def derive_adaptive_bound(given: Document) -> Document:
    """Bit lengths and weights that rounds accepted → their typical norms, and the bound of the next round."""
    typical = [compute_typical([(one[0], one[1]) for one in of["accepted"]], of["scale"]) for of in given["rounds"]]
    adaptive = AdaptiveBound(
        rounds=len(typical), factor_permille=given["factor_permille"], floor_l2_micro=given["floor_l2_micro"]
    )
    return {"typical_l2_micro": typical, "bound_l2_micro": adapt_bound(adaptive, given["bound_l2_micro"], typical)}


def derive_terms(given: Document) -> Document:
    """Samples, caps, perhaps a largest share, and bound → weights, scale and integer bounds."""
    weights = compute_weights(given["samples"], samples_cap=given["samples_cap"], weight_cap=given["weight_cap"])
    weights = limit_shares(weights, given.get("weight_share_max_micro", MICRO))
    bounds = compute_bounds(
        given["bound_l2_micro"], weight_max=max(weights.values()), dimension=given["dimension"], encoding=INT16
    )
    return {
        "weights": weights,
        "scale": bounds.scale,
        "bound_l2_squared": str(bounds.l2_squared),
        "bound_linf": bounds.linf,
    }


def derive_verdict(given: Document) -> Document:
    """Values, weight, bounds and norm rules if there are any → the code of the first broken rule, empty if none is."""
    values = np.array(given["values"], dtype=np.int16)

    def judge() -> None:
        bounds = {"bound_l2_squared": int(given["bound_l2_squared"]), "bound_linf": given["bound_linf"]}
        judge_values(values, dimension=len(values), weight=given["weight"], **bounds)
        if "norms" in given:
            fields = {"bound_l2_micro": 1, "typical_l2_micro": 0} | given["norms"]
            rules = RoundNorms.model_validate_json(json.dumps(fields))
            last_sum = np.array(given["last_sum"], dtype=np.int32)
            reference = np.array(given["reference"], dtype=np.int16) if "reference" in given else None
            require(
                VALUE_RULES,
                Candidate(
                    values=values,
                    weight=given["weight"],
                    scale=0,
                    limits=rules,
                    last_sum=last_sum,
                    reference=reference,
                    **bounds,
                ),
            )

    code = code_of(judge)
    return {"code": code.identifier if code else ""}


def derive_model(given: Document) -> Document:
    """Named tensors (float32, little-endian hex) → the model file."""
    arrays = {
        one["name"]: np.frombuffer(bytes.fromhex(one["values"]), dtype="<f4").reshape(one["shape"])
        for one in given["tensors"]
    }
    manifest = manifest_of(arrays)
    data = encode_model(manifest, flatten(manifest, arrays))
    return {
        "file": data.hex(),
        "model_digest": compute_model_digest(data),
        "manifest_digest": manifest.record_digest,
    }


def derive_version(given: Document) -> Document:
    """Named tensors, an optimiser and its state (float32, little-endian hex) → the model file of a version."""
    arrays = {
        one["name"]: np.frombuffer(bytes.fromhex(one["values"]), dtype="<f4").reshape(one["shape"])
        for one in given["tensors"]
    }
    manifest = manifest_of(arrays)
    optimiser: Optimiser = TypeAdapter(Optimiser).validate_python(given["optimiser"])
    spec = make_federation().task.spec.model_copy(update={"manifest": manifest, "optimiser": optimiser})
    state = {name: np.frombuffer(bytes.fromhex(one), dtype="<f4") for name, one in given["state"].items()}
    data = encode_version(spec, ModelFile(model=flatten(manifest, arrays), state=state))
    assert decode_version(spec, data).state.keys() == state.keys()
    return {"file": data.hex(), "model_digest": compute_model_digest(data)}


def derive_points(given: Document) -> Document:
    """Known sums and accepted updates → all dot products, and the points of each update."""
    vectors = [np.array(one, dtype=np.int32) for one in given["known"]]
    vectors += [np.array(one, dtype=np.int16) for one in given["updates"]]
    gram = compute_gram(vectors)
    points = compute_points(gram, known=len(given["known"]), dimension=len(given["updates"][0]))
    return {"gram": [list(row) for row in gram], "points": list(points)}


def derive_aggregation(given: Document) -> Document:
    """Base (float32, little-endian hex), updates, scale and divisor → the sum and the next model."""
    base = np.frombuffer(bytes.fromhex(given["base"]), dtype="<f4").astype(np.float32)
    total = Sum(len(base))
    for values in given["updates"]:
        total.add(np.array(values, dtype=np.int16))
    model = apply_sum(base, total.values, scale=given["scale"], divisor=given["divisor"])
    return {"sum": total.encode().hex(), "model": model.astype("<f4").tobytes().hex()}


def derive_combination(given: Document) -> Document:
    """Updates, a rule and perhaps a referee's update → X and its divisor."""
    updates = np.array(given["updates"], dtype=np.int16)
    rule: Aggregation = TypeAdapter(Aggregation).validate_python(given["aggregation"])
    reference = np.array(given["reference"], dtype=np.int16) if "reference" in given else None
    count, dimension = updates.shape
    has_reference = reference is not None
    combination = combine(rule, dimension=dimension, count=count, scale=given["scale"], has_reference=has_reference)
    x = drive(combination, lambda index: reference if index == REFERENCE and reference is not None else updates[index])
    return {"x": x.tolist(), "divisor": rule.traits.divisor(len(updates))}


def derive_effect(given: Document) -> Document:
    """The number of assessors, the tolerance, and the rises that some measured → whether the update is rejected."""
    effect = RoundEffect(
        assessors=tuple(f"m{index}" for index in range(given["assessors"])),
        tolerance_micro=given["tolerance_micro"],
        harmful=(),
    )
    return {"rejected": is_harmful(effect, given["rises_micro"])}


def derive_optimiser(given: Document) -> Document:
    """Base model, optimiser and the X of some rounds → model and state after each."""
    optimiser: Optimiser = TypeAdapter(Optimiser).validate_python(given["optimiser"])
    version = ModelFile(model=np.frombuffer(bytes.fromhex(given["base"]), dtype="<f4"))
    versions = []
    for one in given["rounds"]:
        x = np.array(one["x"], dtype=np.int32)
        version = apply_step(optimiser, version, x, scale=one["scale"], divisor=one["divisor"])
        vectors = {"model": version.model, **version.state}
        versions.append({name: vector.astype("<f4").tobytes().hex() for name, vector in vectors.items()})
    return {"versions": versions}


def derive_commitment(given: Document) -> Document:
    """Values and the secret seed of the randomness → the commitment."""
    randomness = expand_randomness(bytes.fromhex(given["seed"]))
    commitment = compute_commitment(np.array(given["values"], dtype=np.int16), randomness)
    return {
        "randomness_begins": randomness[0, :4].tolist(),
        "commitment_begins": commitment[:32].hex(),
        "digest": compute_digest(commitment),
    }


def derive_blob(given: Document) -> Document:
    """A byte and a number → the blob of the byte so many times."""
    blob, _ = split_blob(bytes.fromhex(given["byte"]) * given["size_bytes"])
    return blob.model_dump(mode="json")


_WORDS: Final = ("title", "description")
"""What a schema says in words, which is no limit."""
DERIVATIONS: Final[dict[str, Callable[[Document], Document]]] = {
    "records": derive_record,
    "credits": derive_record,
    "keys": derive_key,
    "commitment-sums": derive_commitment_sum,
    "signatures": derive_signature,
    "payloads": derive_payload,
    "seals": derive_seal,
    "commitment-secrets": derive_commitment_secret,
    "disputes": derive_dispute,
    "terms": derive_terms,
    "norm-terms": derive_norm_terms,
    "adaptive-bounds": derive_adaptive_bound,
    "verdicts": derive_verdict,
    "models": derive_model,
    "versions": derive_version,
    "points": derive_points,
    "aggregations": derive_aggregation,
    "combinations": derive_combination,
    "effects": derive_effect,
    "optimisers": derive_optimiser,
    "blobs": derive_blob,
    "commitments": derive_commitment,
}


def read_vectors(name: str) -> list[Document]:
    """Return the cases of one file: each with ``given`` and ``gives``."""
    cases: list[Document] = json.loads((DIRECTORY / f"{name}.json").read_text())["cases"]
    return cases


def make_inputs(name: str) -> list[Document]:
    """Return the inputs of one file: made from the federation where they hold records, otherwise as they are."""
    federation = make_federation()
    examples = make_examples(federation)
    if name == "records":
        return [
            {"name": case, "given": {"record": type(one).__name__, "text": one.encode().decode()}}
            for case, one in examples.items()
        ]
    if name == "credits":
        return [
            {"name": case, "given": {"record": type(one).__name__, "text": one.encode().decode()}}
            for case, one in make_credit_examples().items()
        ]
    if name == "signatures":
        signed = examples["signed header"].encode().decode()
        return [{"name": "alpha", "given": {"signed_header": signed, "certificate": federation.certificates["alpha"]}}]
    return [{"name": case["name"], "given": case["given"]} for case in read_vectors(name)]


def list_record_kinds() -> dict[str, type[Record]]:
    """Return every kind of record and of its parts, by name."""
    # What is on no ledger the catalogue does not name.
    found: list[type[Record]] = [Record, TaskStatus, RoundEvidence]
    for kind in found:
        found += [one for one in kind.__subclasses__() if one not in found]
    kinds = [one for one in found if one.__module__.startswith("blockfl.protocol.") and ABC not in one.__bases__]
    return {one.__name__: one for one in kinds if one is not Record}


def describe_limits(kind: type[Record]) -> Document:
    """Return what a kind of record takes in each field, as JSON schema; its parts have descriptions of their own."""
    schema = kind.model_json_schema()
    return {"fields": _strip(schema.get("properties", {})), "required": schema.get("required", [])}


def _strip(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strip(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _strip(one) for key, one in schema.items() if key not in _WORDS or not isinstance(one, str)}


def write_schemas() -> None:
    """Write the limits of all records anew."""
    schemas = {name: describe_limits(kind) for name, kind in sorted(list_record_kinds().items())}
    (DIRECTORY / "schemas.json").write_text(f"{json.dumps(schemas, indent=1, ensure_ascii=False)}\n")


def write_vectors() -> None:
    """Write every file anew."""
    write_schemas()
    for name, derive in DERIVATIONS.items():
        cases = [case | {"gives": derive(case["given"])} for case in make_inputs(name)]
        text = json.dumps({"cases": cases}, indent=1, ensure_ascii=False)
        (DIRECTORY / f"{name}.json").write_text(f"{text}\n")


if __name__ == "__main__":
    write_vectors()
