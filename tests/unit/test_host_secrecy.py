"""The search for private keys: it finds each form of a key, split over packets, too, and nothing else."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from examples.hosts.look import look
from examples.hosts.packet import SYN
from examples.hosts.relay import Capture
from examples.hosts.secrecy import Search, Secret, find_strays, read_secrets
from examples.hosts.wire import read_streams
from hypothesis import given
from hypothesis import strategies as st

from support.segments import make_segment


def make_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    place = tmp_path / "alpha"
    place.mkdir()
    (place / "key.pem").write_bytes(make_key())
    (found,) = read_secrets(place)
    return found


FORMS: dict[str, Callable[[Secret, bytes], bytes]] = {
    "raw": lambda secret, pem: b"x" + secret.scalar,
    "hexadecimal": lambda secret, pem: b"key=" + secret.scalar.hex().encode(),
    "capital hexadecimal": lambda secret, pem: secret.scalar.hex().upper().encode(),
    "pem": lambda secret, pem: b"some text\n" + pem,
    "pem in json": lambda secret, pem: json.dumps({"key": pem.decode()}).encode(),
    "base64, shifted once": lambda secret, pem: base64.b64encode(b"a" + secret.scalar + b"bc"),
    "base64, shifted twice": lambda secret, pem: base64.b64encode(b"ab" + secret.scalar + b"c"),
    "base64 in lines": lambda secret, pem: base64.encodebytes(b"abc" * 14 + secret.scalar),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_in_another_hosts_place_is_found_in_every_form(secret: Secret, form: str) -> None:
    content = FORMS[form](secret, secret.path.read_bytes())
    (line,) = find_strays({"alpha": [secret]}, {"beta": [("letter.txt", content)]})
    assert line == f"{secret.path} stands in letter.txt"


def test_an_own_key_and_somebody_elses_certificate_are_no_find(secret: Secret) -> None:
    own = [("key.pem", secret.path.read_bytes())]
    assert find_strays({"alpha": [secret]}, {"alpha": own}) == []
    assert find_strays({"alpha": [secret]}, {"beta": [("other.pem", make_key())]}) == []


def test_opening_keys_and_keys_inside_other_files_are_secrets_too(tmp_path: Path) -> None:
    opening = X25519PrivateKey.generate().private_bytes_raw()
    (tmp_path / "opening-key").write_bytes(opening.hex().encode() + b"\n")
    (tmp_path / "connection.json").write_text(json.dumps({"client_key": make_key().decode()}))
    (tmp_path / "copy.json").write_bytes((tmp_path / "connection.json").read_bytes())
    (tmp_path / "digest").write_text("ab" * 31)
    found = read_secrets(tmp_path)
    assert [secret.path.name for secret in found] == ["connection.json", "opening-key"]
    assert found[1].scalar == opening


def test_a_key_that_two_packets_carry_in_the_wrong_order_is_found(secret: Secret, tmp_path: Path) -> None:
    capture = Capture(tmp_path / "wire.pcap")
    before, content = b"x" * 100, secret.path.read_bytes()
    capture.write(make_segment(flags=SYN, sequence=2**32 - 51))
    capture.write(make_segment(content[70:], sequence=120))
    capture.write(make_segment(content[:70], sequence=50))
    capture.write(make_segment(before, sequence=2**32 - 50))
    capture.write(make_segment(content[:70], sequence=50))
    capture.close()
    (stream,) = read_streams(tmp_path / "wire.pcap")
    assert stream == before + content
    assert len(find_strays({"alpha": [secret]}, {"the wire": [("a connection", stream)]})) == 1


def test_a_new_connection_of_the_same_ports_is_another_stream(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "wire.pcap")
    for sequence, content in ((1, b"one"), (5000, b"two")):
        capture.write(make_segment(flags=SYN, sequence=sequence - 1))
        capture.write(make_segment(content, sequence=sequence))
    capture.close()
    assert list(read_streams(tmp_path / "wire.pcap")) == [b"one", b"two"]


@given(
    st.lists(st.binary(min_size=8, max_size=12), min_size=1, max_size=4, unique=True),
    st.lists(st.binary(max_size=20), max_size=6),
    st.data(),
)
def test_the_search_finds_what_python_finds(needles: list[bytes], parts: list[bytes], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(needles), max_size=3))
    content = b"".join(data.draw(st.permutations([*parts, *chosen])))
    joined = content.replace(b"\r", b"").replace(b"\\n", b"").replace(b"\n", b"")
    expected = sorted({needle.hex() for needle in needles if needle in content or needle in joined})
    assert Search({needle: needle.hex() for needle in needles}).find(content) == expected


def test_needles_too_short_to_mean_anything_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 bytes to look for, got fewer for a word"):
        Search({b"seven b": "a word"})


def test_looking_names_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "file").write_text("x")
    seen = look(tmp_path)
    assert seen == {"files": [str(tmp_path / "open" / "file")], "directories": [str(tmp_path), str(tmp_path / "open")]}
