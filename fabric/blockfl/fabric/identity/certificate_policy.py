"""Certificate policies: whether a chain may do without them, or has those that it demands.

Hardly any authority uses them, but one that demands them where there are none makes peers refuse its certificates.

Source: Go's crypto/x509, verify.go (policiesValid), which is RFC 5280, 6.1, as RFC 9618 has updated it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from blockfl.fabric.encoding.certificate import Certificate

_ANY: Final = b"\x55\x1d\x20\x00"


@dataclass(eq=False, slots=True)
class _Node:
    policy: bytes
    expected: tuple[bytes, ...]
    parents: list[_Node] = field(default_factory=list)
    children: list[_Node] = field(default_factory=list)

    @classmethod
    def below(cls, policy: bytes, parents: Sequence[_Node]) -> _Node:
        node = cls(policy, (policy,), list(parents))
        for parent in parents:
            parent.children.append(node)
        return node

    def detach(self) -> None:
        for parent in self.parents:
            parent.children.remove(self)
        for child in self.children:
            child.parents.remove(self)


class _Graph:
    """The valid policies of each certificate from the root down; a level maps a policy to its node."""

    def __init__(self) -> None:
        self.levels: list[dict[bytes, _Node]] = [{_ANY: _Node(_ANY, (_ANY,))}]

    @property
    def leaves(self) -> dict[bytes, _Node]:
        return self.levels[-1]

    def add_level(self, policies: Sequence[bytes], *, takes_any: bool) -> None:
        above = self.leaves
        self.levels.append({})
        for policy in policies:
            if policy == _ANY:
                continue
            parents = [node for node in above.values() if policy in node.expected]
            if not parents and _ANY in above:
                parents = [above[_ANY]]
            if parents:
                self.leaves[policy] = _Node.below(policy, parents)
        if _ANY in policies and takes_any:
            missing: dict[bytes, list[_Node]] = {}
            for node in above.values():
                for policy in node.expected:
                    if policy not in self.leaves:
                        missing.setdefault(policy, []).append(node)
            for policy, parents in missing.items():
                self.leaves[policy] = _Node.below(policy, parents)
        self.prune()

    def prune(self) -> None:
        for level in self.levels[-2:0:-1]:
            for policy, node in list(level.items()):
                if not node.children:
                    node.detach()
                    del level[policy]

    def remove_leaf(self, policy: bytes) -> None:
        node = self.leaves.pop(policy, None)
        if node is not None:
            node.detach()

    def map(self, policy: bytes, subjects: Sequence[bytes]) -> None:
        node = self.leaves.get(policy)
        if node is None and _ANY in self.leaves:
            node = self.leaves[policy] = _Node.below(policy, [self.leaves[_ANY]])
        if node is not None:
            node.expected = tuple(subjects)

    @property
    def has_valid(self) -> bool:
        return _ANY in self.leaves or any(
            node.policy != _ANY and len(node.parents) == 1 and node.parents[0].policy == _ANY
            for level in self.levels
            for node in level.values()
        )


class _Counters:
    """After how many more certificates something begins to hold."""

    def __init__(self, size: int) -> None:
        self.explicit = self.mapping = self.any = size + 1

    def pass_by(self, certificate: Certificate) -> None:
        if not certificate.is_self_issued:
            self.explicit, self.mapping, self.any = (max(0, one - 1) for one in (self.explicit, self.mapping, self.any))
        said = certificate.extensions
        self.explicit = _lower(self.explicit, said.explicit_policy)
        self.mapping = _lower(self.mapping, said.inhibit_mapping)
        self.any = _lower(self.any, said.inhibit_any)


def policies_hold(chain: Sequence[Certificate]) -> bool:
    """Whether a chain has the policies that its certificates demand.

    Args:
        chain: from the certificate in question to the root.
    """
    if len(chain) == 1:
        return True
    below = list(reversed(chain[:-1]))
    counters = _Counters(len(below))
    graph: _Graph | None = _Graph()
    for index, certificate in enumerate(below):
        is_last = index == len(below) - 1
        said = certificate.extensions
        if not said.policies:
            graph = None
        if counters.explicit == 0 and graph is None:
            return False
        if graph is not None:
            takes_any = counters.any > 0 or (not is_last and certificate.is_self_issued)
            graph.add_level(said.policies, takes_any=takes_any)
            if not is_last and not _map(graph, said.mappings, may_map=counters.mapping > 0):
                return False
        if not is_last:
            counters.pass_by(certificate)
    explicit = max(0, counters.explicit - 1)
    if chain[0].extensions.explicit_policy == 0:
        explicit = 0
    return explicit > 0 or (graph is not None and graph.has_valid)


def _map(graph: _Graph, mappings: Sequence[tuple[bytes, bytes]], *, may_map: bool) -> bool:
    if not mappings:
        return True
    subjects: dict[bytes, list[bytes]] = {}
    for issuer, subject in mappings:
        if not may_map:
            graph.remove_leaf(issuer)
        elif _ANY in (issuer, subject):
            return False
        else:
            subjects.setdefault(issuer, []).append(subject)
    graph.prune()
    for issuer, mapped in subjects.items():
        graph.map(issuer, mapped)
    return True


def _lower(count: int, demanded: int | None) -> int:
    return count if demanded is None or demanded < 0 else min(count, demanded)
