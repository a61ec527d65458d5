"""The evidence bundle: everything public that a proof needs, in one file that verifies without a network.

A bundle is a tar archive: any `tar` lists and unpacks it. Its bytes follow from its content alone:

    blocks/0000000000.block   the channel's blocks, one after the other
    payloads/<sha256>         chunks of initial models and sums, named by their digest
    manifest.json             canonical JSON: what it is about, and the digest of every file above

A later bundle may continue an earlier one: it begins with the next block, names the last block of the earlier one, and
holds no payload twice. Bundles hold no key, no sealed update and nothing of an institution's data.

Example:
    with Bundle.open(Path("evidence.bundle")) as bundle:
        for block in bundle.blocks():
            proof.add(block)
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from pydantic import ValidationError

from blockfl.audit.errors import VerificationError
from blockfl.fabric.channel.block import decode_block, header_hash
from blockfl.fabric.errors import FabricError
from blockfl.fabric.validate.temporary import TemporaryDatabase
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import Digest, Natural, Record, compute_digest
from blockfl.protocol.codes import Code, ProtocolError

MANIFEST = "manifest.json"
_BLOCKS, _PAYLOADS = "blocks/", "payloads/"
_SUFFIX = ".block"
_MODE = 0o644
_PIECE_BYTES = 1 << 20
_MOST_MANIFEST_BYTES = 1 << 28
_SECTOR = tarfile.BLOCKSIZE
_PAGE = 500
_FILES = "CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT UNIQUE, start INTEGER, size INTEGER, digest TEXT)"


class BundleManifest(Record):
    """What a bundle is about.

    Attributes:
        first_block: Number of its first block; not 0 in a bundle that continues another.
        previous_hash: Header hash of the block before its first, "" for block 0.
        last_hash: Header hash of its last block.
        block_digests: SHA-256 of each block's file, ascending.
        payloads: SHA-256 of each payload, in the archive's order.
    """

    format: Literal["blockfl-evidence-1"] = "blockfl-evidence-1"
    channel: str
    contract: str
    first_block: Natural
    previous_hash: str
    last_hash: Digest
    block_digests: tuple[Digest, ...]
    payloads: tuple[Digest, ...]

    @property
    def numbers(self) -> range:
        """The numbers of its blocks."""
        return range(self.first_block, self.first_block + len(self.block_digests))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the manifest that these bytes encode; unlike a record of the ledger it may be large.

        Raises:
            ProtocolError: BFL301: the bytes are anything else.
        """
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ProtocolError(Code.MALFORMED, f"{place or 'not JSON'}: {first['msg']}") from error
        if manifest.encode() != data:
            raise ProtocolError(Code.MALFORMED, "not in canonical form (RFC 8785)")
        return manifest


class _Files:
    """Where each file of an archive is, and its digest; in a temporary file, for there is one for each block."""

    def __init__(self) -> None:
        self._database = TemporaryDatabase(_FILES)
        self.count = 0

    def add(self, name: str, start: int, size: int, digest: str) -> None:
        """Add the next file."""
        row = (name, start, size, digest)
        self._database.execute("INSERT INTO files (name, start, size, digest) VALUES (?, ?, ?, ?)", row)
        self.count += 1

    def find(self, name: str) -> tuple[int, int] | None:
        """Return where a file starts and its size, None if there is none of this name."""
        row = self._database.row("SELECT start, size FROM files WHERE name = ?", (name,))
        return None if row is None else (row[0], row[1])

    def digests(self, kind: str = "") -> Iterator[tuple[str, str]]:
        """Yield name and digest of the files whose names begin so, in the archive's order."""
        last = 0
        query = "SELECT number, name, digest FROM files WHERE number > ? AND substr(name, 1, ?) = ? ORDER BY number"
        while rows := self._database.rows(f"{query} LIMIT {_PAGE}", (last, len(kind), kind)):
            for last, name, digest in rows:  # noqa: B007
                yield name, digest


class BundleWriter:
    """Writes a bundle, file by file; nothing is left of one that was not finished.

    Args:
        path: Where it goes; must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._blocks: list[str] = []
        self._payloads: dict[str, None] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self._path.exists():
            raise LedgerError(f"{self._path} exists already; name another file, or remove it")
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise LedgerError(f"{self._partial}: cannot be written ({error.strerror})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def add_block(self, number: int, encoded: bytes) -> None:
        """Add the next block: its serialised common.Block."""
        self._write(_block_name(number), encoded)
        self._blocks.append(compute_digest(encoded))

    def add_payload(self, chunk: bytes) -> None:
        """Add a chunk of a model or sum; one that is there already is left out."""
        digest = compute_digest(chunk)
        if digest not in self._payloads:
            self._write(_PAYLOADS + digest, chunk)
            self._payloads[digest] = None

    def finish(
        self, *, channel: str, contract: str, first_block: int, previous_hash: str, last_hash: str
    ) -> BundleManifest:
        """Write the manifest and put the file in its place."""
        manifest = BundleManifest(
            channel=channel,
            contract=contract,
            first_block=first_block,
            previous_hash=previous_hash,
            last_hash=last_hash,
            block_digests=tuple(self._blocks),
            payloads=tuple(self._payloads),
        )
        self._write(MANIFEST, manifest.encode())
        file = self._opened
        file.write(bytes(2 * _SECTOR))
        file.flush()
        file.close()
        self._file = None
        self._partial.rename(self._path)
        return manifest

    @property
    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise LedgerError("the bundle is not open: write it inside `with`")
        return self._file

    def _write(self, name: str, content: bytes) -> None:
        try:
            self._opened.write(_header(name, len(content)) + content + bytes(-len(content) % _SECTOR))
        except OSError as error:
            raise LedgerError(f"{self._partial}: cannot be written ({error.strerror})") from error


class Bundle:
    """A bundle that has been read once: every byte of it is where and what its manifest says.

    That says nothing yet about whether its content is true: the chain's own signatures do.
    """

    def __init__(self, path: Path, file: BinaryIO, manifest: BundleManifest, files: _Files) -> None:
        self.path = path
        self.manifest = manifest
        self._file = file
        self._files = files

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a bundle and check it against its manifest.

        Raises:
            LedgerError: It cannot be read.
            VerificationError: It is no bundle, or a byte of it is not as it was written; the text says where.
        """
        try:
            file = path.open("rb")
        except OSError as error:
            raise LedgerError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            manifest, files = _read(path, file)
            bundle = cls(path, file, manifest, files)
            bundle._check_last()
        except BaseException:
            file.close()
            raise
        return bundle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def blocks(self) -> Iterator[Any]:
        """Its blocks (common.Block), ascending.

        Raises:
            VerificationError: One does not parse.
        """
        for number in self.manifest.numbers:
            yield self._block(number)

    def block(self, number: int) -> Any | None:
        """A block (common.Block) by its number, or None.

        Raises:
            VerificationError: It does not parse.
        """
        return self._block(number) if number in self.manifest.numbers else None

    def payload(self, digest: str) -> bytes | None:
        """A chunk by its digest, or None."""
        return self._content(_PAYLOADS + digest)

    def _check_last(self) -> None:
        """Check that the manifest ends with the header hash of the last block."""
        if not self.manifest.numbers:
            raise VerificationError(f"{self.path}: it holds no block")
        number = self.manifest.numbers[-1]
        found = header_hash(self._block(number).header).hex()
        if found != self.manifest.last_hash:
            raise VerificationError(
                f"{self.path}: {MANIFEST} names {self.manifest.last_hash} as the last block's hash, it is {found}",
                number,
            )

    def _block(self, number: int) -> Any:
        content = self._content(_block_name(number))
        assert content is not None
        try:
            return decode_block(content)
        except FabricError as error:
            raise VerificationError(f"{self.path}: {error}", number) from error

    def _content(self, name: str) -> bytes | None:
        found = self._files.find(name)
        if found is None:
            return None
        self._file.seek(found[0])
        return self._file.read(found[1])


class BundleChain:
    """Several bundles, each of which continues the one before: read as one.

    Args:
        bundles: In any order.

    Raises:
        VerificationError: One is missing, or they are not of one chain.
    """

    def __init__(self, bundles: Iterable[Bundle]) -> None:
        self._bundles = sorted(bundles, key=lambda one: one.manifest.first_block)
        self.manifest = self._bundles[0].manifest
        expected, previous_hash = 0, ""
        for bundle in self._bundles:
            manifest = bundle.manifest
            if (manifest.channel, manifest.contract) != (self.manifest.channel, self.manifest.contract):
                raise VerificationError(
                    f"{bundle.path} is about {manifest.contract} on {manifest.channel}, and not about "
                    f"{self.manifest.contract} on {self.manifest.channel} as the others"
                )
            if manifest.first_block != expected:
                raise VerificationError(
                    f"expected a bundle that begins with block {expected}, {bundle.path} begins with block "
                    f"{manifest.first_block}: name the bundle that it continues as well"
                )
            if manifest.previous_hash != previous_hash:
                raise VerificationError(
                    f"{bundle.path} continues another chain: the block before its first is "
                    f"{manifest.previous_hash[:16]}…, expected {previous_hash[:16]}…",
                    manifest.first_block,
                )
            expected += len(manifest.numbers)
            previous_hash = manifest.last_hash
        self.height = expected

    def blocks(self) -> Iterator[Any]:
        """All blocks (common.Block), ascending."""
        for bundle in self._bundles:
            yield from bundle.blocks()

    def block(self, number: int) -> Any:
        """Return a block (common.Block) by its number.

        Raises:
            VerificationError: No bundle has it.
        """
        for bundle in self._bundles:
            if number in bundle.manifest.numbers:
                return bundle.block(number)
        raise VerificationError(f"the evidence ends with block {self.height - 1}, before block {number}")

    async def read_model_chunk(self, task: str, digest: str) -> bytes:
        """Return a chunk of a model or sum, as a ledger's client does.

        Raises:
            VerificationError: No bundle has it.
        """
        for bundle in self._bundles:
            content = bundle.payload(digest)
            if content is not None:
                return content
        raise VerificationError(f"task {task}: no bundle holds the payload {digest}")


def _block_name(number: int) -> str:
    return f"{_BLOCKS}{number:010d}{_SUFFIX}"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, _MODE
    return info.tobuf(tarfile.USTAR_FORMAT)


def _read(path: Path, file: BinaryIO) -> tuple[BundleManifest, _Files]:
    """Read every byte once: headers and padding must be those that writing gives, contents those of the manifest."""
    files = _Files()
    while True:
        start = file.tell()
        header = file.read(_SECTOR)
        name, size = _parse_header(path, header, start)
        start = file.tell()
        if name == MANIFEST:
            manifest = _read_manifest(path, file, size)
            _check_end(path, file, size)
            _check_files(path, manifest, files)
            return manifest, files
        if files.find(name) is not None:
            raise VerificationError(f"{path}: {name} is there twice")
        digest = _digest(path, file, name, size)
        _check_padding(path, file, name, size)
        files.add(name, start, size, digest)


def _parse_header(path: Path, header: bytes, start: int) -> tuple[str, int]:
    try:
        info = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "strict")
        canonical = _header(info.name, info.size)
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise VerificationError(
            f"{path}: expected a file of an evidence bundle at byte {start}, got something else: the bundle was cut "
            "off, damaged, or is none"
        ) from error
    if canonical != header:
        at = next(index for index, pair in enumerate(zip(canonical, header, strict=True)) if pair[0] != pair[1])
        raise VerificationError(f"{path}: byte {start + at}, in the header of {info.name}, is not as it was written")
    return info.name, info.size


def _digest(path: Path, file: BinaryIO, name: str, size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left:
        piece = file.read(min(left, _PIECE_BYTES))
        if not piece:
            raise VerificationError(f"{path}: {name} is cut off, {left} bytes are missing")
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def _check_padding(path: Path, file: BinaryIO, name: str, size: int) -> None:
    padding = file.read(-size % _SECTOR)
    if padding.strip(b"\0") or len(padding) != -size % _SECTOR:
        raise VerificationError(f"{path}: the bytes after {name} are not as they were written")


def _read_manifest(path: Path, file: BinaryIO, size: int) -> BundleManifest:
    if size > _MOST_MANIFEST_BYTES:
        raise VerificationError(f"{path}: expected a manifest of at most {_MOST_MANIFEST_BYTES} bytes, got {size}")
    try:
        return BundleManifest.decode(file.read(size))
    except ProtocolError as error:
        raise VerificationError(f"{path}: {MANIFEST}: {error}") from error


def _check_end(path: Path, file: BinaryIO, size: int) -> None:
    _check_padding(path, file, MANIFEST, size)
    if file.read() != bytes(2 * _SECTOR):
        raise VerificationError(f"{path}: the bytes after {MANIFEST} are not as they were written")


def _check_files(path: Path, manifest: BundleManifest, files: _Files) -> None:
    """Compare what is there, in its order, with the manifest.

    Writing puts blocks before the payloads that they announce, with anything between: only each kind has an order.
    """
    blocks = zip(map(_block_name, manifest.numbers), manifest.block_digests, strict=True)
    expected = chain(blocks, ((_PAYLOADS + digest, digest) for digest in manifest.payloads))
    found = chain(files.digests(_BLOCKS), files.digests(_PAYLOADS))
    is_same = all(one == other for one, other in zip_longest(expected, found))
    if not is_same or files.count != len(manifest.block_digests) + len(manifest.payloads):
        raise VerificationError(f"{path}: {_explain_files(manifest, files)}")


def _explain_files(manifest: BundleManifest, files: _Files) -> str:
    """Say which of the files is not what the manifest says."""
    blocks = {_block_name(n): one for n, one in zip(manifest.numbers, manifest.block_digests, strict=True)}
    expected = blocks | {_PAYLOADS + digest: digest for digest in manifest.payloads}
    for name, digest in files.digests():
        if expected.get(name) != digest:
            return f"{name} has the digest {digest}, expected {expected.get(name) or 'no such file'}"
    if missing := [name for name in expected if files.find(name) is None]:
        return f"{missing[0]} is missing, and {len(missing) - 1} more"
    if len(manifest.payloads) != len(set(manifest.payloads)):
        return f"{MANIFEST} names a payload twice"
    return f"the files in {_BLOCKS} or {_PAYLOADS} are in another order than the manifest's"
