"""YAML text whose faults are named with their line."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from blockfl.network.errors import DescriptionError

_DEPTH: Final = 16
"""Of mappings and lists in one another; a description needs four."""

Place = tuple[int | str, ...]
"""Where in nested mappings and lists: keys and positions from the outside in."""


class Fault(ValueError):
    """What is wrong with a description, and where."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.place = place


class _Loader(yaml.SafeLoader):
    """Plain YAML only: texts, whole numbers, truth values, lists and mappings; no tags, no aliases, no dates.

    All that is left out can fail, recurse or grow without end when it is read, and no description needs it.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (as PyYAML declares it)
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
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


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?i:true|false|yes|no|on|off)\Z"), list("tfynoTFYNO")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|(?i:null)|)\Z"), ["~", "n", "N", ""])


class Source:
    """A YAML text of one mapping.

    Args:
        text: The text.
        name: What errors call it: usually the file's path.

    Raises:
        DescriptionError: It is not YAML, no mapping, or has a key twice.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            self._check_keys()
            content = loader.construct_document(self._root) if self._root else None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise DescriptionError(f"{name}, line {line}: {error.problem}") from error
        except yaml.YAMLError as error:
            raise DescriptionError(f"{name}: this is not YAML: {error}") from error
        if not isinstance(content, dict):
            raise DescriptionError(f"{name}, line 1: expected a mapping with network, channel, organisations, …")
        self.content: dict[str, Any] = content

    def error(self, place: Place, reason: str) -> DescriptionError:
        """Return the error for a place, with its line."""
        named = ".".join(str(part) for part in place)
        return DescriptionError(f"{self.name}, line {self._line(place)}: {named + ': ' if named else ''}{reason}")

    def explain(self, error: ValidationError, model: type[BaseModel]) -> DescriptionError:
        """Return the error for the first thing that a model refuses, in words for whoever writes the file."""
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, Fault):
            return self.error(cause.place, str(cause))
        return self.error(first["loc"], _reason(first, model))

    def _check_keys(self) -> None:
        """Refuse keys that are none, and one key twice: YAML itself would silently keep the last."""
        for mapping in _mappings(self._root):
            seen: set[str] = set()
            for key, _ in mapping.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise DescriptionError(f"{self.name}, line {line}: expected a name as key, got a list or mapping")
                if key.value in seen:
                    raise DescriptionError(f"{self.name}, line {line}: {key.value} stands here twice")
                seen.add(key.value)

    def _line(self, place: Place) -> int:
        """Return the line of the innermost part of a place that the text holds."""
        node = self._root
        line = node.start_mark.line + 1 if node else 1
        for part in place:
            found = _child(node, part)
            if found is None:
                break
            mark, node = found
            line = mark.start_mark.line + 1
        return line


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return where a part of a mapping or list begins, and what is there."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _reason(first: ErrorDetails, model: type[BaseModel]) -> str:
    """Return what was expected, got, and what to do."""
    given = first["input"]
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key; known here are {', '.join(_known(model, first['loc']))}"
        case "missing":
            return "is missing"
        case "string_pattern_mismatch":
            return (
                "expected a name of 2 to 32 lower-case letters, digits and dashes that begins with a letter and does "
                f"not end with a dash, got {given!r}"
            )
        case "literal_error":
            return f"expected {first['ctx']['expected']}, got {given!r}"
        case _:
            text = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            return f"{text}, got {given!r}" if isinstance(given, str | int | float | bool) else text


def _known(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the keys that the mapping at a place may have."""
    for part in place[:-1]:
        if isinstance(part, str):
            model = _inner(model.model_fields[part].annotation)
    return list(model.model_fields)


def _inner(annotation: Any) -> type[BaseModel]:
    """Return the model that a field holds, or that its list holds."""
    arguments = getattr(annotation, "__args__", ())
    return _inner(arguments[0]) if arguments else annotation
