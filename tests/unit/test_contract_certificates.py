"""Withdrawn certificates: who may withdraw, what is refused from then on, and what stands."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.protocol.change import CHANGE_INTERVAL_MS
from blockfl.protocol.claims import Withdrawal
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Round
from support.contract import make_registered_world, make_scenario, refused
from support.federation import make_certificate
from support.scenario import Scenario
from support.world import CONFLICT, VALID, World


def digest_of(world: World, organisation: str) -> str:
    certificate = world.signers[organisation].identity.certificate
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def renew(world: World, organisation: str, seed: int = 900) -> None:
    """Give an organisation's client another certificate, with another key."""
    key = ec.derive_private_key(seed, ec.SECP256R1())
    pem = make_certificate(organisation, key).encode()
    world.signers[organisation] = Signer(Identity(msp_id=organisation, certificate_pem=pem), key)


async def withdraw(world: World, organisation: str) -> str:
    """Withdraw the certificate that an organisation's client has now."""
    digest = digest_of(world, organisation)
    await world.submit(organisation, "WithdrawCertificate", digest)
    return digest


async def test_a_withdrawal_is_written_and_announced_once() -> None:
    world = await make_registered_world()
    digest = digest_of(world, "alpha")
    done = await world.submit("alpha", "WithdrawCertificate", digest)
    assert done.written == [f"withdrawal/alpha/{digest}"]
    assert done.event == "CertificateWithdrawn"
    record = Withdrawal.decode(done.payload)
    assert record == Withdrawal(organisation="alpha", certificate_digest=digest, withdrawn_at_ms=world.now_ms)
    assert world.policy(f"withdrawal/alpha/{digest}") is None


@pytest.mark.parametrize("renewed", [False, True])
async def test_again_is_a_success_that_writes_nothing_also_by_the_withdrawn_certificate(renewed: bool) -> None:
    world = await make_registered_world()
    done = await world.submit("alpha", "WithdrawCertificate", digest_of(world, "alpha"))
    digest = digest_of(world, "alpha")
    if renewed:
        renew(world, "alpha")
    world.now_ms += 1
    again = await world.submit("alpha", "WithdrawCertificate", digest)
    assert (again.written, again.payload) == ([], done.payload)


async def test_another_organisation_s_word_does_nothing_to_a_certificate() -> None:
    world = await make_registered_world()
    digest = digest_of(world, "alpha")
    await world.submit("beta", "WithdrawCertificate", digest)
    await world.evaluate("alpha", "ReadConsortium")
    assert world.get(f"withdrawal/alpha/{digest}") is None


async def test_who_is_no_member_withdraws_nothing() -> None:
    world = await make_registered_world()
    world.add_organisation("omega", 50)
    with refused(Code.NOT_MEMBER):
        await world.submit("omega", "WithdrawCertificate", "ab" * 32)


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 33])
async def test_what_is_no_digest_is_refused(digest: str) -> None:
    world = await make_registered_world()
    with refused(Code.MALFORMED):
        await world.submit("alpha", "WithdrawCertificate", digest)


async def test_every_call_of_a_withdrawn_certificate_is_refused_and_another_one_s_is_not() -> None:
    _, world = await make_scenario()
    digest = await withdraw(world, "alpha")
    for function, *arguments in (("ReadConsortium",), ("ListProgress",), ("Enrol", "heart", "5")):
        with refused(Code.CERTIFICATE_WITHDRAWN, digest):
            await world.simulate("alpha", "alpha", function, *arguments)
    with refused(Code.CERTIFICATE_WITHDRAWN):
        await world.submit("alpha", "WithdrawCertificate", "ab" * 32)
    renew(world, "alpha")
    world.now_ms += CHANGE_INTERVAL_MS
    await world.submit("alpha", "Enrol", "heart", "5")


async def test_a_withdrawn_committee_member_can_read_no_sealed_chunk() -> None:
    scenario, world = await make_scenario()
    await scenario.open()
    await scenario.submit("alpha")
    await scenario.upload("alpha")
    await withdraw(world, "university")
    with refused(Code.CERTIFICATE_WITHDRAWN):
        await world.evaluate("university", "ReadChunk", "heart", "1", "alpha", "0")


class TestInTheMiddleOfARound:
    async def test_the_next_submission_is_refused_at_once(self) -> None:
        scenario, world = await opened()
        await withdraw(world, "alpha")
        with refused(Code.CERTIFICATE_WITHDRAWN):
            await scenario.submit("alpha")

    async def test_a_submission_that_was_endorsed_before_is_invalid(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        submission = await world.endorse("alpha", "SubmitUpdate", scenario.sign(header).encode())
        await withdraw(world, "alpha")
        assert world.commit(submission) == CONFLICT

    async def test_a_withdrawal_does_not_disturb_others(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("beta")
        submission = await world.endorse("beta", "SubmitUpdate", scenario.sign(header).encode())
        await withdraw(world, "alpha")
        assert world.commit(submission) == VALID

    async def test_a_header_signed_with_it_is_refused_with_its_code_whoever_brings_it(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        signed = scenario.sign(header)
        await withdraw(world, "alpha")
        renew(world, "alpha")
        with refused(Code.CERTIFICATE_WITHDRAWN, header.certificate_digest):
            await world.submit("alpha", "SubmitUpdate", signed.encode())

    async def test_what_was_submitted_before_stands(self) -> None:
        """Or else a withdrawal would undo a breach."""
        scenario, world = await opened()
        signed = await scenario.submit("alpha")
        await withdraw(world, "alpha")
        renew(world, "alpha")
        await scenario.upload("alpha")
        assert (await world.submit("alpha", "SubmitUpdate", signed.encode())).written == []
        assert (await scenario.judge("alpha")).state == "accepted"


class TestOpenRound:
    async def test_an_enrolment_with_it_does_not_count(self) -> None:
        _, world = await make_scenario()
        await withdraw(world, "gamma")
        done = await world.submit("regulator", "OpenRound", "heart", "1")
        names = [one.organisation for one in Round.decode(done.payload).participants]
        assert names == ["alpha", "beta", "delta"]

    async def test_too_few_left_are_too_few(self) -> None:
        _, world = await make_scenario()
        await withdraw(world, "gamma")
        await withdraw(world, "delta")
        with refused(Code.TOO_FEW_ENROLLED, "delta, gamma"):
            await world.submit("regulator", "OpenRound", "heart", "1")

    async def test_with_another_certificate_the_institution_is_back(self) -> None:
        _, world = await make_scenario()
        digest = await withdraw(world, "gamma")
        renew(world, "gamma")
        world.now_ms += CHANGE_INTERVAL_MS
        await world.submit("gamma", "Enrol", "heart", "30")
        done = await world.submit("regulator", "OpenRound", "heart", "1")
        part = Round.decode(done.payload).participant("gamma")
        assert part is not None
        assert part.certificate_digest == digest_of(world, "gamma") != digest

    async def test_an_opening_that_was_endorsed_before_a_withdrawal_is_invalid(self) -> None:
        _, world = await make_scenario()
        opening = await world.endorse("regulator", "OpenRound", "heart", "1")
        await withdraw(world, "gamma")
        assert world.commit(opening) == CONFLICT


async def test_withdrawals_are_listed_by_organisation() -> None:
    world = await make_registered_world()
    await world.submit("beta", "WithdrawCertificate", "ab" * 32)
    await world.submit("alpha", "WithdrawCertificate", "cd" * 32)
    listed = await world.evaluate("gamma", "ListWithdrawals")
    first = Withdrawal(organisation="alpha", certificate_digest="cd" * 32, withdrawn_at_ms=world.now_ms)
    second = Withdrawal(organisation="beta", certificate_digest="ab" * 32, withdrawn_at_ms=world.now_ms)
    assert listed == b"[" + first.encode() + b"," + second.encode() + b"]"


async def opened() -> tuple[Scenario, World]:
    scenario, world = await make_scenario()
    await scenario.open()
    return scenario, world
