"""The scratch directory is made new whatever training left in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from blockfl.institution.scratch import make_scratch, measure_tree, remove_tree, take_file


def nest(directory: Path, depth: int) -> None:
    """Directories inside each other, deeper than a path may be long."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        for _ in range(depth):
            Path("inner").mkdir()
            os.chdir("inner")
    finally:
        os.chdir(before)


def test_thousands_of_directories_inside_each_other_are_removed(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    nest(scratch, 3000)
    make_scratch(scratch)
    assert list(tmp_path.iterdir()) == [scratch]
    assert list(scratch.iterdir()) == []


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "rows.csv").write_text("1")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "link").symlink_to(kept)
    (scratch / "broken").symlink_to(tmp_path / "nothing")
    remove_tree(scratch)
    assert not scratch.exists()
    assert (kept / "rows.csv").read_text() == "1"


def test_what_an_interrupted_removal_left_is_removed_by_the_next(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    (tmp_path / "scratch.removed-0" / "deep").mkdir(parents=True)
    (scratch / "a" / "b").mkdir(parents=True)
    make_scratch(scratch)
    assert list(tmp_path.iterdir()) == [scratch]


SEAL = """
import os, sys
from pathlib import Path
from tempfile import TemporaryDirectory
from blockfl.institution.scratch import make_scratch
if os.getuid() == 0:
    os.setuid(65534)
scratch = Path(sys.argv[1]) / "scratch"
(scratch / "closed" / "inner").mkdir(parents=True)
(scratch / "closed" / "inner" / "file").write_text("x")
(scratch / "closed" / "inner").chmod(0)
(scratch / "closed").chmod(0)
scratch.chmod(0)
make_scratch(scratch)
print(list(scratch.iterdir()))
"""


def test_directories_without_any_permission_are_removed_by_an_ordinary_user() -> None:
    # pytest's own directories are closed to other users.
    with TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        done = subprocess.run([sys.executable, "-c", SEAL, home], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_what_is_on_the_disk_counts_and_not_what_a_file_claims(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "real").write_bytes(os.urandom(1 << 20))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert 1 << 20 <= measure_tree(tmp_path) < 2 << 20


def test_a_tree_of_endlessly_many_files_counts_as_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockfl.institution.scratch._MOST_ENTRIES", 10)
    for number in range(11):
        (tmp_path / str(number)).touch()
    assert measure_tree(tmp_path) > 1 << 60


def test_only_a_plain_file_is_taken_from_the_scratch_directory(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "key.pem")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "plain").write_text("model")
    for name in ("link", "pipe", "directory", "absent"):
        with pytest.raises(OSError, match=name):
            take_file(tmp_path / name, tmp_path / "taken")
        assert not (tmp_path / "taken").exists()
    take_file(tmp_path / "plain", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "model"
