"""Certificates changed part by part: every element of a DER tree, every way to write it, lengths around in order.

mutate_der(random, certificate)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

_CONSTRUCTED: Final = 0x20
_OCTETS, _BITS = 0x04, 0x03
_TAGS: Final = (1, 2, 3, 4, 5, 6, 0x0A, 0x0C, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18, 0x1C, 0x1E, 0x1F, 0x30, 0x31)
_CONTEXT_TAGS: Final = (0x80, 0x81, 0x82, 0x86, 0x87, 0x88, 0xA0, 0xA1, 0xA3, 0xA4, 0xA6, 0x9F, 0xBF)
_TEXTS: Final = (
    *(b"http://a.example/x", b"http://[::1]:80/", b"http://[::1%25en0]/", b"urn:a:b", b"//host/%zz", b":x", b"a:b:c"),
    *(b"http://a:b/", b"http://a:1:2/", b"ftp://a:b:1/", b"http://u@h:p@x/", b"http://a b/", b"*", b"#%g", b"%41", b""),
    *(
        b".example",
        b"a..b",
        b"a.",
        b"a@b.c",
        b"a b@c",
        b'"a b"@c',
        b"a\\@b@c",
        b"\xc3\xa9",
        b"client",
        b"peer",
        b"x" * 70,
    ),
)
_TIMES: Final = (
    *(b"250101000000Z", b"2501010000Z", b"20250101000000Z", b"250101000000+0100", b"250101000000+0000"),
    *(b"250230000000Z", b"240229000000Z", b"20240229240000Z", b"00000101000000Z", b"99991231235959Z", b"500101000000Z"),
    *(b"20250101000000.5Z", b"20250101000000-2459", b"20250101000000+2500", b"2501010000", b"691231235959Z"),
)
_INTEGERS: Final = (
    *(
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00\x01",
        b"\x00\x80",
        b"\x80",
        b"\xff",
        b"\xff\x80",
        b"\xff\x7f",
        b"\x01",
        b"\x02",
    ),
    *(b"\xff\x7f", b"\x03", b"\x7f" + b"\xff" * 7, b"\x00\x80" + b"\x00" * 7, b"\x80" + b"\x00" * 7, b"\x01" * 21),
)
_IDENTIFIERS: Final = (
    *(
        b"",
        b"\x80\x01",
        b"\x55\x1d\x0f",
        b"\x55\x1d\x13",
        b"\x55\x1d\x1e",
        b"\x55\x1d\x20\x00",
        b"\x2a\x86",
        b"\x88\x37",
    ),
    *(
        b"\x55\x04\x0b",
        b"\x8f\xff\xff\xff\x7f",
        b"\x87\xff\xff\xff\x7f",
        b"\x55\x1d\x36",
        b"\x2b\x65\x70",
        b"\x55\x1d\x24",
    ),
)

_BYTES: Final = tuple(bytes((one,)) for one in (0, 9, 10, 13, 32, 0x25, 0x2E, 0x3A, 0x5B, 0x7F, 0x80, 0xFF))


@dataclass(slots=True)
class Node:
    """An element: its tag and content, or the elements within; `prefix` stands between head and elements."""

    tag: int
    content: bytes = b""
    children: list[Node] = field(default_factory=list)
    prefix: bytes = b""
    long_by: int = 0
    cut: int = 0

    def encode(self) -> bytes:
        content = self.prefix + b"".join(child.encode() for child in self.children) if self.children else self.content
        size = max(0, len(content) + self.cut)
        if size < 0x80 and not self.long_by:
            return bytes((self.tag, size)) + content
        count = max(1, (size.bit_length() + 7) // 8) + max(0, self.long_by - 1)
        return bytes((self.tag, 0x80 | count)) + size.to_bytes(count, "big") + content


def parse_tree(data: bytes) -> list[Node] | None:
    """The elements that fill these bytes exactly; None when they do not."""
    nodes, position = [], 0
    while position < len(data):
        if len(data) - position < 2 or data[position] & 0x1F == 0x1F:
            return None
        tag, length, head = data[position], data[position + 1], 2
        if length & 0x80:
            count = length & 0x7F
            head, length = 2 + count, int.from_bytes(data[position + 2 : position + 2 + count], "big")
        content = data[position + head : position + head + length]
        if len(content) < length:
            return None
        nodes.append(_node(tag, content))
        position += head + length
    return nodes


def _node(tag: int, content: bytes) -> Node:
    prefix = content[:1] if tag == _BITS else b""
    if tag & _CONSTRUCTED or tag in (_OCTETS, _BITS):
        children = parse_tree(content[len(prefix) :])
        if children:
            return Node(tag=tag, children=children, prefix=prefix)
    return Node(tag=tag, content=content)


def mutate_der(random: Random, encoded: bytes, changes: int = 1) -> bytes:
    """Change an encoding in so many places; everything around them stays in order."""
    roots = parse_tree(encoded)
    if not roots:
        return _mutate_bytes(random, encoded)
    root = Node(tag=0x30, children=roots)
    for _ in range(changes):
        places = _places(root)
        if not places:
            return b""
        parent, index = random.choice(places)
        _change(random, parent, index, places)
    return b"".join(child.encode() for child in root.children)


def _places(node: Node) -> list[tuple[Node, int]]:
    found, waiting = [], [node]
    while waiting:
        parent = waiting.pop()
        for index, child in enumerate(parent.children):
            found.append((parent, index))
            waiting.append(child)
    return found


def _change(random: Random, parent: Node, index: int, places: list[tuple[Node, int]]) -> None:
    node = parent.children[index]
    match random.randrange(10):
        case 0:
            node.tag = random.choice(_TAGS + _CONTEXT_TAGS)
        case 1:
            parent.children.pop(index)
        case 2:
            parent.children.insert(index, node)
        case 3:
            donor, at = random.choice(places)
            parent.children.insert(index, _copy(donor.children[at]))
        case 4:
            donor, at = random.choice(places)
            parent.children[index] = _copy(donor.children[at])
        case 5:
            node.long_by = random.randint(1, 4)
        case 6:
            node.cut = random.choice((-1, 1, 2, 200))
        case 7:
            made = Node(tag=random.choice(_TAGS + _CONTEXT_TAGS), content=_some_content(random, 0))
            parent.children.insert(random.randint(0, len(parent.children)), made)
        case _:
            _change_content(random, node)


def _copy(node: Node) -> Node:
    return replace(node, children=[_copy(child) for child in node.children])


def _change_content(random: Random, node: Node) -> None:
    if node.children:
        match random.randrange(3):
            case 0:
                random.shuffle(node.children)
            case 1:
                node.children, node.content = [], b""
            case _:
                node.prefix = random.choice((b"", b"\x00", b"\x01", b"\x08"))
        return
    if random.random() < 0.5:
        node.content = _some_content(random, node.tag)
    else:
        node.content = _mutate_bytes(random, node.content)


def _some_content(random: Random, tag: int) -> bytes:
    if tag in (0x02, 0x0A, 0x80, 0x81) and random.random() < 0.8:
        return random.choice(_INTEGERS)
    if tag == 0x06:
        return random.choice(_IDENTIFIERS)
    if tag in (0x17, 0x18):
        return random.choice(_TIMES)
    if tag == 0x01:
        return random.choice((b"", b"\x00", b"\x01", b"\xff", b"\xff\xff"))
    if tag == _BITS:
        return random.choice((b"", b"\x00", b"\x01", b"\x05\xa0", b"\x07\x80", b"\x07\x81", b"\x08\x00", b"\x00\x06"))
    return random.choice(_TEXTS + _INTEGERS + _IDENTIFIERS)


def _mutate_bytes(random: Random, content: bytes) -> bytes:
    at = random.randint(0, len(content))
    match random.randrange(5):
        case 0:
            return content[:at] + random.randbytes(random.randint(1, 3)) + content[at:]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + content[at + 1 :]
        case 3 if content:
            at = min(at, len(content) - 1)
            return content[:at] + bytes((content[at] ^ 1 << random.randrange(8),)) + content[at + 1 :]
        case _:
            return (
                content[:at]
                + bytes((random.choice((0, 9, 10, 13, 32, 0x25, 0x2E, 0x3A, 0x5B, 0x7F, 0x80, 0xFF)),))
                + content[at:]
            )
