"""What stands in a block, in words: transactions as sentences, keys as the records that they name.

Every kind of record has its name; a test holds the table complete. What another program wrote, or a later version, is
told as it is: nothing is left out because it has no words.

    describe_sentence(entry)                       # "alpha submitted its update (round 7 of heart)"
    describe_key("update/heart/000007/alpha")      # "update of alpha in round 7 of heart"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from blockfl.audit.entry import Entry
from blockfl.audit.queries import describe_act
from blockfl.protocol.catalogue import RECORDS
from blockfl.protocol.key import Number

_OUTCOMES: Final = {
    "EquivocationRecorded": "signed a second, different update: equivocation",
    "ModelPublished": "published the model that the committee agreed on",
    "RoundFailed": "closed the round, which failed",
    "PenaltyOverturned": "cast the deciding vote: a penalty is overturned",
}
"""Where the event that the contract announced says more than the transaction's name."""

_DETAILS: Final = {
    "Enrol": ", with {} samples",
    "UploadChunk": ", number {}",
    "ReportMetrics": ", for version {}",
    "AppraiseVersion": " (version or reason: {})",
    "AssessUpdate": " (millionths: {})",
}
"""What the detail of an announcement is, where a number alone would say nothing."""

QUIET: Final = frozenset({"UploadChunk", "UploadModelChunk", "UploadSumChunk"})
"""Too many of them to tell each as it happens."""

KEYS: Final = {
    "consortium": "consortium: who takes part",
    "committee-key": "opening key of {organisation}",
    "task": "task {task}: its specification",
    "progress": "progress of {task}",
    "enrolment": "enrolment of {organisation} in {task}",
    "round": "round {round} of {task}",
    "header": "signed header of {organisation} in round {round} of {task}",
    "update": "update of {organisation} in round {round} of {task}",
    "assessment": "what the update of {organisation} in round {round} of {task} does to the loss of {member}",
    "commitment": "commitment of {organisation} in round {round} of {task}",
    "withdrawal": "withdrawn certificate of {organisation}",
    "erasure": "request of {organisation} to have its updates in {task} erased",
    "dispute": "claim of {member} about the update of {organisation} in round {round} of {task}",
    "equivocation": "equivocation of {organisation} in round {round} of {task}",
    "aggregate": "sum of round {round} of {task}",
    "vote": "vote of {organisation} on the model of round {round} of {task}",
    "model": "version {version} of the model of {task}",
    "appraisal": "what version {version} of {task} is worth by its goal",
    "metrics": "metrics of {organisation} for version {version} of {task}",
    "supply": "supply: all credits ever granted",
    "account": "account of {organisation}",
    "receipt": "receipt {name} of {by}",
    "pace": "pace of {organisation}'s grants and transfers",
    "standing": "standing of {organisation} in {task}",
    "score": "points of round {round} of {task}",
    "settlement": "settlement of round {round} of {task}",
    "objection": "vote of {voter} against a penalty of {organisation} in round {round} of {task}",
    "reversal": "overturned penalty of {organisation} in round {round} of {task}",
}
"""By the prefix of a key: what stands under it."""

_KINDS: Final = {one.prefix: one for one in RECORDS.values()}


def describe_sentence(entry: Entry) -> str:
    """Return what a transaction did, or tried to do: who, what, where, and what came of it."""
    outcome = _OUTCOMES.get(entry.event) if entry.is_valid else None
    sentence = f"{entry.submitter or 'nobody known'} {outcome or describe_act(entry)}"
    notice = entry.notice
    if notice is None:
        return sentence
    places = ([f"round {notice.round}"] if notice.round else []) + ([notice.task] if notice.task else [])
    if places:
        sentence += f" ({' of '.join(places)})"
    if not notice.detail or re.fullmatch(r"[0-9a-f]{64}", notice.detail):
        return sentence
    return f"{sentence}{_DETAILS.get(entry.function, ': {}').format(notice.detail)}"


def describe_key(key: str) -> str:
    """Return which record a key of the contract names; a key of no known kind as it is."""
    prefix, *parts = key.split("/")
    kind = _KINDS.get(prefix)
    if kind is None or len(parts) != len(kind.parts.names):
        return key
    told = {
        name: part.lstrip("0") or "0" if type_ is Number else part
        for name, type_, part in zip(kind.parts.names, kind.parts.types, parts, strict=True)
    }
    return KEYS[prefix].format(**told)


def list_news(entries: Sequence[Entry]) -> list[str]:
    """Return sentences for what is worth telling as it happens, the oldest first."""
    return [describe_sentence(one) for one in entries if one.function not in QUIET]
