"""The server optimisers: the same bits as the naive reference, and a state that belongs to the model and its digest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st

from blockfl.protocol import optimiser
from blockfl.protocol.codes import Code
from blockfl.protocol.model import decode_manifest, decode_model, encode_model, unflatten
from blockfl.protocol.optimiser import Adagrad, Adam, Momentum, Optimiser, Yogi
from blockfl.protocol.sums import apply_sum
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.version import ModelFile, apply_step, compute_layout, decode_version, encode_version
from reference.optimiser import step_naively
from support.refusal import refused
from support.scenario import make_spec

SPEC, INITIAL = make_spec()
OPTIMISERS: dict[str, Optimiser] = {
    "momentum": Momentum(learning_rate_micro=1_000_000, beta_micro=900_000),
    "adam": Adam(learning_rate_micro=10_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000),
    "yogi": Yogi(learning_rate_micro=10_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000),
    "adagrad": Adagrad(learning_rate_micro=10_000, beta1_micro=0, tau_micro=1_000),
}
DECAY = st.integers(0, 999_999)
RATE = st.integers(1, 10**9)
ANY = st.one_of(
    st.builds(Momentum, learning_rate_micro=RATE, beta_micro=DECAY),
    st.builds(Adam, learning_rate_micro=RATE, beta1_micro=DECAY, beta2_micro=DECAY, tau_micro=RATE),
    st.builds(Yogi, learning_rate_micro=RATE, beta1_micro=DECAY, beta2_micro=DECAY, tau_micro=RATE),
    st.builds(Adagrad, learning_rate_micro=RATE, beta1_micro=DECAY, tau_micro=RATE),
)
MODEL = st.floats(-1e6, 1e6, width=32)
SUMS = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4)


def with_optimiser(optimiser: Optimiser) -> TaskSpec:
    return SPEC.model_copy(update={"optimiser": optimiser})


def vector(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def total(*values: int) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def test_every_optimiser_has_an_example_here() -> None:
    assert optimiser.OPTIMISERS.keys() == OPTIMISERS.keys()
    assert all(isinstance(OPTIMISERS[name], kind) for name, kind in optimiser.OPTIMISERS.items())


@given(ANY, MODEL, SUMS, st.integers(-10, 40), st.integers(1, 10_000))
@example(OPTIMISERS["yogi"], 0.5, [1000, 1000, -5, 0], 14, 4)
@example(OPTIMISERS["adam"], -0.0, [0, 0, 0], 0, 1)
@example(OPTIMISERS["adagrad"], 1e-45, [1, -1], 40, 10_000)
def test_rounds_with_an_optimiser_give_the_bits_of_the_naive_reference(
    optimiser: Optimiser, model: float, sums: list[int], scale: int, divisor: int
) -> None:
    parameters = optimiser.model_dump(mode="json")
    element = {"model": float(np.float32(model))}
    version = ModelFile(model=vector(model))
    for x in sums:
        try:
            element = dict(step_naively(parameters, element, x, scale, divisor))
        except OverflowError:
            with refused(Code.NOT_FINITE):
                apply_step(optimiser, version, total(x), scale=scale, divisor=divisor)
            return
        version = apply_step(optimiser, version, total(x), scale=scale, divisor=divisor)
        got = {"model": version.model, **version.state}
        assert {name: one.tolist() for name, one in got.items()} == {name: [one] for name, one in element.items()}
        assert all(one.dtype == np.float32 for one in got.values())


@given(MODEL, st.integers(-(2**31), 2**31 - 1), st.integers(0, 20), st.integers(1, 100))
def test_momentum_that_forgets_at_once_is_plain_averaging(model: float, x: int, scale: int, divisor: int) -> None:
    forgetful = Momentum(learning_rate_micro=1_000_000, beta_micro=0)
    version = ModelFile(model=vector(model), state={"momentum": vector(123.0)})
    plain = apply_sum(vector(model), total(x), scale=scale, divisor=divisor)
    assert apply_step(forgetful, version, total(x), scale=scale, divisor=divisor).model.tobytes() == plain.tobytes()
    assert apply_step(None, version, total(x), scale=scale, divisor=divisor).model.tobytes() == plain.tobytes()


def test_momentum_goes_on_when_nothing_new_is_learnt() -> None:
    first = apply_step(OPTIMISERS["momentum"], ModelFile(model=vector(0)), total(1024), scale=10, divisor=1)
    assert (first.model.tolist(), first.state["momentum"].tolist()) == ([1.0], [1.0])
    second = apply_step(OPTIMISERS["momentum"], first, total(0), scale=10, divisor=1)
    assert second.model.tolist() == vector(1.9).tolist()
    assert second.state["momentum"].tolist() == vector(0.9).tolist()


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad"])
def test_the_adaptive_ones_step_about_as_far_in_every_direction(name: str) -> None:
    """One coordinate's Δ is a thousand times the other's, the steps are alike: what they are for."""
    version = ModelFile(model=vector(0, 0))
    for _ in range(30):
        version = apply_step(OPTIMISERS[name], version, total(2**20, 2**10), scale=10, divisor=1)
    far, near = version.model.tolist()
    assert 0 < near < far < 2 * near


def test_adam_yogi_and_adagrad_differ() -> None:
    """A large Δ, then small ones: Adagrad never forgets it, Yogi slowly, Adam at its pace."""
    variances = {}
    for name in ("adam", "yogi", "adagrad"):
        version = apply_step(OPTIMISERS[name], ModelFile(model=vector(0)), total(2**20), scale=10, divisor=1)
        for _ in range(20):
            version = apply_step(OPTIMISERS[name], version, total(1), scale=10, divisor=1)
        variances[name] = version.state["variance"].tolist()[0]
    assert variances["adam"] < variances["yogi"] < variances["adagrad"]


@pytest.mark.parametrize("dimension", [1, 2**16 - 1, 2**16, 2**16 + 1, 200_000])
@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_blocks_do_not_show(optimiser: Optimiser, dimension: int) -> None:
    generator = np.random.default_rng(5)
    model = generator.standard_normal(dimension).astype(np.float32)
    x = generator.integers(-100_000, 100_000, dimension).astype(np.int32)
    whole = apply_step(optimiser, ModelFile(model=model), x, scale=14, divisor=7)
    for index in {0, dimension // 2, dimension - 1}:
        alone = apply_step(optimiser, ModelFile(model=model[[index]]), x[[index]], scale=14, divisor=7)
        assert alone.model.tolist() == whole.model[[index]].tolist()
        assert [one.tolist() for one in alone.state.values()] == [one[[index]].tolist() for one in whole.state.values()]


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_base_that_is_not_finite_or_a_result_that_is_too_large_is_refused(optimiser: Optimiser) -> None:
    with refused(Code.NOT_FINITE):
        apply_step(optimiser, ModelFile(model=vector(np.nan)), total(0), scale=0, divisor=1)
    with refused(Code.NOT_FINITE):
        apply_step(
            optimiser,
            ModelFile(model=vector(0)),
            total(2**30),
            scale=-98 if optimiser.method == "momentum" else -64,
            divisor=1,
        )


# --- the file of a version


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_the_state_stands_behind_the_model_in_its_file(optimiser: Optimiser) -> None:
    spec = with_optimiser(optimiser)
    x = np.arange(10, dtype=np.int32)
    first = apply_step(optimiser, decode_version(spec, INITIAL), x, scale=4, divisor=3)
    data = encode_version(spec, first)
    again = decode_version(spec, data)
    assert again.model.tobytes() == first.model.tobytes()
    assert {name: one.tobytes() for name, one in again.state.items()} == {
        name: one.tobytes() for name, one in first.state.items()
    }
    assert encode_version(spec, again) == data
    loaded = safetensors.numpy.load(data)
    names = ["kernel", "bias", *(f"optimiser.{name}" for name in optimiser.state)]
    assert [tensor.name for tensor in decode_manifest(data).tensors] == names
    assert set(loaded) == set(names)
    for name, tensor in unflatten(spec.manifest, first.model).items():
        np.testing.assert_array_equal(loaded[name], tensor)
    # Another state is another file, and another digest.
    other = {name: one + 1 for name, one in first.state.items()}
    assert encode_version(spec, ModelFile(model=first.model, state=other)) != data


@pytest.mark.parametrize("optimiser", [None, *OPTIMISERS.values()], ids=["none", *OPTIMISERS])
def test_version_0_is_the_models_tensors_alone(optimiser: Optimiser | None) -> None:
    spec = SPEC.model_copy(update={"optimiser": optimiser})
    version = decode_version(spec, INITIAL)
    assert not version.state
    assert version.model.tobytes() == decode_model(SPEC.manifest, INITIAL).tobytes()
    assert encode_version(spec, version) == INITIAL


def test_a_file_with_another_state_is_refused() -> None:
    momentum, adam = with_optimiser(OPTIMISERS["momentum"]), with_optimiser(OPTIMISERS["adam"])
    with_momentum = encode_version(momentum, apply_step(OPTIMISERS["momentum"], decode_version(momentum, INITIAL),
                                                        np.ones(10, dtype=np.int32), scale=0, divisor=1))  # fmt: skip
    for spec in (adam, SPEC):
        with refused(Code.MANIFEST_MISMATCH):
            decode_version(spec, with_momentum)
    for broken in (with_momentum[:-4], with_momentum + bytes(4), b"", b"\0" * 200):
        with refused(Code.MANIFEST_MISMATCH):
            decode_version(momentum, broken)


def test_a_file_whose_state_is_not_finite_is_refused() -> None:
    spec = with_optimiser(OPTIMISERS["momentum"])
    layout = compute_layout(spec.manifest, OPTIMISERS["momentum"])
    good = encode_model(layout, np.zeros(20, dtype=np.float32))
    assert decode_version(spec, good).state["momentum"].tolist() == [0] * 10
    with refused(Code.NOT_FINITE):
        decode_version(spec, good[:-4] + np.float32(np.nan).tobytes())


@pytest.mark.parametrize(
    "state",
    [
        {"variance": vector(1)},
        {"momentum": vector(1), "variance": vector(1)},
        {"momentum": vector(1, 2)},
        {"momentum": np.zeros(1)},
    ],
)
def test_a_state_of_another_kind_is_no_base(state: dict[str, npt.NDArray[np.float32]]) -> None:
    with refused(Code.MANIFEST_MISMATCH, "state"):
        apply_step(OPTIMISERS["momentum"], ModelFile(model=vector(0), state=state), total(1), scale=0, divisor=1)
