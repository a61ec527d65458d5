"""Drafts of configuration updates, for the corpus: the configuration in force, and what an update reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from fabric_protos.common import configtx_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2

from blockfl.fabric.channel.group import channel_group, encode
from support.corpus_memberships import CHANGED
from support.corpus_world import corpus_spec

CHANNEL: Final = "updates"
PORT: Final = 27_051
MOST_BYTES: Final = 9_000
"""An ordering node refuses a whole configuration, which is larger, after it has taken the update that leads there."""
_RULES: Final = 40
Path = tuple[str, ...]
Touched = list[tuple[str, Path]]
"""The changed elements: "group", "value" or "policy", and the path below the channel."""
_ODD_POLICIES: Final[Mapping[tuple[str, Path], str]] = {
    ("value", ("Orderer", "BatchTimeout")): f"/Channel/Application/{CHANGED}/Admins",
    ("value", ("Orderer", "BatchSize")): "Writers",
    ("value", ("Application", "ACLs")): f"{CHANGED}/Admins",
    ("value", ("Application", CHANGED, "MSP")): "/Channel/Application/Admins",
    ("policy", ("Application", "Clients")): f"/Channel.Application/{CHANGED}/Admins",
    ("policy", ("Application", "Readers")): "/Admins",
    ("policy", ("Application", CHANGED, "Clients")): "Nothing",
    ("policy", ("Application", CHANGED, "Endorsement")): "",
    ("policy", ("Application", CHANGED, "Readers")): "Admins",
    ("policy", ("Application", "gamma", "Readers")): "/Channel/Application/gamma/Admins",
    ("policy", ("Application", "gamma", "Writers")): "Channel/Application/gamma/Admins",
    ("group", ("Application", "delta")): "/Channel/Application/Writers",
}


@cache
def encode_base() -> bytes:
    group = channel_group(corpus_spec(PORT, CHANNEL))
    application = group.groups["Application"]
    rules = {f"resource/{number}": peer_pb2.APIResource(policy_ref="/Channel/Readers") for number in range(_RULES)}
    application.values["ACLs"].value = encode(peer_pb2.ACLs(acls=rules))
    for name, organisation in (("Clients", application), *(("Clients", one) for one in application.groups.values())):
        organisation.policies[name].CopyFrom(application.groups[CHANGED].policies["Readers"])
    size = orderer_pb2.BatchSize(
        max_message_count=10, absolute_max_bytes=MOST_BYTES, preferred_max_bytes=MOST_BYTES // 2
    )
    group.groups["Orderer"].values["BatchSize"].value = encode(size)
    for (kind, path), policy in _ODD_POLICIES.items():
        find_element(group, kind, path).mod_policy = policy
    return encode(group)


def base_group() -> Any:
    """The configuration in force."""
    return configtx_pb2.ConfigGroup.FromString(encode_base())


def find_element(group: Any, kind: str, path: Path) -> Any:
    for name in path if kind == "group" else path[:-1]:
        group = group.groups[name]
    return group if kind == "group" else members_of(group, kind)[path[-1]]


def members_of(group: Any, kind: str) -> Any:
    return {"group": group.groups, "value": group.values, "policy": group.policies}[kind]


class Draft:
    """An update in the making: read set and write set, and what has been touched."""

    def __init__(self, channel: str) -> None:
        self.base = base_group()
        self.message = configtx_pb2.ConfigUpdate(channel_id=channel)
        for group in (self.message.read_set, self.message.write_set):
            copy_shell(self.base, group)

    def open(self, path: Path) -> Any:
        """The group at a path in the write set; it and those above it are as they were read."""
        found, read, written = self.base, self.message.read_set, self.message.write_set
        for name in path:
            found = found.groups[name]
            for group in (read, written):
                if name not in group.groups:
                    copy_shell(found, group.groups[name])
            read, written = read.groups[name], written.groups[name]
        return written

    def change(self, kind: str, path: Path) -> Any:
        """The element at a path in the write set, at its next version, to be changed."""
        if kind == "group":
            return self.change_group(path)
        written = members_of(self.open(path[:-1]), kind)[path[-1]]
        before = find_element(self.base, kind, path)
        if not written.ByteSize():
            written.CopyFrom(before)
            written.version = before.version + 1
        return written

    def change_group(self, path: Path) -> Any:
        """The group at a path in the write set, at its next version, with all of its members as they were read."""
        written, found, read = self.open(path), find_element(self.base, "group", path), self.message.read_set
        for name in path:
            read = read.groups[name]
        for kind in ("group", "value", "policy"):
            for name, member in members_of(found, kind).items():
                for group in (read, written):
                    if name not in members_of(group, kind):
                        copy_shell(member, members_of(group, kind)[name])
        written.version = found.version + 1
        return written


def copy_shell(element: Any, target: Any) -> None:
    """An element's version and modification policy, which are enough for what is not changed."""
    target.version = element.version
    if isinstance(element, configtx_pb2.ConfigGroup):
        target.mod_policy = element.mod_policy
    target.SetInParent()


def list_elements(group: Any, path: Path = ()) -> Touched:
    found: Touched = [("group", path)]
    found += [("value", (*path, name)) for name in sorted(group.values)]
    found += [("policy", (*path, name)) for name in sorted(group.policies)]
    for name in sorted(group.groups):
        found += list_elements(group.groups[name], (*path, name))
    return found


@cache
def base_elements() -> tuple[tuple[str, Path], ...]:
    return tuple(list_elements(base_group()))
