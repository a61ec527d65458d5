"""YAML that a person writes: texts, lists and mappings; no tags, no aliases, no dates, no key twice.

All that is left out can fail, recurse or grow without end when it is read, or silently lose what is written.

    read_words(Path("policy.yaml"))    # {"tasks": ["heart"], "rounds": "12"}: every value is as it is written
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from blockfl.ledger.errors import LedgerError

_DEPTH: Final = 16
"""Of mappings and lists in one another; no file of ours needs more than five."""


class PlainLoader(yaml.SafeLoader):
    """Takes plain YAML only. Every value is a text; a subclass may add what else a text may be."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (as PyYAML declares it)
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's, without aliases, tags and deep nesting."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = f"*{event.anchor}: write the value out here"
        elif getattr(event, "tag", None) is not None:
            problem = f"{event.tag}: leave this tag out"
        elif self._depth == _DEPTH:
            problem = f"more than {_DEPTH} mappings and lists in one another"
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def compose(loader: PlainLoader) -> yaml.Node | None:
    """Return a text's root, None where it has none.

    Raises:
        yaml.YAMLError: It is not plain YAML, or a key is no name or stands in one mapping twice: YAML itself would
            silently keep the last.
    """
    root = loader.get_single_node()
    for mapping in _list_mappings(root):
        seen: set[str] = set()
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "expected a name as key, got a list or mapping"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands here twice", problem_mark=key.start_mark)
            seen.add(key.value)
    return root


def read_words(path: Path) -> Any:
    """Return what a file holds: texts, lists, and mappings whose keys are texts; None if it is empty.

    Raises:
        LedgerError: It cannot be read, or is not plain YAML; with the line.
    """
    try:
        loader = PlainLoader(path.read_text(encoding="utf-8"))
        root = compose(loader)
        return loader.construct_document(root) if root else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise LedgerError(f"{path}, line {line}: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LedgerError(f"{path} cannot be read as YAML: {error}") from error


def _list_mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _list_mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _list_mappings(value)
