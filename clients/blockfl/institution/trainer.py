"""The training process: ``python -m blockfl.institution.trainer``, started by the agent and by nobody else.

It reads requests from standard input and answers on what was standard output, as frames (``frames``). It has no key,
no certificate, no profile and no BLOCKFL_ variable. The first request confines it, before any library that trains and
any code of the user is imported. Whatever user code prints goes to standard error, which the agent keeps as a log.
"""

import io
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from blockfl.institution.confinement import Reach, confine
from blockfl.institution.errors import ConfinementError, WorkloadError
from blockfl.institution.frames import (
    PREFIX,
    Began,
    Begin,
    Evaluate,
    Failed,
    Initial,
    Rehearse,
    Reply,
    Request,
    Save,
    Saved,
    Train,
    Values,
    decode_prefix,
    decode_request,
    encode_frame,
)
from blockfl.institution.guard import stand_guard

if TYPE_CHECKING:
    from blockfl.institution.loading import AnyLearner

# numpy and what builds on it start threads, which confinement would not cover: they are imported after it.

_MESSAGE_LIMIT = 4000


class Channel:
    """The two pipes to the agent."""

    def __init__(self, source: io.BufferedReader, sink: io.RawIOBase) -> None:
        self._source = source
        self._sink = sink

    @classmethod
    def take_over(cls) -> "Channel":
        """Take standard input and output for the frames, and leave user code an empty input and the log."""
        source, sink = os.dup(0), os.dup(1)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        os.dup2(2, 1)
        return cls(open(source, "rb"), open(sink, "wb", buffering=0))  # noqa: PTH123 - for ever

    def receive(self) -> tuple[Request, bytearray] | None:
        """Return the next request, or None when the agent has closed the pipe."""
        prefix = self._source.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return None
        head_size, body_size = decode_prefix(prefix)
        head, body = self._source.read(head_size), bytearray(body_size)
        if len(head) < head_size or self._source.readinto(body) < body_size:
            return None
        return decode_request(head), body

    def send(self, reply: Reply, body: bytes | memoryview = b"") -> None:
        """Answer."""
        for part in encode_frame(reply, body):
            view = memoryview(part)
            while view:
                view = view[self._sink.write(view) or 0 :]


def main() -> int:
    """Serve until the agent closes the pipe."""
    stand_guard(int(sys.argv[1]))
    channel = Channel.take_over()
    first = channel.receive()
    if first is None:
        return 0
    begin = first[0]
    if not isinstance(begin, Begin):
        channel.send(Failed(reason="training", message=f"expected begin, got {begin.kind}"))
        return 1
    if begin.confined:
        try:
            confine(_reach(begin))
        except ConfinementError as error:
            channel.send(Failed(reason="confinement", message=str(error)))
            return 1
    channel.send(Began(confined=begin.confined))
    learner = _load(begin, channel)
    if learner is None:
        return 1
    while (received := channel.receive()) is not None:
        _answer(learner, channel, *received)
    return 0


def _reach(begin: Begin) -> Reach:
    return Reach(
        readable=tuple(Path(path) for path in begin.readable),
        scratch=Path(begin.scratch),
        private=tuple(Path(path) for path in begin.private),
        gpu=begin.gpu,
        shared_memory=begin.shared_memory,
    )


def _load(begin: Begin, channel: Channel) -> "AnyLearner | None":
    """Load the user's model and data, and describe them; None after a failure that was told."""
    try:
        from blockfl.institution.loading import load_learner

        learner = load_learner(begin)
        channel.send(learner.describe())
    except WorkloadError as error:
        channel.send(Failed(reason=error.reason, message=str(error)[:_MESSAGE_LIMIT]))
    except Exception as error:
        traceback.print_exc()
        channel.send(Failed(reason="model", message=_explain(error)))
    else:
        return learner
    return None


def _answer(learner: "AnyLearner", channel: Channel, request: Request, body: bytearray) -> None:
    from blockfl.institution.vector import decode_vector, encode_vector

    try:
        if isinstance(request, Initial):
            channel.send(Values(), encode_vector(learner.initial()))
        elif isinstance(request, Train):
            trained, values = learner.train(decode_vector(body), request, channel.send)
            channel.send(trained, encode_vector(values))
        elif isinstance(request, Rehearse):
            rehearsed, values = learner.rehearse(request.training)
            channel.send(rehearsed, encode_vector(values))
        elif isinstance(request, Evaluate):
            channel.send(learner.evaluate(decode_vector(body), channel.send))
        elif isinstance(request, Save):
            learner.save(decode_vector(body), Path(request.file))
            channel.send(Saved())
        else:
            channel.send(Failed(reason="training", message=f"unexpected request: {request.kind}"))
    except WorkloadError as error:
        channel.send(Failed(reason=error.reason, message=str(error)[:_MESSAGE_LIMIT]))
    except Exception as error:
        traceback.print_exc()
        channel.send(Failed(reason="training", message=_explain(error)))


def _explain(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if own:
        text += f" ({own[-1].filename}, line {own[-1].lineno})"
    if isinstance(error, PermissionError):
        text += " (training code is confined: it reads the named model, code and data only, and has no network)"
    if isinstance(error, ModuleNotFoundError) and error.name in ("keras", "tensorflow"):
        text += " (install the training library: pip install 'blockfl[tensorflow]')"
    return text.encode(errors="replace").decode()[:_MESSAGE_LIMIT]


def _is_users(filename: str) -> bool:
    module = sys.modules.get("blockfl_user_code")
    return module is not None and filename == module.__file__


if __name__ == "__main__":
    sys.exit(main())
