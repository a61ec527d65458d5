"""Decoders of an institution's files, and of what crosses between its agent and the trainer."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from blockfl.institution.dataset import load_dataset
from blockfl.institution.errors import DataError, OutboxError
from blockfl.institution.frames import PREFIX, FrameError, Message, decode_prefix, decode_reply, decode_request
from blockfl.institution.outbox import Outbox, Parcel
from blockfl.institution.vector import decode_vector, encode_vector
from blockfl.protocol.payload import INT16
from support.decoders import Decoder, of
from support.outer_decoders import keep, scratch
from support.protocol_decoders import SEED, federation, update


def load_table(content: bytes) -> None:
    found = load_dataset(keep("rows.csv", content), "label", 0.25)
    assert np.isfinite(found.x_train).all()
    assert len(found.x_test) >= 1


def tables() -> Sequence[bytes]:
    return b"a,b,label\n1,2.5,0\n-1,1e3,1\n0.5,7,0\n", '\ufeffa,"label"\r\n1,2\r\n3,4\r\n'.encode()


def load_arrays(content: bytes) -> None:
    found = load_dataset(keep("arrays.npz", content), None, 0.25)
    assert len(found.x_train) == len(found.y_train)


def archives() -> Sequence[bytes]:
    buffer = io.BytesIO()
    rows, labels = np.ones((3, 2), dtype=np.float32), np.zeros(3, dtype=np.int64)
    np.savez(buffer, x_train=rows, y_train=labels, x_test=rows, y_test=labels)
    return (buffer.getvalue(),)


def load_parcel(content: bytes) -> None:
    """A header file in an institution's outbox."""
    place = scratch() / "outbox" / "heart" / "000001" / "sealed"
    place.mkdir(parents=True, exist_ok=True)
    (place / "header.json").write_bytes(content)
    parcel = Outbox(scratch() / "outbox").load("heart", 1)
    assert parcel.signed.encode() == content


@cache
def parcel() -> Parcel:
    """A sealed update on the disk, whose chunk and payload are changed."""
    header, chunks = update()
    return Outbox(scratch() / "kept").keep(federation().sign(header), outbox_payload(), chunks)


def read_chunk(content: bytes) -> None:
    place = parcel().directory / "chunk-000000"
    place.write_bytes(content)
    assert parcel().read_chunk(0) == content == update()[1][0]


def read_seed(content: bytes) -> None:
    place = parcel().directory / "payload"
    place.write_bytes(content)
    assert parcel().read_seed() == SEED
    assert content == outbox_payload()


@cache
def outbox_payload() -> bytes:
    return INT16.encode_payload(np.arange(federation().dimension, dtype=np.int16), SEED)


def values_of_a_frame(content: bytes) -> None:
    values = decode_vector(content)
    assert values.dtype == np.float32
    assert bytes(encode_vector(values)) == content


def vectors() -> Sequence[bytes]:
    return np.array([0, 1.5, -np.inf, np.nan], dtype="<f4").tobytes(), b""


def parcels() -> Sequence[bytes]:
    return (federation().sign(update()[0]).encode(),)


def prefix(content: bytes) -> None:
    if len(content) != PREFIX.size:
        raise FrameError("of another length")
    head, body = decode_prefix(content)
    assert 1 <= head <= 4 << 20
    assert 0 <= body < 1 << 32


def frame(decode: Callable[[bytes], Any], content: bytes) -> None:
    assert isinstance(decode(content), Message)


def replies() -> Sequence[bytes]:
    return (
        b'{"kind":"trained","samples":5,"loss":0.5}',
        b'{"kind":"evaluated","accuracy":0.5,"loss":null,"samples":3}',
        b'{"kind":"progress","epoch":1,"epochs":2,"step":3,"steps":4,"loss":null}',
        b'{"kind":"failed","reason":"data","message":"text"}',
        b'{"kind":"description","tensors":[{"name":"a","shape":[1,2]}],"train_samples":3,"test_samples":1}',
    )


def frame_requests() -> Sequence[bytes]:
    return (
        b'{"kind":"train","epochs":1,"batch_size":16,"learning_rate":0.1,"seed":1}',
        b'{"kind":"evaluate"}',
        b'{"kind":"initial"}',
        b'{"kind":"begin","confined":true,"scratch":"s","readable":["a"],"private":[],"model":null,"code":"c","data":"d",'
        b'"label":"y","test_fraction":0.5,"seed":7}',
    )


DECODERS: tuple[Decoder, ...] = (
    of("table of samples", load_table, (DataError,), tables, form="text", max_bytes=1024),
    of("arrays of samples", load_arrays, (DataError,), archives, form="bytes"),
    of("outbox", load_parcel, (OutboxError,), parcels, form="json"),
    of("outbox: chunk", read_chunk, (OutboxError,), lambda: update()[1], form="bytes", max_bytes=512),
    of("outbox: payload", read_seed, (OutboxError,), lambda: (outbox_payload(),), form="bytes", max_bytes=256),
    of("frame of values", values_of_a_frame, (FrameError,), vectors, form="bytes", max_bytes=256),
    of("frame prefix", prefix, (FrameError,), lambda: (PREFIX.pack(10, 0),), form="bytes", max_bytes=16),
    of("frame of a request", partial(frame, decode_request), (FrameError,), frame_requests, form="json"),
    of("frame of a reply", partial(frame, decode_reply), (FrameError,), replies, form="json"),
)
