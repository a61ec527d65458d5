"""A world in which everything happens the same way every time, and that keeps all that happens.

It gives two things: a transcript that people read (``tests/transcripts``), and the calls themselves, which other
processes make again to see whether the contract gives the same bytes there (``support.replication``).
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from blockfl.fabric.identity.signing import Identity, Signer, low_s
from support.federation import NOW_MS, make_certificate
from support.world import VALID, Invalid, Refused, Simulation, Transaction, World

_SHOWN: Final = 32
_SHOWN_RECORD: Final = 300
_CUT: Final = 12
_WIDTH: Final = 120
_HEX: Final = re.compile(r"[0-9a-f]+")


class SteadySigner(Signer):
    """Signs the same bytes the same way every time."""

    def sign(self, message: bytes) -> bytes:
        """Sign with ECDSA, its nonce derived from the message."""
        assert isinstance(self.private_key, ec.EllipticCurvePrivateKey)
        return low_s(self.private_key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))


@dataclass(frozen=True)
class Call:
    """What one peer was asked to simulate, and what came of it: a simulation, or the text of a refusal."""

    peer: str
    creator: bytes
    arguments: tuple[bytes, ...]
    transient: dict[str, bytes]
    timestamp_ms: int
    simulation: Simulation | None
    refusal: str


class Chronicle(World):
    """A world that keeps what happens.

    Attributes:
        lines: The transcript.
        calls: Every simulation.
        steps: In the order of their happening: ``("call", index of the call)``, or ``("commit", index of the call whose
            simulation was committed, endorsers, code)``.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls: list[Call] = []
        self.steps: list[tuple[Any, ...]] = []
        super().__init__()

    def add_organisation(self, name: str, number: int) -> None:
        """Give an organisation a client that signs steadily, and a contract service."""
        key = ec.derive_private_key(number + 100, ec.SECP256R1())
        identity = Identity(msp_id=name, certificate_pem=make_certificate(name, key, deterministic=True).encode())
        self.signers[name] = SteadySigner(identity, key)
        self.configure(name, self.consortium)

    def say(self, text: str) -> None:
        """Put a heading into the transcript."""
        self.lines += ["", f"== {text}", ""]

    async def simulate(
        self,
        peer: str,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        identity: Identity | None = None,
        timestamp_ms: int | None = None,
        raw: Sequence[bytes] | None = None,
    ) -> Simulation:
        """Run the contract at one peer, and keep what came of it."""
        words = [one.encode() if isinstance(one, str) else one for one in (function, *arguments)]
        said = tuple(words if raw is None else raw)
        simulation: Simulation | None = None
        refusal = ""
        try:
            simulation = await super().simulate(
                peer, creator, "", transient=transient, identity=identity, timestamp_ms=timestamp_ms, raw=said
            )
            return simulation
        except Refused as refused:
            refusal = refused.text
            raise
        finally:
            self.steps.append(("call", len(self.calls)))
            self.calls.append(
                Call(
                    peer=peer,
                    creator=(identity or self.signers[creator].identity).serialized,
                    arguments=said,
                    transient=dict(transient or {}),
                    timestamp_ms=self.now_ms if timestamp_ms is None else timestamp_ms,
                    simulation=simulation,
                    refusal=refusal,
                )
            )

    async def submit(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Transaction:
        """Endorse and commit, and write down what happened."""
        seconds = (self.now_ms - NOW_MS) / 1000
        shown = " ".join(_show(one) for one in arguments)
        chunks = "".join(f" {name}: {_describe(value)}" for name, value in (transient or {}).items())
        self.lines.append(f"{seconds:+.3f} s  {creator}: {function} {shown}".rstrip() + chunks)
        before = {key: cell.value for (collection, key), cell in self.snapshot().items() if not collection}
        try:
            transaction = await super().submit(creator, function, *arguments, transient=transient, endorsers=endorsers)
        except Refused as refusal:
            self.lines.append(f"    refused: {refusal.text}")
            raise
        except Invalid as invalid:
            self.lines.append(f"    invalid: {invalid.code}")
            raise
        self._tell(transaction, before)
        return transaction

    def commit(self, transaction: Transaction) -> str:
        """Validate and apply a transaction, and keep that."""
        code = super().commit(transaction)
        index = next(i for i, call in enumerate(self.calls) if call.simulation is transaction.simulation)
        self.steps.append(("commit", index, transaction.endorsers, code))
        return code

    def _tell(self, transaction: Transaction, before: Mapping[str, bytes]) -> None:
        simulation = transaction.simulation
        if not simulation.writes:
            self.lines.append("    nothing new: answered with what is on the ledger")
            return
        self.lines.append(f"    endorsed by {', '.join(transaction.endorsers)}; {VALID}")
        for (collection, key), value in simulation.writes.items():
            place = f"{collection}: {key}" if collection else key
            self.lines.append(f"    {place} = {_describe(value) if collection else _change(before.get(key), value)}")
        for key in simulation.policies:
            count, names = self.policy(key) or (0, ())
            self.lines.append(f"    from now on {key} needs {count} of {', '.join(names)}")
        name, _, notice = simulation.event.partition(b"\0")
        said = {key: value for key, value in json.loads(notice).items() if value}
        self.lines.append(f"    event {name.decode()} {_render(said)}")

    def transcript(self) -> str:
        """Everything so far."""
        wrapped = [
            textwrap.fill(line, _WIDTH, subsequent_indent=" " * 12, break_long_words=False, break_on_hyphens=False)
            for line in self.lines
        ]
        return "\n".join(wrapped).strip() + "\n"


def _show(value: str | bytes) -> str:
    """A word as it is, a record in short; what was sent and is not short, by its size."""
    text = value if isinstance(value, str) else value.decode()
    if not text.startswith(("{", "[")):
        return _render(text)
    shown = _render(json.loads(text))
    return shown if len(shown) <= _SHOWN_RECORD else _describe(text.encode())


def _render(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_render(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_render, value)) + "]"
    if value is None:
        return "none"
    return _cut(value) if isinstance(value, str) else str(value)


def _cut(text: str) -> str:
    """Digests, keys and certificates by their beginning; what cannot be told apart by it, by its digest, too."""
    if len(text) <= _SHOWN or (" " in text and not text.startswith("-----")):
        return text or "-"
    if _HEX.fullmatch(text):
        return f"{text[:_CUT]}…"
    return f"({_describe(text.encode())})"


def _change(before: bytes | None, after: bytes) -> str:
    """A new record, or what changes in one."""
    new = json.loads(after)
    if before is None:
        return _render(new)
    old = json.loads(before)
    return "… " + ", ".join(
        f"{name}: {_render(old.get(name))} → {_render(value)}" for name, value in new.items() if old.get(name) != value
    )


def _describe(value: bytes) -> str:
    return f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()[:_CUT]}…"
