"""Transactions before a round: each thing they write, each code that they answer, each repetition."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.protocol.canonical import MAX_RECORD_NAMES, compute_digest
from blockfl.protocol.change import CHANGE_INTERVAL_MS
from blockfl.protocol.codes import Code
from blockfl.protocol.hpke import KEMS, Kem
from blockfl.protocol.model import manifest_of
from blockfl.protocol.records import CHUNK_BYTES, Consortium, Enrolment, Member, Model, Progress
from blockfl.protocol.seal import encode_public_key
from blockfl.protocol.task import Task, TaskSpec
from support.contract import make_registered_world, make_scenario, not_endorsed, refused, upload_model_chunk
from support.federation import NOW_MS, make_certificate
from support.scenario import Scenario, make_spec
from support.world import World


def changed(consortium: Consortium, **fields: object) -> Consortium:
    return Consortium.model_validate({**dict(consortium), **fields})


class TestRegisterConsortium:
    async def test_writes_the_consortium_and_nothing_else(self) -> None:
        world = World()
        done = await world.submit("alpha", "RegisterConsortium", world.consortium.encode())
        assert done.written == ["consortium"]
        assert done.event == "ConsortiumRegistered"
        assert world.get("consortium") == world.consortium.encode()

    async def test_again_is_a_success_that_writes_nothing(self) -> None:
        world = World()
        await world.submit("alpha", "RegisterConsortium", world.consortium.encode())
        again = await world.submit("beta", "RegisterConsortium", world.consortium.encode())
        assert (again.written, again.event, again.payload) == ([], "", world.consortium.encode())

    async def test_is_not_endorsed_by_an_organisation_that_agreed_to_another_record(self) -> None:
        world = World()
        world.configure("beta", changed(world.consortium, threshold=3))
        with refused(Code.CONSORTIUM_MISMATCH):
            await world.submit("alpha", "RegisterConsortium", world.consortium.encode(), endorsers=["beta"])

    async def test_too_few_organisations_that_agreed_cannot_register_it(self) -> None:
        world = World()
        with not_endorsed():
            await world.submit(
                "alpha", "RegisterConsortium", world.consortium.encode(), endorsers=["alpha", "beta", "delta"]
            )
        assert world.get("consortium") is None

    @pytest.mark.parametrize(
        "fields", [{"sequence": 3}, {"sequence": 1, "threshold": 3}, {"sequence": 2, "network": "another"}]
    )
    async def test_refuses_another_sequence_or_network(self, fields: dict[str, object]) -> None:
        world = World()
        await world.submit("alpha", "RegisterConsortium", world.consortium.encode())
        wrong = changed(world.consortium, **fields)
        for name in world.signers:
            world.configure(name, wrong)
        with refused(Code.CONSORTIUM_MISMATCH):
            await world.submit("alpha", "RegisterConsortium", wrong.encode())

    async def test_refuses_a_first_sequence_other_than_1(self) -> None:
        world = World(changed(World().consortium, sequence=2))
        with refused(Code.CONSORTIUM_MISMATCH):
            await world.submit("alpha", "RegisterConsortium", world.consortium.encode())

    async def test_refuses_a_record_for_another_channel(self) -> None:
        world = World()
        other = changed(world.consortium, channel="elsewhere")
        for name in world.signers:
            world.configure(name, other)
        with refused(Code.CONSORTIUM_MISMATCH):
            await world.submit("alpha", "RegisterConsortium", other.encode())

    async def test_takes_the_next_sequence_when_a_majority_agreed(self) -> None:
        world = World()
        await world.submit("alpha", "RegisterConsortium", world.consortium.encode())
        following = changed(world.consortium, sequence=2, threshold=3)
        for name in ("alpha", "beta", "coordinator", "delta"):
            world.configure(name, following)
        await world.submit("alpha", "RegisterConsortium", following.encode())
        assert await world.evaluate("alpha", "ReadConsortium") == following.encode()

    async def test_refuses_a_caller_outside_the_consortium(self) -> None:
        world = World()
        world.add_organisation("outsider", 50)
        with refused(Code.NOT_MEMBER):
            await world.submit("outsider", "RegisterConsortium", world.consortium.encode())

    async def test_refuses_a_change_while_a_round_is_open_and_takes_it_after_the_close(self) -> None:
        scenario, world = await make_scenario()
        await scenario.open()
        following = changed(world.consortium, sequence=2)
        for name in world.signers:
            world.configure(name, following)
        with refused(Code.TASK_BUSY):
            await world.submit("alpha", "RegisterConsortium", following.encode())
        await scenario.contribute()
        await scenario.close()
        await world.submit("alpha", "RegisterConsortium", following.encode())

    async def test_what_comes_before_it_is_refused(self) -> None:
        world = World()
        with refused(Code.CONSORTIUM_UNKNOWN):
            await world.submit("regulator", "RegisterCommitteeKey", "00" * 32)
        with refused(Code.CONSORTIUM_UNKNOWN):
            await world.evaluate("alpha", "ReadConsortium")


class TestRegisterCommitteeKey:
    async def test_writes_the_callers_key_and_nothing_else(self) -> None:
        world = await make_registered_world()
        public_key = encode_public_key(world.opening_keys["regulator"])
        done = await world.submit("regulator", "RegisterCommitteeKey", public_key)
        assert done.written == ["committee-key/regulator"]
        assert done.event == "CommitteeKeyRegistered"

    @pytest.mark.parametrize("kem", KEMS, ids=lambda kem: kem.name)
    async def test_takes_a_key_of_every_kind(self, kem: Kem) -> None:
        world = await make_registered_world()
        public_key = encode_public_key(kem.derive(b"k" * 32))
        await world.submit("regulator", "RegisterCommitteeKey", public_key)
        assert public_key.encode() in (await world.evaluate("alpha", "ListCommitteeKeys"))

    async def test_again_is_a_success_and_a_new_key_replaces_the_old(self) -> None:
        world = await make_registered_world()
        first = encode_public_key(world.opening_keys["regulator"])
        second = encode_public_key(X25519PrivateKey.from_private_bytes(b"2" * 32))
        done = await world.submit("regulator", "RegisterCommitteeKey", first)
        world.now_ms += 1
        again = await world.submit("regulator", "RegisterCommitteeKey", first)
        assert (again.written, again.payload) == ([], done.payload)
        world.now_ms += CHANGE_INTERVAL_MS - 2
        with refused(Code.CHANGED_LATELY, "opening key of regulator"):
            await world.submit("regulator", "RegisterCommitteeKey", second)
        world.now_ms += 1
        await world.submit("regulator", "RegisterCommitteeKey", second)
        assert second.encode() in (await world.evaluate("alpha", "ListCommitteeKeys"))

    async def test_refuses_an_organisation_outside_the_committee(self) -> None:
        world = await make_registered_world()
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "RegisterCommitteeKey", encode_public_key(world.opening_keys["regulator"]))

    @pytest.mark.parametrize("key", ["00" * 32, "01" + "00" * 31, "AB" * 32, "ab" * 31, ""])
    async def test_refuses_a_key_that_nobody_could_seal_to(self, key: str) -> None:
        world = await make_registered_world()
        with refused(Code.MALFORMED):
            await world.submit("regulator", "RegisterCommitteeKey", key)


class TestCreateTask:
    async def test_refuses_a_task_whose_record_nobody_could_read(self) -> None:
        """The record has a few names more than the specification, which is at the limit by itself."""
        world = await make_registered_world()
        spec, _ = make_spec()
        names = [f"{number:04}" + '":' * 98 for number in range(488)]
        manifest = manifest_of({name: np.zeros(1, np.float32) for name in names})
        crowded = spec.model_copy(update={"manifest": manifest})
        left = MAX_RECORD_NAMES - crowded.encode().count(b'":')
        filled = crowded.model_copy(update={"title": '":' * left})
        assert TaskSpec.decode(filled.encode()) == filled
        with refused(Code.MALFORMED, "Task: expected at most"):
            await world.submit("coordinator", "CreateTask", filled.encode())

    async def test_writes_the_task_its_progress_and_version_0(self) -> None:
        world = await make_registered_world()
        spec, _ = make_spec()
        done = await world.submit("coordinator", "CreateTask", spec.encode())
        assert done.written == ["model/heart/000000", "progress/heart", "task/heart"]
        assert done.event == "TaskCreated"
        task = Task.decode(await world.evaluate("alpha", "ReadTask", "heart"))
        assert (task.spec, task.created_by, task.created_at_ms) == (spec, "coordinator", NOW_MS)
        assert task.manifest_digest == spec.manifest.record_digest
        progress = Progress.decode(await world.evaluate("alpha", "ReadProgress", "heart"))
        assert (progress.round, progress.version, progress.model_digest) == (0, 0, spec.initial_model.digest)
        model = Model.decode(await world.evaluate("alpha", "ReadModel", "heart", "0"))
        assert (model.digest, model.sum, model.base_digest) == (spec.initial_model.digest, None, None)

    async def test_again_is_a_success_and_other_content_is_refused(self) -> None:
        world = await make_registered_world()
        spec, _ = make_spec()
        done = await world.submit("coordinator", "CreateTask", spec.encode())
        world.now_ms += 1
        again = await world.submit("coordinator", "CreateTask", spec.encode())
        assert (again.written, again.payload) == ([], done.payload)
        with refused(Code.TASK_EXISTS):
            await world.submit("coordinator", "CreateTask", spec.model_copy(update={"rounds": 3}).encode())

    @pytest.mark.parametrize("caller", ["alpha", "regulator"])
    async def test_refuses_anybody_but_the_coordinator(self, caller: str) -> None:
        world = await make_registered_world()
        with refused(Code.NOT_COORDINATOR):
            await world.submit(caller, "CreateTask", make_spec()[0].encode())

    async def test_refuses_institutions_without_that_role(self) -> None:
        world = await make_registered_world()
        spec, _ = make_spec(institutions=("alpha", "beta", "regulator"))
        with refused(Code.NOT_INSTITUTION):
            await world.submit("coordinator", "CreateTask", spec.encode())

    async def test_refuses_an_aggregator_outside_the_committee(self) -> None:
        world = await make_registered_world()
        spec = make_spec()[0].model_copy(update={"aggregator": "alpha"})
        with refused(Code.NOT_COMMITTEE):
            await world.submit("coordinator", "CreateTask", spec.encode())


class TestUploadModelChunk:
    async def test_writes_the_chunk_for_all_members_and_nothing_else(self) -> None:
        world, scenario = await created()
        (digest,) = scenario.spec.initial_model.chunks
        done = await upload_model_chunk(world, "coordinator", digest, scenario.initial_model)
        assert done.written == [f"models/chunk/heart/{digest}"]
        for name in world.signers:
            assert await world.evaluate(name, "ReadModelChunk", "heart", digest) == scenario.initial_model

    async def test_again_writes_nothing(self) -> None:
        world, scenario = await created()
        (digest,) = scenario.spec.initial_model.chunks
        await upload_model_chunk(world, "coordinator", digest, scenario.initial_model)
        assert (await upload_model_chunk(world, "regulator", digest, scenario.initial_model)).written == []

    async def test_refuses_institutions(self) -> None:
        world, scenario = await created()
        with refused(Code.NOT_COMMITTEE):
            await upload_model_chunk(world, "alpha", scenario.spec.initial_model.chunks[0], scenario.initial_model)

    async def test_refuses_other_bytes_and_sizes(self) -> None:
        world, scenario = await created()
        (digest,) = scenario.spec.initial_model.chunks
        with refused(Code.CHUNK_MISMATCH):
            await upload_model_chunk(world, "coordinator", digest, scenario.initial_model + b"x")
        with refused(Code.CHUNK_SIZE):
            await upload_model_chunk(world, "coordinator", digest, b"")
        with refused(Code.CHUNK_SIZE):
            await upload_model_chunk(world, "coordinator", digest, bytes(CHUNK_BYTES + 1))

    async def test_refuses_what_is_not_announced_while_no_sum_is_wanted(self) -> None:
        world, scenario = await created()
        other = b"something else"
        with refused(Code.ROUND_NOT_CLOSED):
            await upload_model_chunk(world, "regulator", compute_digest(other), other)
        await upload_model_chunk(world, "coordinator", scenario.spec.initial_model.chunks[0], scenario.initial_model)
        await scenario.enrol()
        for name, key in world.opening_keys.items():
            await world.submit(name, "RegisterCommitteeKey", encode_public_key(key))
        await scenario.open()
        with refused(Code.ROUND_NOT_CLOSED):
            await upload_model_chunk(world, "regulator", compute_digest(other), other)

    async def test_takes_the_sum_of_a_round_that_is_agreed_on_from_the_committee_only(self) -> None:
        scenario, world = await make_scenario()
        await scenario.open()
        await scenario.contribute()
        await scenario.close()
        await scenario.attest()
        for member in ("coordinator", "regulator"):
            await scenario.vote(member, "ab" * 32)
        total = await scenario.total()
        for institution in ("alpha", "delta"):
            with refused(Code.NOT_COMMITTEE):
                await upload_model_chunk(world, institution, compute_digest(total), total)
        done = await upload_model_chunk(world, "university", compute_digest(total), total)
        assert done.written == [f"models/chunk/heart/{compute_digest(total)}"]

    async def test_a_coordinator_outside_the_committee_uploads_the_initial_model_only(self) -> None:
        members = tuple(
            Member(organisation=one.organisation, roles=("coordinator",) if "coordinator" in one.roles else one.roles)
            for one in World().consortium.members
        )
        world = World(changed(World().consortium, members=members))
        spec, model = make_spec()
        await world.submit("coordinator", "RegisterConsortium", world.consortium.encode())
        await world.submit("coordinator", "CreateTask", spec.model_copy(update={"aggregator": "regulator"}).encode())
        await upload_model_chunk(world, "coordinator", spec.initial_model.chunks[0], model)
        with refused(Code.NOT_COMMITTEE):
            await upload_model_chunk(world, "coordinator", compute_digest(b"sum"), b"sum")

    async def test_refuses_an_unknown_task(self) -> None:
        world = await make_registered_world()
        with refused(Code.TASK_UNKNOWN):
            await upload_model_chunk(world, "coordinator", compute_digest(b"x"), b"x")


class TestEnrol:
    async def test_writes_the_callers_enrolment_with_its_certificate(self) -> None:
        world, _ = await created()
        done = await world.submit("alpha", "Enrol", "heart", "199")
        assert done.written == ["enrolment/heart/alpha"]
        enrolment = Enrolment.decode(done.payload)
        assert (enrolment.organisation, enrolment.samples) == ("alpha", 199)
        assert enrolment.certificate.encode() == world.signers["alpha"].identity.certificate_pem

    async def test_again_is_a_success_that_writes_nothing(self) -> None:
        world, _ = await created()
        done = await world.submit("alpha", "Enrol", "heart", "199")
        world.now_ms += 1
        again = await world.submit("alpha", "Enrol", "heart", "199")
        assert (again.written, again.payload) == ([], done.payload)

    async def test_terms_change_between_rounds_only(self) -> None:
        scenario, world = await make_scenario()
        world.now_ms += CHANGE_INTERVAL_MS - 1
        with refused(Code.CHANGED_LATELY, "enrolment of alpha in heart"):
            await world.submit("alpha", "Enrol", "heart", "200")
        assert (await world.submit("alpha", "Enrol", "heart", "199")).written == []
        world.now_ms += 1
        assert (await world.submit("alpha", "Enrol", "heart", "200")).written == ["enrolment/heart/alpha"]
        await scenario.open()
        assert (await world.submit("alpha", "Enrol", "heart", "200")).written == []
        with refused(Code.TASK_BUSY):
            await world.submit("alpha", "Enrol", "heart", "199")
        await scenario.contribute()
        await scenario.close()
        world.now_ms += CHANGE_INTERVAL_MS
        assert (await world.submit("alpha", "Enrol", "heart", "199")).written == ["enrolment/heart/alpha"]

    async def test_a_renewed_certificate_is_enrolled_between_rounds_and_signs_from_then_on(self) -> None:
        scenario, world = await make_scenario()
        key = ec.derive_private_key(77, ec.SECP256R1())
        renewed = Identity(msp_id="alpha", certificate_pem=make_certificate("alpha", key).encode())
        world.signers["alpha"] = Signer(renewed, key)
        world.now_ms += CHANGE_INTERVAL_MS
        done = await world.submit("alpha", "Enrol", "heart", "199")
        assert Enrolment.decode(done.payload).certificate.encode() == renewed.certificate_pem
        await scenario.open()
        await scenario.submit("alpha")
        assert (await scenario.update("alpha")).state == "submitted"

    async def test_a_latecomer_enrols_while_a_round_is_open_and_takes_part_in_the_next(self) -> None:
        world, scenario = await created()
        await scenario.upload_model("coordinator", scenario.initial_model)
        for name, key in world.opening_keys.items():
            await world.submit(name, "RegisterCommitteeKey", encode_public_key(key))
        await scenario.enrol("alpha", "beta", "delta")
        opened = await scenario.open()
        await scenario.enrol("gamma")
        assert [one.organisation for one in opened.participants] == ["alpha", "beta", "delta"]
        with refused(Code.NOT_ENROLLED):
            header, _ = await scenario.seal("alpha")
            await world.submit(
                "gamma", "SubmitUpdate", scenario.sign(header.model_copy(update={"organisation": "gamma"})).encode()
            )

    @pytest.mark.parametrize("caller", ["regulator", "coordinator"])
    async def test_refuses_organisations_that_are_not_of_the_task(self, caller: str) -> None:
        world, _ = await created()
        with refused(Code.NOT_INSTITUTION):
            await world.submit(caller, "Enrol", "heart", "5")

    async def test_an_institution_that_left_the_consortium_neither_enrols_nor_takes_part(self) -> None:
        scenario, world = await make_scenario()
        members = tuple(
            Member(organisation=one.organisation, roles=() if one.organisation == "gamma" else one.roles)
            for one in world.consortium.members
        )
        following = changed(world.consortium, sequence=2, members=members)
        for name in world.signers:
            world.configure(name, following)
        await world.submit("alpha", "RegisterConsortium", following.encode())
        with refused(Code.NOT_INSTITUTION):
            await world.submit("gamma", "Enrol", "heart", "5")
        opened = await scenario.open()
        assert [one.organisation for one in opened.participants] == ["alpha", "beta", "delta"]

    async def test_refuses_an_institution_of_the_consortium_that_is_not_of_the_task(self) -> None:
        world = await make_registered_world()
        spec, _ = make_spec(institutions=("alpha", "beta", "delta"))
        await world.submit("coordinator", "CreateTask", spec.encode())
        with refused(Code.NOT_INSTITUTION):
            await world.submit("gamma", "Enrol", "heart", "5")

    async def test_refuses_a_certificate_that_no_record_can_hold(self) -> None:
        world, _ = await created()
        key = ec.derive_private_key(5, ec.SECP256R1())
        large = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(8192))
        certificate = (
            x509.CertificateBuilder(extensions=[x509.Extension(large.oid, False, large)])
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([]))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
            .sign(key, SHA256())
        )
        identity = Identity(msp_id="alpha", certificate_pem=certificate.public_bytes(Encoding.PEM))
        with refused(Code.MALFORMED, "Enrolment: certificate"):
            await world.simulate("alpha", "alpha", "Enrol", "heart", "5", identity=identity)

    async def test_refuses_a_certificate_that_cannot_sign_updates(self) -> None:
        world, _ = await created()
        for key in (ec.derive_private_key(5, ec.SECP384R1()), ed25519.Ed25519PrivateKey.from_private_bytes(b"1" * 32)):
            pem = make_certificate("alpha", key, ec.derive_private_key(7, ec.SECP256R1()))  # type: ignore[arg-type]
            identity = Identity(msp_id="alpha", certificate_pem=pem.encode())
            with refused(Code.CERTIFICATE_MISMATCH):
                await world.simulate("alpha", "alpha", "Enrol", "heart", "5", identity=identity)

    @pytest.mark.parametrize("samples", ["0", "-1", "01", "1.0", "", "9007199254740992", "1e3", "١", "9" * 5_000])
    async def test_refuses_samples_that_are_no_positive_number(self, samples: str) -> None:
        world, _ = await created()
        with refused(Code.MALFORMED):
            await world.submit("alpha", "Enrol", "heart", samples)

    async def test_refuses_an_unknown_task(self) -> None:
        world = await make_registered_world()
        with refused(Code.TASK_UNKNOWN):
            await world.submit("alpha", "Enrol", "heart", "5")


async def created() -> tuple[World, Scenario]:
    world = await make_registered_world()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await world.submit("coordinator", "CreateTask", scenario.spec.encode())
    return world, scenario
