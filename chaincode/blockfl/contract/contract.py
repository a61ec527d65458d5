"""The contract as a peer calls it: the table of transactions and reads, and how one is run.

A transaction reads: decode, authorise, apply a rule of the protocol, write, announce. A task, which may be large, is
decoded for the coordinator alone: there the role comes first. What a transaction writes depends on its arguments and
the ledger only; the one private input, the committee's opening keys, gives every member the same result. Every
transaction may be repeated: what is there already is a success that writes nothing. A call with anything wrong about
it is refused with a stable code.

    server = ContractServer(Contract(settings), package_id, "127.0.0.1:9999", tls)
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from blockfl.contract import appeals, disputes, erasure, expectation, goals, query
from blockfl.contract.argument import (
    Decoder,
    Further,
    bounded,
    count_arguments,
    decode_amount,
    decode_arguments,
    decode_count,
    decode_digest,
    decode_name,
    decode_number,
    decode_organisation,
    decode_public_key,
    decode_text,
    decode_transient,
    show,
)
from blockfl.contract.authority import require_coordinator
from blockfl.contract.certificates import require_valid_creator, withdraw_certificate
from blockfl.contract.credits import Credits
from blockfl.contract.opener import Opener
from blockfl.contract.reports import report_metrics
from blockfl.contract.rounds import Rounds
from blockfl.contract.settings import ContractSettings
from blockfl.contract.setup import Setup
from blockfl.contract.state import State
from blockfl.contract.verifier import SumVerifier
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.shim import Context, ContractFault
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.canonical import Digest, MspId, Name
from blockfl.protocol.catalogue import CONSORTIUM, LISTINGS, RECORDS
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.key import Key, Number, Parts
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.norm_rules import MAX_JUDGED
from blockfl.protocol.records import Blob, Consortium, SignedHeader
from blockfl.protocol.status import Expected
from blockfl.protocol.task import TaskSpec

_MAX_TIME_MS: Final = 2**52
"""Far beyond any clock, and far enough from 2^53 that deadlines still fit into a record."""
_DECODERS: Final[tuple[tuple[object, Decoder[Any]], ...]] = (
    (Name, decode_name),
    (MspId, decode_organisation),
    (Number, decode_number),
    (Digest, decode_digest),
)
"""Of the parts of keys."""


@dataclass(frozen=True)
class ContractFunction:
    """One row of the table.

    Attributes:
        run: What runs.
        arguments: The decoders of its arguments.
        transient: Its transient fields.
        role: Who may call it, where arguments are so large that decoding them has to be earned.
        expects: Of the state and the arguments: the keys that it reads in any case, so that a peer is asked once.
        further: What may follow the arguments.
        optional: Transient fields that it goes without, too.
    """

    run: Callable[..., Awaitable[bytes]]
    arguments: tuple[Decoder[Any], ...] = ()
    transient: tuple[str, ...] = ()
    role: Callable[[Consortium, str], None] | None = None
    expects: Callable[..., tuple[Key[Any], ...]] = lambda *_: ()
    further: Further | None = None
    optional: tuple[str, ...] = ()


class FederationContract:
    """One organisation's instance of the contract.

    Args:
        settings: What the organisation's operator configured.
    """

    def __init__(self, settings: ContractSettings) -> None:
        self.table: Mapping[str, ContractFunction] = (
            _list_transactions(Setup(settings), Rounds(Opener(settings), SumVerifier())) | _list_reads()
        )

    async def __call__(self, context: Context) -> bytes:
        """Run one call.

        Raises:
            ContractFault: The call is refused; the text begins with a stable code.
        """
        try:
            return await self._run(context)
        except ProtocolError as error:
            raise ContractFault(str(error)) from error
        except ValidationError as error:
            # What was said is well-formed, but the record that follows from it would break its own rules.
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ContractFault(f"{Code.MALFORMED.identifier} {error.title}: {where}: {first['msg']}") from error
        except IdentityError as error:
            raise ContractFault(f"{Code.MALFORMED.identifier} the creator: {error}") from error

    async def _run(self, context: Context) -> bytes:
        entry = self.table.get(_function(context))
        if entry is None:
            raise ProtocolError(
                Code.UNKNOWN_TRANSACTION, f"no transaction {show(_function(context))}: see docs/protocol.md"
            )
        count_arguments(entry.arguments, context.args, entry.further)
        transient = decode_transient(entry.transient, context.transient, entry.optional)
        if not 0 <= context.timestamp_ms <= _MAX_TIME_MS:
            raise ProtocolError(Code.MALFORMED, f"expected a time since 1970, got {context.timestamp_ms} ms")
        state = State(context)
        if entry.role is None:
            arguments = decode_arguments(entry.arguments, context.args, entry.further)
            state.expect(*entry.expects(state, *arguments))
        if entry.run is not withdraw_certificate:
            await require_valid_creator(state)
        if entry.role is not None:
            entry.role(await state.read(CONSORTIUM.key()), state.caller)
            arguments = decode_arguments(entry.arguments, context.args, entry.further)
        return await entry.run(state, *arguments, *transient)


def _function(context: Context) -> str:
    try:
        return context.function
    except ContractFault as error:
        raise ProtocolError(Code.UNKNOWN_TRANSACTION, str(error)) from error


def _list_transactions(setup: Setup, rounds: Rounds) -> dict[str, ContractFunction]:
    task, number = decode_name, decode_number
    return {
        "RegisterConsortium": ContractFunction(setup.register_consortium, (bounded(Consortium),)),
        "RegisterCommitteeKey": ContractFunction(setup.register_committee_key, (decode_public_key,)),
        "WithdrawCertificate": ContractFunction(withdraw_certificate, (decode_digest,)),
        "CreateTask": ContractFunction(setup.create_task, (TaskSpec.decode,), role=require_coordinator),
        "UploadModelChunk": ContractFunction(setup.upload_model_chunk, (task, decode_digest), ("chunk",)),
        "EndTask": ContractFunction(setup.end_task, (task, decode_text)),
        "Enrol": ContractFunction(setup.enrol, (task, decode_count)),
        "OpenRound": ContractFunction(rounds.open_round, (task, number), expects=expectation.of_opening),
        "SubmitUpdate": ContractFunction(
            rounds.submit_update,
            (bounded(SignedHeader),),
            expects=expectation.of_header,
            further=Further(bounded(Metrics), at_most=1),
        ),
        "UploadChunk": ContractFunction(
            rounds.upload_chunk, (task, number, decode_number), ("chunk",), expects=expectation.of_own_update
        ),
        "JudgeUpdate": ContractFunction(
            rounds.judge_update,
            (task, number, decode_organisation),
            expects=expectation.of_judging,
            further=Further(decode_organisation, at_most=MAX_JUDGED - 1),
        ),
        "AssessUpdate": ContractFunction(rounds.assess_update, (bounded(Assessment),)),
        "ClaimWrap": ContractFunction(disputes.claim_wrap, (task, number, decode_organisation)),
        "SettleWrap": ContractFunction(
            disputes.settle_wrap, (task, number, decode_organisation, decode_organisation), ("ephemeral_key",)
        ),
        "CloseRound": ContractFunction(rounds.close_round, (task, number), expects=expectation.of_closing),
        "UploadSumChunk": ContractFunction(
            rounds.upload_sum_chunk, (task, number, decode_digest), ("chunk",), expects=expectation.of_round
        ),
        "AttestAggregate": ContractFunction(
            rounds.attest_aggregate,
            (task, number, bounded(Blob)),
            expects=expectation.of_sum,
            optional=("chunk",),
        ),
        "PublishModel": ContractFunction(
            rounds.publish_model,
            (task, number, decode_digest),
            expects=expectation.of_vote,
            optional=("chunk",),
        ),
        "AbandonRound": ContractFunction(rounds.abandon_round, (task, number), expects=expectation.of_round),
        "AppraiseVersion": ContractFunction(goals.appraise_version, (task, decode_number)),
        "ReportMetrics": ContractFunction(report_metrics, (bounded(Metrics),), expects=expectation.of_metrics),
        "RequestErasure": ContractFunction(erasure.request_erasure, (task,)),
        "EraseUpdate": ContractFunction(erasure.erase_update, (task, number, decode_organisation)),
    } | _list_credits(Credits(rounds.opener))


def _list_credits(credits: Credits) -> dict[str, ContractFunction]:
    task, number = decode_name, decode_number
    return {
        "Grant": ContractFunction(credits.grant, (decode_name, decode_organisation, decode_amount)),
        "Transfer": ContractFunction(credits.transfer, (decode_name, decode_organisation, decode_amount)),
        "Withdraw": ContractFunction(credits.withdraw, (task,)),
        "ScoreRound": ContractFunction(credits.score_round, (task, number)),
        "SettleRound": ContractFunction(credits.settle_round, (task, number)),
        "OverturnPenalty": ContractFunction(appeals.overturn_penalty, (task, number, decode_organisation)),
    }


def _list_reads() -> dict[str, ContractFunction]:
    task, number, organisation = decode_name, decode_number, decode_organisation
    return _list_record_reads() | {
        "ReadStatus": ContractFunction(
            query.read_status,
            (task,),
            expects=expectation.of_status,
            further=Further(bounded(Expected), at_most=1),
        ),
        "ReadEvidence": ContractFunction(query.read_evidence, (task, number), expects=expectation.of_evidence),
        "ReadUpload": ContractFunction(query.read_upload, (task, number, organisation), expects=expectation.of_upload),
        "ReadChunk": ContractFunction(
            query.read_chunk, (task, number, organisation, decode_number), expects=expectation.of_sealed_chunk
        ),
        "ReadSumChunk": ContractFunction(
            query.read_sum_chunk, (task, number, decode_digest), expects=expectation.of_membership
        ),
        "ReadSumUpload": ContractFunction(query.read_sum_upload, (task, number, bounded(Blob))),
        "ReadModelChunk": ContractFunction(
            query.read_model_chunk, (task, decode_digest), expects=expectation.of_membership
        ),
        "ReadModelUpload": ContractFunction(query.read_model_upload, (task, bounded(Blob))),
    }


def _list_record_reads() -> dict[str, ContractFunction]:
    """The reads that the catalogue of records offers."""
    records = {
        of.read: ContractFunction(query.offer_record(of), _list_decoders(of.parts), expects=expectation.of_record(of))
        for of in RECORDS.values()
        if of.read
    }
    listings = {
        one.read: ContractFunction(query.offer_listing(one), _list_decoders(one.parts)) for one in LISTINGS if one.read
    }
    return records | listings


def _list_decoders(parts: Parts[...]) -> tuple[Decoder[Any], ...]:
    return tuple(next(decode for kind, decode in _DECODERS if kind is one) for one in parts.types)
