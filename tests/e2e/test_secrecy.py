"""An update is in the clear nowhere but with its institution, the committee's memory and the aggregator's.

In the end an institution has it erased, and the evidence of all that still verifies elsewhere.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from blockfl.audit.verification import read_anchor
from support.federation_processes import INSTITUTIONS, FederationProcesses
from support.numpy_institution import make_marked_values

DIMENSION = 4096
TASK = "secrecy"
WINDOW_BYTES = 48
SEALED_BYTES = 2 * DIMENSION
ERASED = "hungary"


@pytest.fixture(scope="module")
def trained(federation: FederationProcesses) -> FederationProcesses:
    federation.create_task(TASK, dimension=DIMENSION, rounds=1)
    for organisation in INSTITUTIONS:
        federation.start_institution(organisation, TASK, dimension=DIMENSION, options=["--marked"])
    federation.wait_for_institutions(TASK)
    (round_,) = federation.query("audit", "rounds", "--task", TASK)
    assert round_["accepted"] == list(INSTITUTIONS), "the marked updates must have been judged and summed"
    return federation


def make_needles() -> list[bytes]:
    """Windows of every institution's values, as they are and in the usual spellings."""
    needles = []
    for seed in range(len(INSTITUTIONS)):
        content = make_marked_values(DIMENSION, seed).astype("<i2").tobytes()
        for start in (0, 3 * 401 * 2, len(content) - WINDOW_BYTES):
            window = content[start : start + WINDOW_BYTES]
            needles += [window, window.hex().encode(), base64.b64encode(window)]
    return needles


def files_below(*directories: Path) -> Iterator[Path]:
    for directory in directories:
        for root, _, names in os.walk(directory):
            yield from (Path(root) / name for name in names)


def find(needles: list[bytes], path: Path) -> bytes | None:
    content = path.read_bytes()
    return next((needle for needle in needles if needle in content), None)


@pytest.mark.slow
def test_no_file_of_a_node_a_service_or_an_aggregator_holds_an_update_in_the_clear(
    trained: FederationProcesses,
) -> None:
    looked_at = list(files_below(trained.network, trained.directory / "aggregators", trained.directory / "logs"))
    needles = make_needles()
    assert sum(path.stat().st_size for path in looked_at) > len(INSTITUTIONS) * SEALED_BYTES, "the ciphertext is there"
    assert [path for path in looked_at if find(needles, path)] == []


@pytest.mark.slow
def test_the_search_finds_an_update_where_there_is_one(trained: FederationProcesses, tmp_path: Path) -> None:
    planted = tmp_path / "node" / "block"
    planted.parent.mkdir()
    planted.write_bytes(os.urandom(5000) + make_marked_values(DIMENSION, 2).astype("<i2").tobytes() + os.urandom(5000))
    assert [path for path in files_below(tmp_path) if find(make_needles(), path)] == [planted]


@pytest.mark.slow
def test_the_sum_is_that_of_the_updates_though_nobody_saw_one(trained: FederationProcesses) -> None:
    (round_,) = trained.query("audit", "rounds", "--task", TASK)
    assert round_["state"] == "published"
    updates = np.stack([make_marked_values(DIMENSION, seed) for seed in range(len(INSTITUTIONS))])
    total = updates.sum(axis=0, dtype="<i4").tobytes()[:256]
    stored = [path for path in files_below(trained.network) if total in path.read_bytes()]
    assert stored, "the sum belongs to all members and is in their collection"


def read_dialling_keys(trained: FederationProcesses) -> list[bytes]:
    keys = (trained.network / "organisations").glob("*/contract/client-key.pem")
    return [path.read_bytes().splitlines()[1] for path in keys]


@pytest.mark.slow
def test_no_private_key_is_in_an_environment_a_log_or_the_ledger(trained: FederationProcesses) -> None:
    secrets = []
    for path in files_below(trained.network / "organisations"):
        if "data" in path.relative_to(trained.network).parts:
            continue
        if path.name.endswith("key.pem"):
            secrets.append(path.read_bytes().splitlines()[1])
        elif path.name == "opening-key":
            secrets.append(path.read_bytes().strip())
    assert len(secrets) > 3 * 7
    ledgers = (trained.network / "node", *(trained.network / "organisations").glob("*/data"))
    places = list(files_below(*ledgers, trained.network / "logs", trained.directory / "logs"))
    holding = [path for path in places if find(secrets, path)]
    # Fabric's peers keep the key with which they dial their contract service beside the package; it opens nothing else.
    dialling = [path for path in holding if path.match("externalbuilder/builds/*/release/chaincode/server/*.json")]
    assert [path for path in holding if path not in dialling] == []
    assert {path.stat().st_mode & 0o777 for path in dialling} <= {0o600}
    others = [key for key in secrets if key not in read_dialling_keys(trained)]
    assert [path for path in dialling if find(others, path)] == []
    if trained.ledger == "compose":
        # Of this machine's processes only the aggregators are ours to see; test_containers looks into the containers.
        return
    environments = [process.info["environ"] for process in psutil.process_iter(["environ", "cmdline"])
                    if str(trained.directory) in " ".join(process.info["cmdline"] or [])]  # fmt: skip
    assert len(environments) >= 8
    held = "\n".join(value for environment in environments for value in (environment or {}).values()).encode()
    assert not any(secret in held for secret in secrets)


@pytest.mark.slow
def test_an_institution_has_its_updates_erased_and_the_evidence_still_verifies_on_another_machine(
    trained: FederationProcesses, tmp_path: Path
) -> None:
    earlier, later = tmp_path / "earlier.bundle", tmp_path / "later.bundle"
    trained.query("audit", "export", str(earlier), organisation="regulator")
    erased = trained.query("task", "erase", TASK, organisation=ERASED)
    assert (erased["rounds"], erased["first_version"], erased["version_without"]) == (1, 1, 0)
    (row,) = trained.query("audit", "erasures", organisation="university")
    assert (row["organisation"], row["purged_rounds"], row["kept_rounds"]) == (ERASED, [1], [])
    done = trained.query("audit", "export", str(later), "--since", str(earlier), organisation="regulator")
    assert done["first_block"] > 0
    told = verify_elsewhere(tmp_path / "elsewhere", [earlier, later], read_genesis_hash(trained), done["last_hash"])
    assert told["verified"] is True
    assert told["blocks"] == done["last_block"] + 1
    assert [(task["task"], task["versions"]) for task in told["tasks"]] == [(TASK, 2)]


@pytest.mark.slow
def test_an_institution_that_trains_on_without_it_gets_the_last_version_that_holds_nothing_of_it(
    trained: FederationProcesses, tmp_path: Path
) -> None:
    output = tmp_path / "without.safetensors"
    made = trained.query("task", "export", TASK, "--without", ERASED, "--output", str(output))
    assert made["version"] == 0
    assert output.read_bytes() == (trained.directory / f"{TASK}.safetensors").read_bytes()


def read_genesis_hash(trained: FederationProcesses) -> str:
    genesis = trained.profile("regulator").genesis
    assert genesis is not None
    return read_anchor(Path(genesis)).hex()


def verify_elsewhere(home: Path, bundles: list[Path], genesis_hash: str, last_hash: str) -> Any:
    """Verify copies of bundles where nothing else is: no profile, an empty home, and for root no network."""
    home.mkdir()
    copies = [shutil.copy(bundle, home) for bundle in bundles]
    command = [sys.executable, "-I", "-m", "blockfl.cli.main", "audit", "verify", *copies, "--json"]
    command += ["--genesis-hash", genesis_hash, "--expect-hash", last_hash]
    if os.geteuid() == 0 and shutil.which("unshare"):
        command = ["unshare", "--net", *command]
    done = subprocess.run(command, cwd=home, env={"HOME": str(home)}, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
