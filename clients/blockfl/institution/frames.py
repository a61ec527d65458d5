"""Frames between the agent and the training process: a JSON head and raw little-endian float32 values.

Layout: head length and body length (uint32, little-endian), head, body. The head is one of the messages below,
decoded strictly; the body is one vector in the manifest's order, or empty. The reader names the body sizes that it
accepts before it reads one, so that the other side can neither exhaust it nor surprise it.

Example:
    data = encode_frame(Train(epochs=1, batch_size=32, learning_rate=None, seed=7), encode_vector(base))
"""

import struct
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from blockfl.protocol.dtype import DtypeName
from blockfl.protocol.training import MAX_CLASSES

HEAD_LIMIT_BYTES = 4 * 1024 * 1024
MAX_TENSORS = 10_000
MAX_NOTES = 10_000
PREFIX = struct.Struct("<II")

Text = Annotated[str, Field(max_length=20_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class FrameError(Exception):
    """The bytes are not a frame, or not one that is expected here."""


class Message(BaseModel):
    """The head of a frame."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Begin(Message):
    """First request: what to confine, and whose code and data to load. ``table`` are the task's columns in JSON.

    With ``tallies`` these are counted, and nothing is trained. ``gpu`` and ``shared_memory``: see ``Reach``.
    """

    kind: Literal["begin"] = "begin"
    confined: bool
    scratch: str
    readable: tuple[str, ...]
    private: tuple[str, ...]
    model: str | None
    code: str | None
    data: str | None
    label: str | None
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Count | None
    table: str | None = None
    tallies: bool = False
    gpu: bool = False
    shared_memory: bool = False


class Initial(Message):
    """Ask for the model's initial values."""

    kind: Literal["initial"] = "initial"


class Train(Message):
    """Train from the values in the body. ``learning_rate`` None: the model's own, whose schedule goes on by round.

    ``proximal`` is FedProx's μ, 0 without the term. ``class_weights`` are what a sample's loss counts, by the number of
    its class; none: all the same. ``optimiser`` is a file that training leaves the optimizer's state
    in, and finds that after the round before where it ``resumes``; None: every round begins anew.
    """

    kind: Literal["train"] = "train"
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)] | None
    seed: Count | None
    round: Annotated[int, Field(ge=1)] = 1
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    class_weights: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(max_length=MAX_CLASSES)] = ()
    optimiser: str | None = None
    resumes: bool = False


class Rehearse(Message):
    """Train on a few samples as ``training`` says and evaluate them, from the model's own values, which stay."""

    kind: Literal["rehearse"] = "rehearse"
    training: Train


class Evaluate(Message):
    """Evaluate the values in the body on the test samples."""

    kind: Literal["evaluate"] = "evaluate"


class Save(Message):
    """Write the model with the values in the body as a file of its framework."""

    kind: Literal["save"] = "save"
    file: str


class TensorShape(Message):
    """One tensor of the model, and what happens to it (``blockfl.protocol.manifest.Tensor``)."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=2**28)], ...], Field(max_length=8)]
    kind: Literal["weight", "statistic", "variance", "frozen"] = "weight"
    dtype: DtypeName = "float32"


class Began(Message):
    """The process is confined (or not), and is about to load the user's model and data."""

    kind: Literal["began"] = "began"
    confined: bool


class ModelDescription(Message):
    """The model's tensors in their order, how many samples there are, and what is to be known of both, in words."""

    kind: Literal["description"] = "description"
    tensors: Annotated[tuple[TensorShape, ...], Field(min_length=1, max_length=MAX_TENSORS)]
    train_samples: Annotated[int, Field(ge=0, le=2**53)]
    test_samples: Annotated[int, Field(ge=0, le=2**53)]
    notes: Annotated[tuple[Text, ...], Field(max_length=MAX_NOTES)] = ()


class Values(Message):
    """The initial values, in the body."""

    kind: Literal["values"] = "values"


class Saved(Message):
    """The model's file is written."""

    kind: Literal["saved"] = "saved"


class Trained(Message):
    """Training is done; the new values are in the body. ``loss`` None: not finite."""

    kind: Literal["trained"] = "trained"
    samples: Annotated[int, Field(ge=1, le=2**53)]
    loss: Finite | None


class Measured(Message):
    """A number of an evaluation, and how those of several institutions become one (``protocol.metrics.Metric``)."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    value: Finite
    pooling: Literal["mean", "root_mean_square", "institution"] = "institution"


class Evaluated(Message):
    """The result of an evaluation: the loss (None: not finite), an accuracy where there is one, and other numbers."""

    kind: Literal["evaluated"] = "evaluated"
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    loss: Finite | None
    samples: Annotated[int, Field(ge=1, le=2**53)]
    others: Annotated[tuple[Measured, ...], Field(max_length=62)] = ()


class Rehearsed(Message):
    """Training on a few samples and evaluating them works; ``loss`` of training, the values after it in the body.

    ``scheduled``: the model's own schedule sets the learning rate, so that later steps may change more than these.
    """

    kind: Literal["rehearsed"] = "rehearsed"
    samples: Annotated[int, Field(ge=1, le=2**53)]
    loss: Finite
    scheduled: bool = False


class TrainingProgress(Message):
    """Epoch ``epoch`` of ``epochs``, ``step`` of ``steps`` within it; both count from 1. Sent once in a while."""

    kind: Literal["progress"] = "progress"
    epoch: Count
    epochs: Count
    step: Count
    steps: Count
    loss: Finite | None


class Failed(Message):
    """The request failed; the process goes on unless it could not begin."""

    kind: Literal["failed"] = "failed"
    reason: Literal["confinement", "model", "data", "training"]
    message: Text


Request = Begin | Initial | Train | Rehearse | Evaluate | Save
Reply = Began | ModelDescription | Values | Trained | Rehearsed | Evaluated | Saved | TrainingProgress | Failed
M = TypeVar("M")
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


def encode_frame(message: Request | Reply, body: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """Return prefix and head, and the body, to be written one after the other.

    Raises:
        FrameError: The head or the body is too large.
    """
    head = message.model_dump_json().encode()
    if len(head) > HEAD_LIMIT_BYTES or len(body) >= 2**32:
        raise FrameError(f"a frame of {len(head)} and {len(body)} bytes is too large")
    return PREFIX.pack(len(head), len(body)) + head, body


def decode_prefix(prefix: bytes) -> tuple[int, int]:
    """Return the lengths of head and body.

    Raises:
        FrameError: The head's length is 0 or over the limit.
    """
    head, body = PREFIX.unpack(prefix)
    if not 1 <= head <= HEAD_LIMIT_BYTES:
        raise FrameError(f"a head of {head} bytes: expected 1 to {HEAD_LIMIT_BYTES}")
    return head, body


def decode_request(head: bytes) -> Request:
    """Return the request in these bytes.

    Raises:
        FrameError: They hold none.
    """
    return _decode(_REQUEST, head)


def decode_reply(head: bytes) -> Reply:
    """Return the reply in these bytes.

    Raises:
        FrameError: They hold none.
    """
    return _decode(_REPLY, head)


def _decode(adapter: TypeAdapter[M], head: bytes) -> M:
    try:
        return adapter.validate_json(head)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FrameError(f"not a message of this protocol: {place}: {first['msg']}") from error
