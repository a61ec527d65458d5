"""Private data at the embedded ledger: members hold them, nobody else does; lost, damaged, purged and expired data."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.embedded.ordering.ledger import ChannelLedger, PrivateSet
from blockfl.fabric.errors import NodeError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.transaction.rwset import MetadataWrite, Version
from support.channel import CONTRACT, PrivateWrites, make_channel
from support.embedded_ledger import LARGE, VALID, define, opened, private, seal, submit


async def test_members_hold_private_data_and_others_do_not(tmp_path: Path) -> None:
    secret = b"known to the members alone" * 1000
    endorsed = seal({"k": secret})
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed, ("alpha",)) == VALID
        assert private(ledger, "alpha", "k") == private(ledger, "beta", "k") == secret
        with pytest.raises(NodeError, match="gamma does not hold the private value in collection 'sealed'"):
            private(ledger, "gamma", "k")
        assert [part.rwset for part in ledger.private_sets("beta", 2)] == [endorsed.sets[0].rwset]
        assert ledger.private_sets("gamma", 2) == ()
    holders = {
        path.relative_to(tmp_path / "ledger").parts[:2]
        for path in (tmp_path / "ledger").rglob("*")
        if path.is_file() and secret[:26] in path.read_bytes()
    }
    assert holders == {("organisations", "alpha"), ("organisations", "beta")}


async def test_an_endorser_that_is_no_member_does_not_keep_what_it_staged(tmp_path: Path) -> None:
    endorsed = seal({"k": LARGE})
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed, ("gamma",)) == VALID
        assert private(ledger, "alpha", "k") == LARGE
    with opened(tmp_path / "ledger"):
        assert not list((tmp_path / "ledger" / "organisations" / "gamma").glob("payloads/*/*"))


async def test_private_data_of_an_invalid_transaction_are_not_kept(tmp_path: Path) -> None:
    writes = PrivateWrites(collection="sealed", values={"k": LARGE})
    endorsed = make_channel().write({}, private=[writes], endorsers=("alpha",))
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == transaction_pb2.ENDORSEMENT_POLICY_FAILURE
        assert private(ledger, "alpha", "k") is None
    with opened(tmp_path / "ledger"):
        assert not list((tmp_path / "ledger").glob("organisations/*/payloads/*/*"))


async def test_blocks_to_live_remove_value_and_hash(tmp_path: Path) -> None:
    channel = make_channel()
    endorsed = channel.write({}, private=[PrivateWrites(collection="brief", values={"k": LARGE})])
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
        for number in range(3):
            assert private(ledger, "alpha", "k", "brief") == LARGE
            await ledger.order(channel.write({"tick": b"%d" % number}).envelope)
        assert private(ledger, "alpha", "k", "brief") is None
        assert not list((tmp_path / "ledger").glob("organisations/*/payloads/*/*"))


async def test_a_purge_removes_the_bytes_from_every_member(tmp_path: Path) -> None:
    secret = b"to be forgotten" * 2000
    first = seal({"k": secret, "l": b"kept"})
    purge = seal({"k": None}, purges=("k",))
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, first) == VALID
        assert await submit(ledger, purge) == VALID
        for name in ("alpha", "beta"):
            assert private(ledger, name, "k") is None
            assert private(ledger, name, "l") == b"kept"
        # Staged copies go with each organisation's next change.
        assert await submit(ledger, seal({"m": b"n"})) == VALID
    assert not list((tmp_path / "ledger").glob("organisations/*/payloads/*/*"))


async def test_a_private_range_gives_what_the_organisation_holds_in_order(ledger: ChannelLedger) -> None:
    values = {f"k{number:03d}": b"v%d" % number for number in range(250)}
    endorsed = seal(values)
    assert await submit(ledger, endorsed) == VALID
    with ledger.snapshot("alpha", "gamma") as view:
        found = {k: v.value for k, v in view.private_range("alpha", CONTRACT, "sealed", "", "")}
        assert found == values
        assert list(found) == sorted(values)
        part = [key for key, _ in view.private_range("alpha", CONTRACT, "sealed", "k010", "k012")]
        assert part == ["k010", "k011"]
        assert list(view.private_range("gamma", CONTRACT, "sealed", "", "")) == []


async def test_damaged_private_data_are_never_served(tmp_path: Path) -> None:
    endorsed = seal({"k": LARGE})
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
        path = next((tmp_path / "ledger" / "organisations" / "alpha").glob("payloads/*/*"))
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(NodeError, match="does not have its hash on the ledger"):
            private(ledger, "alpha", "k")
    with pytest.raises(NodeError, match=f"{path.name} is damaged"), opened(tmp_path / "ledger"):
        pass


async def test_key_level_policies_of_private_keys_give_the_value_its_new_version(ledger: ChannelLedger) -> None:
    policy = signature_policy(2, ("alpha", "beta"), "peer").SerializeToString()
    metadata = MetadataWrite(key="k", entries=(("VALIDATION_PARAMETER", policy),))
    assert await submit(ledger, seal({"k": b"v"})) == VALID
    assert await submit(ledger, make_channel().write_private_policy("sealed", metadata)) == VALID
    with ledger.snapshot("alpha") as view:
        found = view.private_get("alpha", CONTRACT, "sealed", "k")
    assert found is not None
    assert (found.value, found.version) == (b"v", Version(3, 0))


async def test_an_unknown_organisation_is_named(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        with pytest.raises(NodeError, match=r"expected an organisation .*alpha, beta, gamma.*, got 'delta'"):
            ledger.snapshot("delta")
        part = PrivateSet(namespace=CONTRACT, collection="sealed", rwset=b"")
        with pytest.raises(NodeError, match="got 'delta'"):
            await ledger.stage_private("delta", "tx", [part])
        with ledger.snapshot("alpha") as view, pytest.raises(NodeError, match=r"\(alpha\), got 'beta'"):
            view.private_get("beta", CONTRACT, "sealed", "k") or next(
                view.private_range("beta", CONTRACT, "sealed", "", "")
            )


async def test_private_data_that_were_lost_are_noticed_at_the_start(tmp_path: Path) -> None:
    endorsed = seal({"k": LARGE})
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        assert await submit(ledger, endorsed) == VALID
    for path in (tmp_path / "ledger" / "organisations" / "beta").glob("private.sqlite*"):
        path.unlink()
    with pytest.raises(NodeError, match=r"beta/private\.sqlite is damaged: .*up to block 2 were acknowledged"):
        opened(tmp_path / "ledger").__enter__()
