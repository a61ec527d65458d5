"""Connection profiles."""

import json
from pathlib import Path

import pytest

from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile

GOOD = {
    "network": "heart",
    "channel": "federation",
    "contract": "blockfl",
    "organisation": "alpha",
    "endpoint": "127.0.0.1:7051",
    "tls_roots": "../tls.pem",
    "certificate": "certificate.pem",
    "private_key": "key.pem",
}


def write(directory: Path, content: object) -> Path:
    path = directory / "profiles" / "agent.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_paths_count_from_the_profiles_own_directory(tmp_path: Path) -> None:
    profile = ConnectionProfile.load(write(tmp_path, GOOD))
    assert Path(profile.certificate) == tmp_path / "profiles" / "certificate.pem"
    assert profile.tls_roots is not None
    assert Path(profile.tls_roots).resolve() == tmp_path / "tls.pem"


def test_a_save_that_is_cut_short_leaves_the_profile_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.json"
    profile = ConnectionProfile.load(write(tmp_path, GOOD))
    profile.save(path)
    before = path.read_bytes()

    def fail(_path: Path, _text: str) -> int:
        _path.write_bytes(b"")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space"):
        profile.save(path)
    assert path.read_bytes() == before


def test_a_saved_profile_loads_as_it_was(tmp_path: Path) -> None:
    profile = ConnectionProfile.load(write(tmp_path, GOOD))
    profile.save(tmp_path / "copy.json")
    assert ConnectionProfile.load(tmp_path / "copy.json") == profile


def test_a_missing_profile_says_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="blockfl network up"):
        ConnectionProfile.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ({**GOOD, "endpiont": "x"}, "endpiont"),
        ({key: value for key, value in GOOD.items() if key != "channel"}, "channel"),
        ({**GOOD, "organisation": "Alpha Hospital"}, "organisation"),
    ],
)
def test_a_malformed_profile_is_refused_with_the_field(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(LedgerError, match=f"this is no connection profile: {said}: .*`blockfl network up` writes one"):
        ConnectionProfile.load(write(tmp_path, content))


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    profile = ConnectionProfile.load(write(tmp_path, GOOD))
    with pytest.raises(LedgerError, match=r"certificate\.pem: the certificate named by the profile cannot be read"):
        profile.load_signer()
