"""State updates by the letter: Fabric's `Updates` message built as a message, and each write applied one by one."""

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate import StateUpdates

_FIELDS = {
    "namespace": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "collection": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "key": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "is_delete": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "value": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "version_bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}


def encode_updates_naively(updates: StateUpdates) -> bytes:
    """The bytes that enter the commit hash, from a protobuf message defined here."""
    message = _updates_class()()
    namespaces = sorted({u.namespace for u in updates.public} | {u.namespace for u in updates.hashed})
    for namespace in namespaces:
        if not namespace:
            continue
        first = len(message.kvwrites)
        for public in sorted((u for u in updates.public if u.namespace == namespace), key=lambda u: u.key.encode()):
            _add(message, public.key.encode(), public.value, public.version)
        for collection in sorted({u.collection for u in updates.hashed if u.namespace == namespace}):
            first_of_collection = len(message.kvwrites)
            hashed = [u for u in updates.hashed if (u.namespace, u.collection) == (namespace, collection)]
            for update in sorted(hashed, key=lambda u: u.key_hash):
                _add(message, update.key_hash, update.value_hash, update.version)
            message.kvwrites[first_of_collection].collection = collection
        message.kvwrites[first].namespace = namespace
    return bytes(message.SerializeToString())


def encode_version_naively(version: Iterable[int]) -> bytes:
    """Each number as the count of its bytes and the bytes."""
    encoded = b""
    for number in version:
        digits = number.to_bytes(8, "big").lstrip(b"\0")
        encoded += bytes([len(digits)]) + digits
    return encoded


def _add(message: Any, key: bytes, value: bytes | None, version: Version) -> None:
    message.kvwrites.add(
        key=key, is_delete=value is None, value=value or b"", version_bytes=encode_version_naively(version)
    )


def _updates_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="reference/updates.proto", package="reference", syntax="proto3")
    write = file.message_type.add(name="KVWrite")
    for number, (name, kind) in enumerate(_FIELDS.items(), start=1):
        write.field.add(name=name, number=number, type=kind, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
    updates = file.message_type.add(name="Updates")
    updates.field.add(
        name="kvwrites",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".reference.KVWrite",
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    pool: Any = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("reference.Updates"))
