"""Words that are no words: calls, arguments and records that are almost what they should be."""

from __future__ import annotations

import json

from attacks.bout import Bout
from attacks.catalogue import Outcome, attack, refused
from attacks.observation import attempt_all
from blockfl.protocol.codes import Code

WRONG_FIELDS: tuple[tuple[str, object], ...] = (
    ("round", 1.0),
    ("round", 1.5),
    ("round", -1),
    ("round", 0),
    ("round", "1"),
    ("round", True),
    ("round", None),
    ("round", 2**53),
    ("round", 10**400),
    ("round", float("nan")),
    ("round", float("inf")),
    ("round", [1]),
    ("extra", 1),
    ("task", "../" * 9),
    ("task", "UPPER"),
    ("task", "t" * 33),
    ("task", "naïve"),
    ("task", "nul\0nul"),
    ("task", "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")),
    ("payload_digest", "AB" * 32),
    ("payload_digest", "ab" * 31),
    ("bound_l2_squared", "01"),
    ("bound_l2_squared", "9" * 101),
    ("bound_l2_squared", 5),
    ("chunk_digests", []),
    ("chunk_digests", {}),
    ("wrapped_keys", [{}]),
)
"""Fields of a header, and contents that they must not have."""


def malform(good: bytes) -> list[bytes]:
    """Return what a decoder must not take for this record: every kind of almost."""
    said = json.loads(good)
    header = said["header"]

    def with_header(name: str, value: object) -> bytes:
        return canonical({**said, "header": {**header, name: value}})

    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    assert canonical(said) == good
    text = good.decode()
    return [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"header"',
        good[:-1],
        good + b"\n",
        good + good,
        b" " + good,
        b"\xef\xbb\xbf" + good,
        good.decode().encode("utf-16"),
        b"\xff\xfe" + good,
        json.dumps(said, sort_keys=True).encode(),
        json.dumps(said, separators=(",", ":"))[::-1].encode(),
        json.dumps({"signature": said["signature"], "header": header}, separators=(",", ":")).encode(),
        text.replace('"round":', '"round":1,"round":', 1).encode(),
        text.replace('"task"', '"\\u0074ask"', 1).encode(),
        text.replace("{", '{"__proto__":{},', 1).encode(),
        b"[" * 100_000 + b"]" * 100_000,
        b'{"header":' * 50_000,
        *(with_header(name, value) for name, value in WRONG_FIELDS),
        with_header("wrapped_keys", header["wrapped_keys"] * 40),
        canonical({**said, "header": {key: value for key, value in header.items() if key != "weight"}}),
        canonical({**said, "signature": "zz" * 70}),
        canonical({**said, "signature": ""}),
    ]


@attack(
    "malformed JSON of every kind",
    by="institution",
    does="Submits fifty almost-headers: cut, doubled, spaced, reordered, deeply nested, with floats, NaN, numbers and "
    "names out of range, other encodings, missing, unknown and repeated fields.",
    expect=refused(Code.MALFORMED),
)
async def malformed(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    good = bout.sign((await bout.seal()).header).encode()
    return await attempt_all(*(bout.network.submit("delta", "SubmitUpdate", one) for one in malform(good)))


@attack(
    "malformed arguments of every kind",
    by="institution",
    does="Gives names, numbers and digests that are none: paths, blanks, signs, leading zeros, megabytes.",
    expect=refused(Code.MALFORMED),
)
async def arguments(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    names = ["", " ", "../etc", "a/b", "A", "a" * 33, "a\0b", "тест", "-a", "a-", "x" * 2**20]
    numbers = ["", "-1", "+1", "01", "1.0", "1e3", "0x1", " 1", "1 ", "١", "9" * 30, "NaN", "9" * 2**16]
    digests = ["", "ab", "AB" * 32, "ab" * 33, "zz" * 32]
    return await attempt_all(
        *(bout.network.evaluate("delta", "ReadTask", one) for one in names),
        *(bout.network.evaluate("delta", "ReadRound", bout.task, one) for one in numbers),
        *(bout.network.submit("delta", "Enrol", bout.task, one) for one in numbers),
        *(bout.network.evaluate("delta", "ReadModelChunk", bout.task, one) for one in digests),
        bout.network.submit("delta", "Enrol", b"\xff\xfe", "1"),
    )


@attack(
    "calls the contract does not have",
    by="institution",
    does="Calls functions that do not exist, with too few and too many arguments and transient fields.",
    expect=(refused(Code.UNKNOWN_TRANSACTION), refused(Code.ARGUMENTS)),
)
async def unknown(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()

    async def call(function: str, *arguments: str, transient: dict[str, bytes] | None = None) -> None:
        await bout.network.submit("delta", function, *arguments, transient=transient)

    return await attempt_all(
        call(""),
        call("__init__"),
        call("table"),
        call("judgeupdate", *bout.place, "delta"),
        call("Enrol"),
        call("Enrol", bout.task),
        call("Enrol", bout.task, "1", "2"),
        call("Enrol", bout.task, "1", transient={"chunk": b""}),
        call("UploadChunk", *bout.place, "0"),
        call("UploadChunk", *bout.place, "0", transient={"chunk": b"x", "other": b"y"}),
    )
