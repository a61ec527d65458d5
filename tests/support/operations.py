"""Calls of the operations contract that touch every kind of read and write, and the ledger that they find."""

from __future__ import annotations

from typing import Final

from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec
from blockfl.fabric.identity.policy import signature_policy
from support.consortium import CONTRACT, FOUR
from support.operations_contract import Operation

DEFINITION: Final = ChaincodeDefinition(
    name=CONTRACT,
    version="1.0",
    collections=(
        CollectionSpec(
            name="sealed", members=("alpha", "gamma"), endorsement_policy=signature_policy(2, ("alpha", "gamma"))
        ),
        CollectionSpec(name="notes", members=FOUR, member_only_read=False),
    ),
)
SECRET: Final = {"value": b"s" * 100, "other": bytes(range(256)) * 4096}

# 220 keys: ranges take three batches.
POPULATION: Final[list[list[Operation]]] = [
    [["put", f"k{index:03}", f"value {index}"] for index in range(220)],
    [["protect", "k001", "alpha", "gamma"], ["put", "k001", "guarded"]],
    [["putPrivate", "notes", "n1", "value"], ["putPrivate", "notes", "n2", "other"]],
    [["putPrivate", "sealed", "s1", "value"]],
    [["protectPrivate", "notes", "n1", "gamma", "beta"]],
]

CALLS: Final[dict[str, list[Operation]]] = {
    "nothing": [],
    "a read": [["get", "k000"]],
    "reads of missing keys": [["get", "missing"], ["get", "k000"], ["get", "missing"]],
    "a write with an event": [["put", "new", "ключ"], ["emit", "stored", "new"]],
    "reads, writes and deletes of the same keys": [
        ["get", "k002"],
        ["put", "k002", "changed"],
        ["get", "k002"],
        ["delete", "k003"],
        ["put", "k004", ""],
        ["delete", "missing"],
    ],
    "a range of one batch": [["list", "k000", "k050"]],
    "a range of exactly one batch": [["list", "k000", "k100"]],
    "a range of one batch and one key": [["list", "k000", "k101"]],
    "a range of three batches": [["list", "k000", "k999"]],
    "everything": [["list", "", ""]],
    "an empty range": [["list", "x", "y"]],
    "a range that is left early": [["head", "k000", "k999", 5]],
    "a range that is left at the end of a batch": [["head", "k000", "k999", 100]],
    "a range that is left in its second batch": [["head", "k000", "k999", 101]],
    "two ranges and writes into them": [["list", "k000", "k150"], ["put", "k010", "x"], ["list", "k100", "k200"]],
    "pages": [["page", "k000", "k999", 10, ""], ["page", "k000", "k999", 10, "k010"], ["page", "k200", "", 50, ""]],
    "key-level policies": [
        ["protection", "k000"],
        ["protection", "k001"],
        ["protect", "k005", "delta", "beta"],
        ["protect", "k006", "alpha"],
        ["put", "k006", "both"],
    ],
    "private reads": [
        ["getPrivate", "notes", "n1"],
        ["getPrivate", "notes", "missing"],
        ["hashPrivate", "sealed", "s1"],
    ],
    "private writes": [
        ["putPrivate", "notes", "n3", "value"],
        ["putPrivate", "sealed", "s2", "other"],
        ["deletePrivate", "notes", "n2"],
        ["purgePrivate", "sealed", "s1"],
    ],
    "a private read before a write": [["getPrivate", "notes", "n1"], ["putPrivate", "notes", "n1", "other"]],
    "a private range": [["listPrivate", "notes", "", ""], ["listPrivate", "notes", "n1", "n2"]],
    "private key-level policies": [
        ["protectionPrivate", "notes", "n1"],
        ["protectionPrivate", "notes", "n2"],
        ["protectPrivate", "notes", "n2", "gamma", "alpha"],
    ],
    "the caller and the channel": [["creator"], ["channel"]],
    "events: the last one counts": [["emit", "one", "1"], ["emit", "two", "2"]],
}
