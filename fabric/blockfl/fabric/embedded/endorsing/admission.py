"""Who is let in: signatures, certificates, clocks and access rules of everything that arrives from outside.

Owns the checks that a peer's endorser and an orderer's filters make before anything is executed or ordered.
Refuses expired, revoked and foreign certificates, wrong signatures, requests outside the time window and
channels that the node does not have; each with a text that says which.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fabric_protos.common import common_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.embedded.endorsing.proposal import SignedProposal
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import ConfigError, FabricError, IdentityError, PolicyError
from blockfl.fabric.identity.policy import ImplicitMeta, evaluate_signature_policy, role_principal
from blockfl.fabric.identity.signing import Identity, check_not_expired
from blockfl.fabric.validate import SignatureCache

_LOG = logging.getLogger(__name__)
_ORDERED: Final = (common_pb2.ENDORSER_TRANSACTION, common_pb2.CONFIG_UPDATE)


class Refused(FabricError):
    """A request is not let in; the text says why."""


class AccessDenied(Refused):
    """Who asks is not authenticated, or may not do what is asked."""


class Unauthorized(AccessDenied):
    """Refused before anything else is looked at: the certificate has expired, or the request's time is wrong."""


class WrongTime(Unauthorized):
    """Refused because the request's time is too far from the node's."""


class UnknownChannel(Refused):
    """The request is for a channel that this node does not have."""


class Admission:
    """Judges requests by the channel's current configuration.

    Args:
        config: Returns the current configuration.
        time_window_s: How far a timestamp may be from the node's clock.
        signatures: Remembers what was verified here: an envelope's signature is verified again at commit.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        config: Callable[[], ChannelConfig],
        *,
        time_window_s: float,
        signatures: SignatureCache,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._signatures = signatures
        self._time_window_s = time_window_s
        self._clock = clock

    def admit_proposal(self, proposal: SignedProposal, organisation: str) -> Identity:
        """Checks form, clock, certificate and signature of a proposal.

        Args:
            proposal: What arrived.
            organisation: MSP id of the peer that was asked: it alone serves calls without a channel.

        Returns:
            The creator.

        Raises:
            Refused: The proposal is not let in.
            BlockError: The proposal's form is wrong.
        """
        self.check_channel(proposal.channel, empty_allowed=True)
        self._check_clock(proposal.timestamp_ms)
        proposal.check_form()
        creator = self._authenticate(proposal.creator, proposal.signature, proposal.proposal_bytes, proposal.channel)
        if not proposal.channel and creator.msp_id != organisation:
            raise AccessDenied(
                f"access denied: calls without a channel are for {organisation}'s own administrators, "
                f"the creator is of {creator.msp_id}"
            )
        return creator

    def check_access(self, creator: Identity, resource: str) -> None:
        """Checks an authenticated creator against a resource's policy, such as `peer/Propose`.

        Raises:
            Refused: The policy is not satisfied.
        """
        config = self._config()
        try:
            path = config.acl_policy(resource)
        except ConfigError as error:
            raise Refused(f"the embedded node does not have {resource}") from error
        try:
            satisfied = config.policies.satisfied_by(path, [creator])
        except PolicyError as error:
            raise AccessDenied(f"access denied to {resource}: {error}") from error
        if not satisfied:
            raise AccessDenied(f"access denied to {resource}: {_describe(creator)} does not satisfy the policy {path}")

    def check_admin(self, creator: Identity, organisation: str, resource: str) -> None:
        """Checks that a creator administers the organisation whose peer was asked.

        Raises:
            Refused: It does not.
        """
        principal = role_principal(organisation, "admin")
        if not self._config().msps.satisfies(creator, principal):
            raise AccessDenied(
                f"access denied to {resource}: expected an administrator of {organisation}, got {_describe(creator)}"
            )

    def check_admin_or_member(self, creator: Identity, organisation: str, chaincode: str, function: str) -> None:
        """Checks a call of a system chaincode without a channel: listing channels is for members, the rest for admins.

        Raises:
            Refused: The creator is neither.
        """
        if f"{chaincode}/{function}" == "cscc/GetChannels" and creator.msp_id == organisation:
            return
        self.check_admin(creator, organisation, f"{chaincode}/{function}")

    def admit_signed(self, *, identity: bytes, signature: bytes, data: bytes, channel: str, resource: str) -> Identity:
        """Checks a signed request that carries its creator, such as one for a transaction's status.

        Raises:
            Refused: The request is not let in.
        """
        if channel != self._config().channel_id:
            raise UnknownChannel(f"Failed to get policy manager for channel [{channel}]")
        signers: list[Identity] = []
        try:
            signers.append(self._authenticate(identity, signature, data, channel))
            self.check_access(signers[0], resource)
        except Unauthorized:
            raise
        except AccessDenied as error:
            path = self._config().acl_policy(resource)
            raise AccessDenied(
                f"failed evaluating policy on signed data during check policy [{path}]: "
                f"[{self._describe_failure(path, signers)}]"
            ) from error
        return signers[0]

    def admit_seek(self, envelope: Any, tls_hash: bytes, resource: str | None) -> tuple[Identity, Any]:
        """Checks a request for blocks.

        Args:
            envelope: common.Envelope whose payload is an orderer.SeekInfo.
            tls_hash: SHA-256 of the TLS certificate that the client showed, or empty.
            resource: What is asked for; None at the orderer, whose rule is /Channel/Readers.

        Returns:
            The creator and the payload.

        Raises:
            Refused: The request is not let in.
        """
        payload, channel_header, signature_header = parse_headers(envelope)
        self.check_channel(channel_header.channel_id)
        if not channel_header.HasField("timestamp"):
            raise Refused("channel header in envelope must contain timestamp")
        stamp = channel_header.timestamp
        self._check_clock(stamp.seconds * 1000 + stamp.nanos // 1_000_000)
        if tls_hash and channel_header.tls_cert_hash != tls_hash:
            raise Refused(
                "expected the hash of the client's TLS certificate in the channel header, got another or none"
            )
        creator = self._authenticate(
            signature_header.creator, envelope.signature, envelope.payload, channel_header.channel_id
        )
        if resource is None:
            self.check_policy(creator, "/Channel/Readers")
        else:
            self.check_access(creator, resource)
        return creator, payload

    def admit_transaction(self, encoded: bytes) -> str:
        """Checks an envelope as orderers do before they order it.

        Returns:
            The transaction id.

        Raises:
            Refused: The envelope is not let in.
        """
        try:
            envelope = common_pb2.Envelope.FromString(encoded)
        except DecodeError as error:
            raise Refused(f"expected an envelope, got {len(encoded)} bytes that do not parse as one") from error
        if not envelope.payload:
            raise Refused("message payload is empty")
        limit = self._config().batch.absolute_max_bytes
        if len(encoded) > limit:
            raise Refused(f"message payload is {len(encoded)} bytes and exceeds maximum allowed {limit} bytes")
        _, channel_header, signature_header = parse_headers(envelope)
        self.check_channel(channel_header.channel_id)
        if channel_header.type not in _ORDERED:
            raise Refused(
                "expected an ENDORSER_TRANSACTION (type 3) or a CONFIG_UPDATE (type 2), which are what the embedded "
                f"node orders, got type {channel_header.type}"
            )
        signers: list[Identity] = []
        try:
            creator, channel = signature_header.creator, channel_header.channel_id
            signers.append(self._authenticate(creator, envelope.signature, envelope.payload, channel))
            self.check_policy(signers[0], "/Channel/Writers")
        except Unauthorized:
            raise
        except AccessDenied as error:
            failure = self._describe_failure("/Channel/Writers", signers)
            raise AccessDenied(f"{failure}: permission denied") from error
        return str(channel_header.tx_id)

    def check_policy(self, creator: Identity, path: str) -> None:
        """Checks an authenticated creator against a policy of the channel.

        Raises:
            Refused: The policy is not satisfied.
        """
        if not self._config().policies.satisfied_by(path, [creator]):
            raise AccessDenied(f"implicit policy evaluation failed: {_describe(creator)} does not satisfy {path}")

    def _describe_failure(self, path: str, signers: Sequence[Identity]) -> str:
        """Returns why a policy is not satisfied by those who have signed, in a peer's words."""
        config = self._config()
        policy = config.policies.get(path) if path in config.policies else None
        if not isinstance(policy, ImplicitMeta):
            return "signature set did not satisfy policy"
        satisfied = sum(part is not None and part.satisfied_by(signers, config.msps) for part in policy.parts)
        return (
            f"implicit policy evaluation failed - {satisfied} sub-policies were satisfied, but this policy requires "
            f"{policy.threshold} of the '{path.rpartition('/')[2]}' sub-policies to be satisfied"
        )

    def check_channel(self, channel: str, *, empty_allowed: bool = False) -> None:
        """Checks that a request is for the node's channel.

        Raises:
            UnknownChannel: It is for another one.
        """
        own = self._config().channel_id
        if channel != own and (channel or not empty_allowed):
            raise UnknownChannel(f"channel '{channel}' not found: this node has the channel '{own}' only")

    def now(self) -> datetime:
        """Returns the node's time."""
        return datetime.fromtimestamp(self._clock(), UTC)

    def is_member(self, creator: Identity, policy: Any) -> bool:
        """Tells whether a creator satisfies a collection's member policy."""
        return evaluate_signature_policy(policy, [creator], self._config().msps)

    def _check_clock(self, timestamp_ms: int) -> None:
        now = self._clock()
        if abs(timestamp_ms / 1000 - now) > self._time_window_s:
            raise WrongTime(
                f"request unauthorized due to incorrect timestamp {_format_time(timestamp_ms / 1000)}, "
                f"peer time {_format_time(now)}, time window {self._time_window_s:g} s: synchronise the clocks"
            )

    def _authenticate(self, serialized: bytes, signature: bytes, data: bytes | memoryview, channel: str) -> Identity:
        try:
            organisation = self._config().msps.parse(serialized).msp_id
        except IdentityError as error:
            _LOG.warning("a creator is refused: %s", error)
            raise AccessDenied(
                f"access denied: channel [{channel}] creator org unknown, creator is malformed"
            ) from error
        try:
            identity = self._config().msps.parse_and_validate(serialized)
            self._check_expiry(identity, channel)
            if isinstance(data, bytes):
                self._signatures.verify(identity, signature, data)
            else:  # a proposal, perhaps of megabytes: nobody verifies it again
                identity.verify(signature, data)  # type: ignore[arg-type]
        except IdentityError as error:
            _LOG.warning("a creator of %s is refused: %s", organisation, error)
            raise AccessDenied(f"access denied: channel [{channel}] creator org [{organisation}]") from error
        return identity

    def _check_expiry(self, identity: Identity, channel: str) -> None:
        try:
            check_not_expired(identity, self.now())
        except IdentityError as error:
            raise Unauthorized(f"access denied: channel [{channel}]: {error}") from error


def parse_headers(envelope: Any) -> tuple[Any, Any, Any]:
    """Takes a common.Envelope apart into payload, channel header and signature header.

    Raises:
        Refused: Some part does not parse.
    """
    try:
        payload = _parse(common_pb2.Payload, envelope.payload)
        channel_header = _parse(common_pb2.ChannelHeader, payload.header.channel_header)
        return payload, channel_header, _parse(common_pb2.SignatureHeader, payload.header.signature_header)
    except DecodeError as error:
        raise Refused("expected an envelope with payload and headers, got bytes that do not parse") from error


def _parse(message_type: Any, encoded: bytes) -> Any:
    """Parse quickly what may be megabytes; by Go's rules where the bindings refuse it. Validation is stricter."""
    try:
        return message_type.FromString(encoded)
    except DecodeError:
        return parse(message_type, encoded)


def _format_time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s since 1970"


def _describe(identity: Identity) -> str:
    return f"{identity.certificate.subject.rfc4514_string()} of {identity.msp_id}"
