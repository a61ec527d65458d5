"""YAML for people: what repeats is written once, under a name, and merged where it is used; short parts are one line.

Example:
    >>> common = Block("common", {"restart": "always"})
    >>> print(dump({"x-common": common, "one": {MERGE: common, "command": ["sleep", "9"]}}), end="")
    x-common: &common
      restart: always
    one:
      <<: *common
      command: [sleep, '9']
"""

from typing import Any, Final

import yaml

_ONE_LINE: Final = 90


class Block(dict[str, Any]):
    """A mapping that is written once, under a name."""

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.name = name


class _MergeKey(str):
    __slots__ = ()


MERGE: Final = _MergeKey("<<")
"""The key under which a mapping takes over a block."""


def dump(content: dict[str, Any]) -> str:
    """Return the content as YAML, keys in their own order."""
    root = Block("root", content)
    return str(yaml.dump(root, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names: dict[int, str] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return not isinstance(data, Block)

    def generate_anchor(self, node: yaml.Node) -> str:
        return self._names[id(node)]

    def block(self, data: Block) -> yaml.Node:
        node = self.represent_dict(data)
        node.flow_style = False
        self._names[id(node)] = data.name
        return node

    def list(self, data: list[Any]) -> yaml.Node:
        node = self.represent_list(data)
        node.flow_style = _width(node) <= _ONE_LINE
        return node

    def mapping(self, data: dict[str, Any]) -> yaml.Node:
        node = self.represent_dict(data)
        node.flow_style = len(data) == 1 and _width(node) <= _ONE_LINE
        return node

    def merge_key(self, data: _MergeKey) -> yaml.Node:
        return yaml.ScalarNode("tag:yaml.org,2002:merge", str(data))

    def text(self, data: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


def _width(node: yaml.Node) -> int:
    """Return about how wide a part is on one line; a block or a text of several lines is never short."""
    if isinstance(node, yaml.ScalarNode):
        return _ONE_LINE + 1 if "\n" in node.value or node.tag.endswith(":merge") else len(node.value) + 2
    if isinstance(node, yaml.SequenceNode):
        return sum(map(_width, node.value)) + 2
    return sum(_width(key) + _width(value) for key, value in node.value) + 2


_Dumper.add_representer(Block, _Dumper.block)
_Dumper.add_representer(list, _Dumper.list)
_Dumper.add_representer(dict, _Dumper.mapping)
_Dumper.add_representer(_MergeKey, _Dumper.merge_key)
_Dumper.add_representer(str, _Dumper.text)
