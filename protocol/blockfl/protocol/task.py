"""What a task is: the specification that the coordinator proposes, and what makes one impossible.

A specification is checked when it is made, so that no round can meet a rule that it cannot follow.

Source: ``docs/protocol.md``, records.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from blockfl.protocol.aggregation import MAX_COMPARED_VALUES, MAX_PRODUCTS, Aggregation
from blockfl.protocol.assessment import Effect
from blockfl.protocol.canonical import Digest, MspId, Name, Natural, Positive, Record
from blockfl.protocol.economics import KNOWN_SUMS, Economics
from blockfl.protocol.goal import Goal
from blockfl.protocol.manifest import MAX_DIMENSION, MAX_TENSORS, Manifest
from blockfl.protocol.norm_rules import MICRO, NormRules
from blockfl.protocol.optimiser import Optimiser, name_state_tensor
from blockfl.protocol.payload import ENCODINGS, EncodingName
from blockfl.protocol.personal import MAX_PATTERNS, Pattern, is_personal
from blockfl.protocol.records import Blob, Organisations, Text, check_ascending
from blockfl.protocol.referee import Referee
from blockfl.protocol.selection import Selection
from blockfl.protocol.table import Table
from blockfl.protocol.tally import LEAST_RANGE, compute_tally_bound, make_tally_manifest
from blockfl.protocol.training import Training

MINIMUM_ACCEPTED = 3
"""Below three accepted updates the sum would expose an individual one."""
MAX_COMMITTED_DIMENSION = 2**26
"""Beyond that, verifying a sum by commitments would keep every contract service busy for too long."""
WEIGHT_SHARE_MAX_MICRO = 500_000
"""No institution has more than half of a round's weights, unless a task says otherwise."""
MAX_SCORED_INSTITUTIONS = 100
"""The most institutions of a task with economics: with twice as many, a score takes ten times as long."""


def check_rules(rules: NormRules, manifest: Manifest, bound_l2_micro: int) -> None:
    """Check that updates of these tensors can obey the norm rules.

    Raises:
        ValueError: they cannot, or a rule would never bind.
    """
    place = {tensor.name: index for index, tensor in enumerate(manifest.tensors) if tensor.kind == "weight"}
    for one in rules.tensors:
        if one.tensor not in place:
            raise ValueError(f"norms: the model trains no tensor {one.tensor!r}: choose among {', '.join(place)}"[:400])
        if one.bound_l2_micro > bound_l2_micro:
            raise ValueError(
                f"norms: the bound {one.bound_l2_micro} of tensor {one.tensor} is over that of the whole update, "
                f"{bound_l2_micro}, and would never bind"
            )
    order = [place[one.tensor] for one in rules.tensors]
    if order != sorted(set(order)):
        raise ValueError("norms: tensors must be in the model's order, each once")
    lowest = rules.adaptive.floor_l2_micro if rules.adaptive else bound_l2_micro
    if lowest > bound_l2_micro:
        raise ValueError(f"norms: the adaptive bound's floor {lowest} is over the task's bound {bound_l2_micro}")
    if 2 * rules.minimum_l2_micro > lowest:
        raise ValueError(
            f"norms: the least norm {rules.minimum_l2_micro} must be at most half the lowest bound, {lowest}"
        )
    room = sum(one.bound_l2_micro**2 for one in rules.tensors)
    if len(order) == len(place) and 4 * rules.minimum_l2_micro**2 > room:
        raise ValueError(f"norms: the tensors' bounds leave no room for the least norm {rules.minimum_l2_micro}")


class Deadlines(Record):
    """Seconds from a round's opening to the end of submitting, from there to the end of judging, and from there (or
    from the close, if that is later) to when a round without a model may be abandoned."""

    submit_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]
    judge_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]
    publish_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]


class TaskSpec(Record):
    """What the coordinator proposes: one federated activity.

    ``bound_l2_micro`` is the bound B on an update's L2 norm in millionths; ``weight_cap`` the largest integer weight;
    ``samples_cap`` the most samples that count; ``weight_share_max_micro`` the largest share of a round's weights that
    one institution has. With ``stable_set`` a round fails whose accepted institutions differ from those of the last
    published one by one or two. ``norms`` are further rules about norms. ``check`` says who checks a sum: with
    ``commitment`` every organisation against the accepted updates' commitments, with ``recompute`` the committee,
    which opens these updates again. ``referee`` names committee members whose own updates the others are compared
    with, ``effect`` those that try every accepted update on rows of their own. ``table`` says which columns every
    institution's table has. ``personal`` are patterns of the names of tensors that stay at each institution. A task
    that ``tallies`` trains nothing: its one round adds up counts of the table's columns. ``goal`` is the metric by
    which versions are compared, and when the task stops. ``evaluators`` are institutions
    that evaluate and never train. ``selection`` says how many of the enrolled institutions take
    part in a round.
    Rules other than fedavg are recomputed, and every update has weight 1.
    """

    task: Name
    title: Text
    manifest: Manifest
    initial_model: Blob
    encoding: EncodingName
    aggregation: Aggregation
    optimiser: Annotated[Optimiser | None, Field(exclude_if=lambda optimiser: optimiser is None)] = None
    check: Literal["commitment", "recompute"]
    aggregator: MspId
    referee: Annotated[Referee | None, Field(exclude_if=lambda referee: referee is None)] = None
    effect: Annotated[Effect | None, Field(exclude_if=lambda effect: effect is None)] = None
    institutions: Annotated[Organisations, Field(min_length=MINIMUM_ACCEPTED)]
    evaluators: Annotated[Organisations, Field(exclude_if=lambda names: not names)] = ()
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    minimum_accepted: Annotated[int, Field(ge=MINIMUM_ACCEPTED, le=10_000)]
    bound_l2_micro: Annotated[int, Field(ge=1, le=10**15)]
    weight_cap: Annotated[int, Field(ge=1, le=255)]
    samples_cap: Positive
    weight_share_max_micro: Annotated[int, Field(ge=1, le=MICRO)] = WEIGHT_SHARE_MAX_MICRO
    stable_set: Annotated[bool, Field(exclude_if=lambda is_set: not is_set)] = False
    norms: Annotated[NormRules | None, Field(exclude_if=lambda rules: rules is None)] = None
    economics: Annotated[Economics | None, Field(exclude_if=lambda policy: policy is None)] = None
    deadlines: Deadlines
    training: Training
    table: Annotated[Table | None, Field(exclude_if=lambda table: table is None)] = None
    personal: Annotated[
        tuple[Pattern, ...], Field(max_length=MAX_PATTERNS, exclude_if=lambda patterns: not patterns)
    ] = ()
    tallies: Annotated[bool, Field(exclude_if=lambda is_set: not is_set)] = False
    selection: Annotated[Selection | None, Field(exclude_if=lambda selection: selection is None)] = None
    goal: Annotated[Goal | None, Field(exclude_if=lambda goal: goal is None)] = None

    @property
    def is_committed(self) -> bool:
        """Whether updates come with commitments."""
        return self.check == "commitment"

    @property
    def referees(self) -> Organisations:
        """The committee members that referee in turn, ascending."""
        return self.referee.organisations if self.referee else ()

    @property
    def assessors(self) -> Organisations:
        """The committee members that measure what updates do to their loss, ascending."""
        return self.effect.assessors if self.effect else ()

    @property
    def contributors(self) -> Organisations:
        """Everybody who may send updates: institutions and referees."""
        return (*self.institutions, *self.referees)

    @property
    def everybody(self) -> Organisations:
        """Everybody who may enrol and report metrics: contributors and evaluators."""
        return (*self.contributors, *self.evaluators)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(self.institutions, "institutions")
        if self.is_committed and self.manifest.dimension > MAX_COMMITTED_DIMENSION:
            raise ValueError(
                f"commitments are for up to {MAX_COMMITTED_DIMENSION} parameters, the model has "
                f"{self.manifest.dimension}: choose the check recompute"
            )
        if self.weight_cap > ENCODINGS[self.encoding].max_value:
            raise ValueError(
                f"{self.encoding} cannot hold a value times the weight {self.weight_cap}: choose a lower cap"
            )
        if self.minimum_accepted > len(self.institutions):
            raise ValueError(
                f"minimum_accepted {self.minimum_accepted} is more than {len(self.institutions)} institutions"
            )
        if self.weight_share_max_micro * self.minimum_accepted < MICRO:
            raise ValueError(
                f"{self.minimum_accepted} institutions, with which a round may open, cannot each have at most "
                f"{self.weight_share_max_micro} millionths of the weights: allow "
                f"{-(-MICRO // self.minimum_accepted)}, or accept more"
            )
        self._check_rule()
        self._check_referee()
        if self.economics:
            self._check_scores()
        if self.optimiser:
            self._check_optimiser(self.optimiser)
        if self.norms:
            check_rules(self.norms, self.manifest, self.bound_l2_micro)
        if self.personal:
            self._check_personal()
        self._check_class_weights()
        if self.tallies:
            self._check_tally()
        return self

    def _check_class_weights(self) -> None:
        found, classes = len(self.training.class_weights_micro), self.table.classes if self.table else ()
        if found and self.table and found != len(classes):
            raise ValueError(f"there are {found} weights of classes, and the label has {len(classes) or 'no'} classes")

    def _check_tally(self) -> None:
        if self.table is None:
            raise ValueError("a tally counts the columns of a table: name them")
        if self.manifest != make_tally_manifest(self.table):
            raise ValueError("the tensors are not those of a tally of these columns")
        if ENCODINGS[self.encoding].max_value < LEAST_RANGE:
            raise ValueError(f"{self.encoding} would round the digits of a tally: choose int16")
        others = (self.optimiser, self.norms, self.economics, self.effect, self.referee, self.selection, self.goal)
        plain = self.aggregation.rule == "fedavg" and self.weight_cap == 1 and self.rounds == 1
        if not plain or any(one is not None for one in (*others, *self.personal)):
            raise ValueError(
                "a tally is one round of plain sums: expected fedavg, weight_cap 1, rounds 1, and no optimiser, norms, "
                "economics, effect, referee, selection, goal and personal layers"
            )
        if self.bound_l2_micro != compute_tally_bound(self.manifest):
            raise ValueError(f"a tally of these columns has the bound {compute_tally_bound(self.manifest)}")

    def _check_personal(self) -> None:
        if list(self.personal) != sorted(set(self.personal)):
            raise ValueError("personal: expected patterns in ascending order, each once")
        shared = next((one.name for one in self.manifest.tensors if is_personal(one.name, self.personal)), None)
        if shared is not None:
            raise ValueError(f"tensor {shared} is personal, and in no model file: leave it out of the initial model")
        if self.effect:
            raise ValueError("assessors have no personal layers of an institution: choose no effect, or none personal")

    def _check_scores(self) -> None:
        count, dimension = len(self.institutions), self.manifest.dimension
        if count > MAX_SCORED_INSTITUTIONS:
            raise ValueError(
                f"scores are for up to {MAX_SCORED_INSTITUTIONS} institutions, got {count}: "
                "choose fewer, or no economics"
            )
        known = KNOWN_SUMS + len(self.referees[:1])
        compared = (count + known) * dimension
        if compared > MAX_COMPARED_VALUES:
            raise ValueError(
                f"scoring compares up to {MAX_COMPARED_VALUES} values, {count} institutions and "
                f"{known} known vectors make {compared}: choose a smaller model, or no economics"
            )
        products = (count + known) * compared
        if products > MAX_PRODUCTS:
            raise ValueError(
                f"scoring multiplies up to {MAX_PRODUCTS} pairs of values, {count} institutions and "
                f"{known} known vectors make {products}: choose fewer institutions, "
                "a smaller model, or no economics"
            )

    def _check_rule(self) -> None:
        rule, traits = self.aggregation, self.aggregation.traits
        if self.is_committed and not traits.is_linear:
            raise ValueError(f"the sums of {rule.rule} are no sums of updates: choose the check recompute")
        if self.weight_cap != 1 and not traits.is_linear:
            raise ValueError(f"with {rule.rule} every update counts the same: expected weight_cap 1")
        if self.minimum_accepted < traits.least_updates:
            raise ValueError(
                f"{rule.rule} with these parameters needs {traits.least_updates} updates, but minimum_accepted is "
                f"{self.minimum_accepted}: tolerate fewer, or accept more"
            )
        rule.check_task(len(self.institutions), self.manifest.dimension, self.bound_l2_micro)

    def _check_referee(self) -> None:
        check_ascending(self.evaluators, "evaluators")
        duties = (("referee", self.referees), ("assessor", self.assessors), ("evaluator", self.evaluators))
        for duty, organisations in duties:
            both = sorted({*self.institutions} & {*organisations})
            if both:
                raise ValueError(f"{both[0]} cannot be an institution of the task and its {duty}")
        if self.referee:
            return
        if self.aggregation.traits.needs_referee:
            raise ValueError(f"the rule {self.aggregation.rule} compares updates with a referee's: name a referee")
        if self.norms and self.norms.minimum_reference_cosine_micro is not None:
            raise ValueError("norms: a least cosine to the referee's update needs a referee: name one")

    def _check_optimiser(self, optimiser: Optimiser) -> None:
        taken = {name_state_tensor(one) for one in optimiser.state} & {one.name for one in self.manifest.tensors}
        if taken:
            raise ValueError(
                f"model files keep the name {min(taken)} for the optimiser's state: rename the model's tensor"
            )
        vectors, tensors = len(optimiser.state), len(self.manifest.tensors) + len(optimiser.state)
        values = self.manifest.dimension + vectors * self.manifest.trained
        if values > MAX_DIMENSION or tensors > MAX_TENSORS:
            raise ValueError(
                f"the model with the optimiser's state is over {MAX_DIMENSION} values or {MAX_TENSORS} tensors: choose "
                "an optimiser that keeps less, or none"
            )


class Task(Record):
    """A task on the ledger, never changed. Key: ``task/<task>``."""

    spec: TaskSpec
    manifest_digest: Digest
    created_by: MspId
    created_at_ms: Natural
