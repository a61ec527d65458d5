"""Which code this is: everything that a contract service runs, and what an operator agrees to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from blockfl.contract.release import (
    DEPENDENCIES,
    Release,
    describe_change,
    identify_own_package,
    package_release,
    read_packaged_release,
    read_release,
)
from blockfl.fabric.errors import ConfigError
from blockfl.fabric.transaction.package import package_contract, package_id
from blockfl.network.code_change import Agreement, CodeChange, agree_on_code, agree_on_succession
from blockfl.network.errors import NetworkError
from support.other_installation import install_other, run_other

_LOADED = """
import json, sys
import blockfl.contract.__main__
print(json.dumps([(name, getattr(module, "__file__", None)) for name, module in sorted(sys.modules.items())]))
"""
_MODULES_OF = {
    "cryptography": "cryptography",
    "grpc": "grpcio",
    "fabric_protos": "hyperledger-fabric-protos",
    "google": "protobuf",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "rfc8785": "rfc8785",
}
_DECIDE_NOTHING = {"typing_extensions", "typing_inspection", "annotated_types", "pydantic_core", "cython_runtime"}
_DECIDE_NOTHING |= {"prometheus_client"}
"""Pinned by pydantic, only types, or counters of calls that have ended."""


def other(**changes: object) -> Release:
    return Release.model_validate({**read_release().model_dump(), **changes})


def own_package() -> bytes:
    return package_release("blockfl", read_release())


def test_the_release_covers_every_module_of_ours_that_a_contract_service_loads() -> None:
    said = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)
    loaded = {name for name, path in json.loads(said.stdout) if name.startswith("blockfl.") and path is not None}
    covered = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in read_release().files}
    assert len(loaded) > 40
    assert loaded - covered == set()


def test_the_release_names_every_distribution_that_a_contract_service_loads() -> None:
    said = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)
    installed = [
        name
        for name, path in json.loads(said.stdout)
        if "." not in name and path is not None and "site-packages" in path and name not in sys.stdlib_module_names
    ]
    unknown = {name for name in installed if not name.startswith("_")} - _MODULES_OF.keys() - _DECIDE_NOTHING
    assert unknown == set()
    assert sorted(_MODULES_OF.values()) == list(DEPENDENCIES)


def test_a_package_tells_what_it_stands_for_and_its_id_covers_it() -> None:
    assert read_packaged_release(own_package()) == read_release()
    assert package_id(own_package()) == identify_own_package("blockfl")
    assert package_id(own_package()).startswith(f"blockfl_{read_release().name}:")
    changed = other(dependencies=read_release().dependencies | {"numpy": "0"})
    assert package_release("blockfl", changed) != own_package()
    with pytest.raises(ConfigError, match=r"tar\.gz with release\.json"):
        read_packaged_release(package_contract("app"))


def test_a_change_is_told_file_by_file() -> None:
    files = dict(read_release().files)
    files["blockfl/contract/credits.py"] = "0" * 64
    del files["blockfl/contract/query.py"]
    after = other(version="2", files=files, dependencies=read_release().dependencies | {"numpy": "9.9"})
    lines = describe_change(read_release(), after)
    assert lines[:2] == ["contract: version 1 -> 2", f"numpy: {read_release().dependencies['numpy']} -> 9.9"]
    assert [line.partition(" (")[0] for line in lines[2:]] == [
        "blockfl/contract/credits.py: changed",
        "blockfl/contract/query.py: removed",
    ]


def keep(path: Path, release: Release) -> None:
    path.write_bytes(package_release("blockfl", release))


def remember(asked: list[CodeChange], change: CodeChange) -> bool:
    """A person who agrees to everything."""
    asked.append(change)
    return True


def test_other_code_is_refused_until_it_is_agreed_to_by_its_name(tmp_path: Path) -> None:
    package = tmp_path / "contract.tar.gz"
    agree_on_code(package, "blockfl", Agreement())
    before = other(files=read_release().files | {"blockfl/contract/credits.py": "0" * 64})
    keep(package, before)
    own = read_release().name
    for agreement in (Agreement(), Agreement(upgrade="1-0000000000000000"), Agreement(ask=lambda _: False)):
        with pytest.raises(NetworkError, match=rf"{before.name}, and would become {own}(.|\n)*--upgrade {own}"):
            agree_on_code(package, "blockfl", agreement)
    assert list(tmp_path.iterdir()) == [package]
    agree_on_code(package, "blockfl", Agreement(upgrade=own))
    # What was agreed to is known when the ledger still has the former definition.
    agree_on_succession(package, "blockfl", before.name, Agreement())


def test_a_person_who_is_there_is_shown_what_changes(tmp_path: Path) -> None:
    package = tmp_path / "contract.tar.gz"
    keep(package, other(files=read_release().files | {"blockfl/contract/credits.py": "0" * 64}))
    shown: list[CodeChange] = []
    agree_on_code(package, "blockfl", Agreement(ask=lambda change: remember(shown, change)))
    assert "blockfl/contract/credits.py: changed" in shown[0].describe()


def test_going_back_needs_another_word(tmp_path: Path) -> None:
    package = tmp_path / "contract.tar.gz"
    keep(package, other(version="2"))
    own = read_release().name
    asked: list[CodeChange] = []
    with pytest.raises(NetworkError, match=f"is older.*--downgrade {own}"):
        agree_on_code(package, "blockfl", Agreement(upgrade=own, ask=lambda change: remember(asked, change)))
    assert asked == []
    agree_on_code(package, "blockfl", Agreement(downgrade=own))


def test_code_that_was_in_force_before_is_older_whatever_its_version_says(tmp_path: Path) -> None:
    package = tmp_path / "contract.tar.gz"
    later = other(files=read_release().files | {"blockfl/contract/credits.py": "0" * 64})
    keep(package, later)
    former = tmp_path / "former-contracts" / f"blockfl_{read_release().name}.tar.gz"
    former.parent.mkdir()
    keep(former, read_release())
    own = read_release().name
    with pytest.raises(NetworkError, match=f"was in force before.*--downgrade {own}"):
        agree_on_code(package, "blockfl", Agreement(upgrade=own))
    agree_on_code(package, "blockfl", Agreement(downgrade=own))
    # It is the newest again: the way forward is an upgrade.
    assert not former.exists()


def test_what_others_brought_into_force_is_not_replaced_unasked(tmp_path: Path) -> None:
    package = tmp_path / "contract.tar.gz"
    keep(package, read_release())
    agree_on_succession(package, "blockfl", read_release().name, Agreement())
    with pytest.raises(NetworkError, match=r"others have approved it(.|\n)*--upgrade"):
        agree_on_succession(package, "blockfl", "1-ffffffffffffffff", Agreement())
    with pytest.raises(NetworkError, match=r"--downgrade"):
        agree_on_succession(package, "blockfl", "2-ffffffffffffffff", Agreement(upgrade=read_release().name))


def test_a_changed_file_is_another_release_and_the_command_tells_which(tmp_path: Path) -> None:
    python = install_other(tmp_path, "a change")
    said = run_other(python, "--version")
    assert said.returncode == 0, said.stderr
    assert "contract 1-" in said.stdout
    assert read_release().name not in said.stdout
