"""The second half of validation: whether enough endorsers have signed, for everything that a transaction writes.

Three kinds of policies, the most specific one decides: a key's own (in its metadata), its collection's, and the
chaincode's. A transaction that writes nothing needs the chaincode's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from fabric_protos.peer import transaction_pb2

from blockfl.fabric.errors import BlockError, IdentityError, PolicyError
from blockfl.fabric.transaction.collection import Collection
from blockfl.fabric.transaction.rwset import VALIDATION_PARAMETER, NamespaceReadWriteSet, decode_metadata
from blockfl.fabric.validate.definition import Definition, find_collection, read_definition
from blockfl.fabric.validate.envelope import CheckedTransaction, InvalidTransaction
from blockfl.fabric.validate.signatures import hash_endorsed

if TYPE_CHECKING:
    from blockfl.fabric.channel.config import ChannelConfig
    from blockfl.fabric.identity.signing import Identity
    from blockfl.fabric.validate.signatures import SignatureCache
    from blockfl.fabric.validate.state import StateView

Place = tuple[str, str, str | bytes]  # namespace, collection (empty: public), key or key hash

_FAILURE: Final = int(transaction_pb2.ENDORSEMENT_POLICY_FAILURE)


class EndorsementRules:
    """The endorsement checks for the transactions of one block, to be called in their order.

    It knows which keys' policies the transactions before have changed: writing such a key is refused for the rest
    of the block, because the policy that will hold is not known before the block's reads are validated.
    """

    def __init__(self, config: ChannelConfig, state: StateView, signatures: SignatureCache) -> None:
        """Prepare for the next block.

        Args:
            config: the configuration in force.
            state: the ledger's state before the block.
            signatures: good signatures known already.
        """
        self._config = config
        self._state = state
        self._signatures = signatures
        self._definitions: dict[str, Definition | None] = {}
        self._changed: set[Place] = set()

    def check(self, candidate: CheckedTransaction) -> None:
        """Check a transaction's endorsements, in each namespace that it writes and in that of its chaincode.

        Raises:
            InvalidTransaction: the first namespace that fails.
        """
        written = {
            namespace.namespace: namespace for namespace in candidate.readwrites.namespaces if namespace.writes_anything
        }
        written.setdefault(candidate.chaincode, NamespaceReadWriteSet(namespace=candidate.chaincode))
        identities: list[Identity] | None = None
        failure: InvalidTransaction | None = None
        changed: set[Place] = set()
        for namespace in written.values():
            try:
                definition = self.definition(namespace.namespace)
                if identities is None:
                    identities = list_endorsers(candidate, self._config, self._signatures)
                _NamespaceCheck(self, namespace, definition, identities).run()
                changed.update(_changed_policies(namespace))
            except InvalidTransaction as reason:
                failure = failure or reason
        # Peers note the outcome by namespace, so that a change counts even if another namespace's check fails.
        self._changed |= changed
        if failure is not None:
            raise failure

    def policy_of(self, place: Place) -> bytes:
        """The policy that a key has of its own: a serialised `SignaturePolicyEnvelope`; empty when none.

        Raises:
            InvalidTransaction: a transaction earlier in this block may have changed it.
        """
        namespace, collection, key = place
        if place in self._changed:
            raise InvalidTransaction(
                _FAILURE, f"the policy of key {_name(key)} in {namespace!r} was changed earlier in this block"
            )
        if isinstance(key, str):
            public = self._state.get(namespace, key)
            metadata = b"" if public is None else public.metadata
        else:
            private = self._state.get_hash(namespace, collection, key)
            metadata = b"" if private is None else private.metadata
        return decode_metadata(metadata).get(VALIDATION_PARAMETER, b"") if metadata else b""

    def collection(self, definition: Definition, collection: str) -> Collection:
        """A collection of a chaincode.

        Raises:
            InvalidTransaction: there is none of that name.
        """
        try:
            return find_collection(definition, collection, self._config)
        except BlockError as error:
            raise InvalidTransaction(_FAILURE, str(error)) from error

    def satisfied(self, policy: bytes, identities: list[Identity], *, of_key: bool) -> bool:
        """Whether endorsers satisfy a policy; one that is malformed is satisfied by nobody.

        Args:
            policy: a serialised `SignaturePolicyEnvelope` when `of_key`, else an `ApplicationPolicy`.
            identities: the distinct endorsers whose signatures verify.
            of_key: whether it is a key's own.
        """
        try:
            return self._config.policies.are_enough(policy, identities, of_key=of_key)
        except PolicyError:
            return False

    def definition(self, name: str) -> Definition:
        """A chaincode's definition.

        Raises:
            InvalidTransaction: it has none, or one that cannot be used.
        """
        if name not in self._definitions:
            try:
                self._definitions[name] = read_definition(name, self._config, self._state)
            except BlockError as error:
                raise InvalidTransaction(transaction_pb2.INVALID_OTHER_REASON, str(error)) from error
        definition = self._definitions[name]
        if definition is None:
            raise InvalidTransaction(
                transaction_pb2.INVALID_CHAINCODE, f"chaincode {name!r} is not defined on the channel"
            )
        return definition


def list_endorsers(candidate: CheckedTransaction, config: ChannelConfig, signatures: SignatureCache) -> list[Identity]:
    """The distinct endorsers of a transaction whose signatures verify; the others do not count."""
    found: dict[tuple[str, bytes], Identity] = {}
    signed = hash_endorsed(candidate.signed_response, [one.endorser for one in candidate.endorsements])
    for endorsement, (message, digest) in zip(candidate.endorsements, signed, strict=True):
        try:
            identity, fingerprint = config.msps.recognise(endorsement.endorser)
            if fingerprint not in found:
                signatures.verify(identity, endorsement.signature, message, digest)
                found[fingerprint] = identity
        except IdentityError:
            continue
    return list(found.values())


class _NamespaceCheck:
    """One transaction's writes in one namespace against the policies that rule them."""

    def __init__(
        self,
        rules: EndorsementRules,
        readwrites: NamespaceReadWriteSet,
        definition: Definition,
        identities: list[Identity],
    ) -> None:
        self._rules = rules
        self._readwrites = readwrites
        self._definition = definition
        self._identities = identities
        self._known: dict[tuple[bool, bytes], bool] = {}

    def run(self) -> None:
        any_checked = False
        for place in _written_places(self._readwrites):
            namespace, collection, key = place
            own = self._rules.policy_of(place)
            if own:
                self._require(own, f"the policy of key {_name(key)} in {namespace!r}", of_key=True)
            else:
                self._require_collection_or_chaincode(collection)
            any_checked = True
        if not any_checked:
            self._require_collection_or_chaincode("")

    def _require_collection_or_chaincode(self, collection: str) -> None:
        own = self._rules.collection(self._definition, collection).policy if collection else b""
        if own:
            self._require(own, f"the policy of collection {collection!r}", of_key=False)
        else:
            what = f"the policy of chaincode {self._readwrites.namespace!r}"
            self._require(self._definition.policy, what, of_key=False)

    def _require(self, policy: bytes, what: str, *, of_key: bool) -> None:
        satisfied = self._known.get((of_key, policy))
        if satisfied is None:
            satisfied = self._rules.satisfied(policy, self._identities, of_key=of_key)
            self._known[of_key, policy] = satisfied
        if not satisfied:
            endorsers = ", ".join(identity.msp_id for identity in self._identities) or "nobody"
            raise InvalidTransaction(_FAILURE, f"{what} is not satisfied by {endorsers}")


def _written_places(readwrites: NamespaceReadWriteSet) -> Iterator[Place]:
    namespace = readwrites.namespace
    for write in readwrites.writes:
        yield namespace, "", write.key
    for collection in readwrites.collections:
        for hashed in collection.writes:
            yield namespace, collection.collection, hashed.key_hash
    yield from _changed_policies(readwrites)


def _changed_policies(readwrites: NamespaceReadWriteSet) -> Iterator[Place]:
    for write in readwrites.metadata_writes:
        yield readwrites.namespace, "", write.key
    for collection in readwrites.collections:
        for hashed in collection.metadata_writes:
            yield readwrites.namespace, collection.collection, hashed.key_hash


def _name(key: str | bytes) -> str:
    return repr(key) if isinstance(key, str) else key.hex()
