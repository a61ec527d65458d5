"""The training process's scratch directory: made new for each start, measured, removed whatever training left there.

Training code may leave directories that cannot be read, or thousands inside each other. Neither may keep the agent from
training again.
"""

import errno
import os
import shutil
import stat
from itertools import count
from pathlib import Path
from typing import IO

_OWN = 0o700
_REMOVED = ".removed-"
_MOST_ENTRIES = 100_000


def make_scratch(path: Path) -> None:
    """Make an empty directory that only this user may enter; what was there is removed.

    Raises:
        OSError: It cannot be removed or made.
    """
    remove_tree(path)
    path.mkdir(parents=True, mode=_OWN)


def read_plain(source: Path, limit_bytes: int) -> bytes:
    """Return what a file holds that training has left; a link, a pipe or a directory in its place is refused.

    Raises:
        OSError: It is no plain file, or larger.
    """
    with _open_plain(source) as left:
        # It may have grown since; what a limit says is no size to make room for.
        size = os.fstat(left.fileno()).st_size
        content = left.read(min(size, limit_bytes) + 1)
    if len(content) > min(size, limit_bytes):
        raise OSError(errno.EFBIG, f"more than {limit_bytes} bytes", str(source))
    return content


def take_file(source: Path, target: Path) -> None:
    """Copy a file that training has left; a link, a pipe or a directory in its place is refused.

    Raises:
        OSError: It is no plain file, or the copy cannot be written.
    """
    with _open_plain(source) as left, target.open("wb") as taken:
        shutil.copyfileobj(left, taken)


def _open_plain(source: Path) -> IO[bytes]:
    left = os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(left.fileno()).st_mode):
        left.close()
        raise OSError(errno.EINVAL, "not a plain file", str(source))
    return left


def remove_tree(path: Path) -> None:
    """Remove a directory with all beneath it, however deep and whatever its permissions; absent is done.

    Each inner directory is first moved up beside the others, so no path grows long and nothing recurses.

    Raises:
        OSError: Something belongs to another user.
    """
    waiting = [one for one in (path, *path.parent.glob(f"{path.name}{_REMOVED}*")) if _is_directory(one)]
    names = (path.with_name(f"{path.name}{_REMOVED}{number}") for number in count())
    for directory in waiting:
        directory.chmod(_OWN)
    while waiting:
        directory = waiting.pop()
        for entry in list(directory.iterdir()):
            if not _is_directory(entry):
                entry.unlink()
                continue
            entry.chmod(_OWN)
            target = next(name for name in names if not _is_directory(name))
            entry.rename(target)
            waiting.append(target)
        directory.rmdir()


def measure_tree(path: Path) -> int:
    """Return how many bytes a directory takes on the disk, with all beneath it; what vanishes meanwhile is left out.

    A tree of more entries than anybody measures quickly counts as endless.
    """
    size, entries, waiting = 0, 0, [str(path)]
    while waiting:
        try:
            found = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        entries += len(found)
        if entries > _MOST_ENTRIES:
            return 1 << 62
        for entry in found:
            try:
                size += 512 * entry.stat(follow_symlinks=False).st_blocks
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
            except OSError:
                continue
    return size


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
