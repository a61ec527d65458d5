"""Calls that are meant to hurt a contract service, made in processes whose memory and processor time are limited.

python -m support.hostile          every transaction and read, one line each
python -m support.hostile greedy   something that the limits must stop, to see that they do
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from support.outer_decoders import CODED, prepared
from support.world import Refused, World

MEMORY_BYTES: Final = 256 << 20
"""What a service may take beyond what it has when it waits: a few messages of 4 MiB, in the forms they pass through."""
PROCESSOR_S: Final = 30
"""For all hostile calls of one transaction together: a few hundred megabytes to look through."""
_GREEDY_S: Final = 1
LARGE: Final = 1 << 20
_LONGEST_REFUSAL: Final = 1_000

WORDS: Final[dict[str, bytes]] = {
    "nothing": b"",
    "nested lists": b"[" * LARGE,
    "nested objects": b'{"a":' * (LARGE // 5),
    "nested and closed": b"[" * 100_000 + b"]" * 100_000,
    "a number of millions of digits": b"9" * LARGE,
    "millions of zeros": b"0" * LARGE,
    "a large fraction": b"1e999999999",
    "a long text": b'"' + b"a" * LARGE + b'"',
    "a long name": b"a" * LARGE,
    "escapes": b'"' + b"\\u0061" * (LARGE // 6) + b'"',
    "names in bulk": b"{" + b",".join(b'"%d":1' % number for number in range(100_000)) + b"}",
    "one name again and again": b"{" + b",".join([b'"task":1'] * 100_000) + b"}",
    "a long list": b"[" + b",".join([b"1"] * 500_000) + b"]",
    "no UTF-8": b"\xff\xfe" * (LARGE // 2),
    "a surrogate": "\ud800".encode("utf-8", "surrogatepass"),
    "an escaped surrogate": b'"\\ud800"',
    "an accent of its own": "he\u0301art".encode(),
    "another width": "ｈｅａｒｔ".encode(),
    "a byte order mark": b"\xef\xbb\xbfheart",
    "a null": b"heart\x00",
    "a line": b"heart\n",
    "a path": b"../" * 100_000,
    "not a number": b"NaN",
    "digits of another script": "١٢".encode(),
}


def hostile_calls(
    world: World, function: str, valid: list[bytes]
) -> Iterator[tuple[str, list[bytes], dict[str, bytes]]]:
    """Yield what is hostile about a call, its arguments and its transient fields."""
    entry = world.contracts["alpha"].table[function]
    count = len(entry.arguments)
    arguments = valid or [b"heart", b"1", b"alpha", b"0"][:count]
    transient = dict.fromkeys(entry.transient, b"x")
    for name, word in WORDS.items():
        yield name, [word] * count, transient
        for index in range(count):
            yield f"{name} as argument {index}", [*arguments[:index], word, *arguments[index + 1 :]], transient
    for index, argument in enumerate(arguments):
        if argument.startswith(b"{"):
            for name, record in hostile_records(argument):
                yield f"{name} in argument {index}", [*arguments[:index], record, *arguments[index + 1 :]], transient
    yield "arguments in bulk", [b"heart"] * 100_000, transient
    yield "large arguments", [bytes(4 * LARGE)] * 8, transient
    yield "transient fields in bulk", arguments, {f"chunk{number}": b"x" for number in range(20_000)}
    yield "long names of transient fields", arguments, {"c" * LARGE: b"x"}
    yield "large transient fields", arguments, dict.fromkeys(entry.transient or ("chunk",), bytes(8 * LARGE))


def hostile_records(valid: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a record with each of its values, at any depth, exchanged for something hostile."""
    document = json.loads(valid)
    bulk: dict[str, bytes] = {
        "depth": b"[" * 10_000 + b"]" * 10_000,
        "digits": b"9" * 1_000_000,
        "decimal digits": b'"' + b"9" * 1_000_000 + b'"',
        "text": b'"' + b"a" * 1_000_000 + b'"',
        "list": b"[" + b",".join([b'"alpha"'] * 100_000) + b"]",
        "records": b"[" + b",".join([b"{}"] * 100_000) + b"]",
        "surrogate": b'"\\ud800"',
    }
    for place in _places(document):
        for name, content in bulk.items():
            yield f"{name} at {'.'.join(map(str, place))}", _with(document, place, content)
    yield "a name twice", valid[:-1] + b"," + valid[1:]


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The first of each list stands for all of it."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))[:1]
        if isinstance(value, list)
        else []
    )
    for key, one in inner:
        yield (*above, key)
        yield from _places(one, (*above, key))


def _with(document: Any, place: tuple[Any, ...], content: bytes) -> bytes:
    mark = "\u0001here\u0001"
    copy = json.loads(json.dumps(document))
    at = copy
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = mark
    text = json.dumps(copy, separators=(",", ":"), sort_keys=True).encode()
    return text.replace(json.dumps(mark).encode(), content)


def make_calls(function: str) -> None:
    """Make every hostile call of one function: each is refused with a code, or succeeds."""
    world, _, valid = prepared()
    gc.freeze()
    for what, arguments, transient in hostile_calls(world, function, valid.get(function, [])):
        call = world.simulate("alpha", "coordinator", "", raw=[function.encode(), *arguments], transient=transient)
        try:
            asyncio.run(call)
        except Refused as refusal:
            # Errors and the frames that they passed through hold each other until they are collected.
            gc.collect()
            if not CODED.fullmatch(refusal.text) or len(refusal.text) > _LONGEST_REFUSAL:
                raise AssertionError(f"{what}: {len(refusal.text)}: {refusal.text[:500]}") from refusal


def be_greedy(how: str) -> None:
    """Take more memory, or more time, than there is."""
    if how == "memory":
        held = bytearray(MEMORY_BYTES + (64 << 20))
        held[::4096] = b"x" * len(held[::4096])
    while how == "time":
        pass


def run_limited(action: Callable[[], None], processor_s: int = PROCESSOR_S) -> str:
    """Do something in a process of its own with limited memory and time; return "" or what went wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            memory = pages * resource.getpagesize() + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s))
            action()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}"[:2000].encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if status and not said:
        said = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"ended with {status}"
    return said


def main(arguments: list[str]) -> int:
    """Print a line for each function: its name, and what went wrong."""
    if arguments[:1] == ["greedy"]:
        for how in ("memory", "time"):
            print(f"{how}: {run_limited(lambda how=how: be_greedy(how), _GREEDY_S)}", flush=True)  # type: ignore[misc]
        return 0
    world = prepared()[0]
    for function in arguments or sorted(world.contracts["alpha"].table):
        fault = run_limited(lambda function=function: make_calls(function))  # type: ignore[misc]
        print(f"{function}: {fault or 'bounded'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
