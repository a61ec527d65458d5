"""A small federation for tests of the protocol: four institutions, a committee of three, an open round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.blob import split_blob
from blockfl.protocol.model import encode_model, manifest_of
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.payload import INT16, EncodingName
from blockfl.protocol.records import CommitteeKey, Consortium, Enrolment, Header, Member, Progress, Round, SignedHeader
from blockfl.protocol.round import create_task, open_round
from blockfl.protocol.seal import Sealed, encode_public_key, seal
from blockfl.protocol.submission import compose_place, compose_update, compute_certificate_digest, sign_header
from blockfl.protocol.table import Column, Table
from blockfl.protocol.task import Deadlines, Task, TaskSpec
from blockfl.protocol.training import Cosine, Phase, Training

INSTITUTIONS = ("alpha", "beta", "delta", "gamma")
COMMITTEE = ("coordinator", "regulator", "university")
SAMPLES = {"alpha": 199, "beta": 172, "delta": 85, "gamma": 30}
NOW_MS = 1_800_000_000_000
ALL_NORMS = NormRules(
    tensors=(
        TensorBound(tensor="dense/kernel", bound_l2_micro=900_000),
        TensorBound(tensor="dense/bias", bound_l2_micro=250_000),
    ),
    minimum_l2_micro=1_000,
    minimum_cosine_micro=-500_000,
    adaptive=AdaptiveBound(rounds=3, factor_permille=1500, floor_l2_micro=100_000),
)
"""Every norm rule, for a model with these two tensors."""


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Records of one task with an open round, and everybody's keys."""

    consortium: Consortium
    task: Task
    progress: Progress
    keys: tuple[CommitteeKey, ...]
    enrolments: tuple[Enrolment, ...]
    round: Round
    initial_model: bytes
    opening_keys: dict[str, X25519PrivateKey]
    signing_keys: dict[str, ec.EllipticCurvePrivateKey]
    certificates: dict[str, str]

    @property
    def dimension(self) -> int:
        """Of the task's model."""
        return self.task.spec.manifest.dimension

    def seal(self, organisation: str, values: npt.NDArray[np.int16], seed: bytes = bytes(range(32))) -> Sealed:
        """Seal values for the round's committee."""
        place = compose_place(self.consortium, self.round, organisation)
        return seal(INT16.encode_payload(values, seed), seed, place, self.round.committee)

    def update(
        self, organisation: str, values: npt.NDArray[np.int16], seed: bytes = bytes(range(32))
    ) -> tuple[Header, tuple[bytes, ...]]:
        """Return the header and the chunks of an update."""
        composed = compose_update(self.consortium, self.task, self.round, organisation, values, seed)
        return composed.header, composed.chunks

    def sign(self, header: Header) -> SignedHeader:
        """Sign a header with its organisation's key."""
        return sign_header(header, self.signer(header.organisation))

    def signer(self, organisation: str) -> Callable[[bytes], bytes]:
        """Return the function that signs for an organisation."""
        return lambda message: self.signing_keys[organisation].sign(
            message, ec.ECDSA(SHA256(), deterministic_signing=True)
        )


def _make_keys() -> tuple[dict[str, X25519PrivateKey], dict[str, ec.EllipticCurvePrivateKey]]:
    """Return the committee's opening keys and the institutions' signing keys."""
    opening_keys = {
        name: X25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number, name in enumerate(COMMITTEE, 1)
    }
    signing_keys = {
        name: ec.derive_private_key(number + 100, ec.SECP256R1()) for number, name in enumerate(INSTITUTIONS)
    }
    return opening_keys, signing_keys


def make_federation(
    *,
    shape: Sequence[int] = (3, 4),
    bound_l2_micro: int = 1_000_000,
    weight_cap: int = 3,
    rounds: int = 12,
    minimum_accepted: int = 3,
    check: Literal["commitment", "recompute"] = "commitment",
    norms: NormRules | None = None,
    encoding: EncodingName = "int16",
) -> Federation:
    """Make a federation; keys, certificates and signatures are the same every time."""
    arrays = {"dense/kernel": np.zeros(tuple(shape), dtype=np.float32), "dense/bias": np.ones(2, dtype=np.float32)}
    manifest = manifest_of(arrays)
    initial_model = encode_model(manifest, np.linspace(-1, 1, manifest.dimension, dtype=np.float32))
    spec = TaskSpec(
        task="heart",
        title="Heart disease",
        manifest=manifest,
        initial_model=split_blob(initial_model)[0],
        encoding=encoding,
        aggregation=FEDAVG,
        check=check,
        aggregator="coordinator",
        institutions=INSTITUTIONS,
        rounds=rounds,
        minimum_accepted=minimum_accepted,
        bound_l2_micro=bound_l2_micro,
        weight_cap=weight_cap,
        samples_cap=1000,
        norms=norms,
        deadlines=Deadlines(submit_s=60, judge_s=30, publish_s=120),
        training=Training(epochs=1, batch_size=16, learning_rate_micro=0),
    )
    consortium = make_consortium()
    task, progress, _ = create_task(spec, "coordinator", NOW_MS)
    opening_keys, signing_keys = _make_keys()
    certificates = {name: make_certificate(name, key, deterministic=True) for name, key in signing_keys.items()}
    keys = tuple(
        CommitteeKey(organisation=name, public_key=encode_public_key(key), registered_at_ms=NOW_MS)
        for name, key in opening_keys.items()
    )
    enrolments = tuple(make_enrolment(name, certificates[name], SAMPLES[name]) for name in INSTITUTIONS)
    round_ = open_round(task, progress, None, consortium, keys, enrolments, number=1, now_ms=NOW_MS)
    return Federation(
        consortium=consortium,
        task=task,
        progress=progress,
        keys=keys,
        enrolments=enrolments,
        round=round_,
        initial_model=initial_model,
        opening_keys=opening_keys,
        signing_keys=signing_keys,
        certificates=certificates,
    )


def make_table() -> Table:
    """Return columns of every kind, with everything that a column can say."""
    age = Column(
        name="age", kind="number", unit="years", minimum_micro=0, maximum_micro=120_000_000, missing_micro=50_000_000,
        center_micro=50_000_000, scale_micro=10_000_000,
    )  # fmt: skip
    pain = Column(name="pain", kind="category", values=("typical", "none", ""))
    label = Column(name="sick", kind="ordinal", values=("no", "yes"))
    return Table(columns=(age, pain), label=label)


def make_training() -> Training:
    """Return training with everything that a task can say of single rounds."""
    return Training(
        epochs=2,
        batch_size=16,
        learning_rate_micro=100_000,
        schedule=Cosine(rounds=12, end_micro=1000),
        proximal_micro=10_000,
        phases=(Phase(first_round=5, epochs=1), Phase(first_round=9, batch_size=32, proximal_micro=0)),
    )


def make_consortium() -> Consortium:
    """Return the default consortium of seven."""
    members = dict.fromkeys(INSTITUTIONS, ("institution",)) | {
        "coordinator": ("committee", "coordinator"),
        "regulator": ("committee",),
        "university": ("committee",),
    }
    return Consortium.model_validate(
        {
            "network": "heart-network",
            "channel": "federation",
            "contract": "blockfl",
            "sequence": 1,
            "members": tuple(
                Member.model_validate({"organisation": one, "roles": members[one]}) for one in sorted(members)
            ),
            "threshold": 2,
        }
    )


def make_enrolment(organisation: str, certificate: str, samples: int) -> Enrolment:
    """Return an enrolment in the task of the federation."""
    return Enrolment(
        task="heart",
        organisation=organisation,
        samples=samples,
        certificate=certificate,
        certificate_digest=compute_certificate_digest(certificate),
        enrolled_at_ms=NOW_MS,
    )


def make_certificate(
    organisation: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey | None = None,
    *,
    deterministic: bool = False,
) -> str:
    """Return a certificate (self-signed unless told otherwise) in PEM; another each time unless deterministic."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, organisation)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
        .sign(signer or key, SHA256(), ecdsa_deterministic=deterministic)
    )
    return certificate.public_bytes(Encoding.PEM).decode()
