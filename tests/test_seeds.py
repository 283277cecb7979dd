"""Random streams: one per purpose, the same on every machine and in every process."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.seeds import stream, subseed, torch_generator

purposes = st.lists(st.one_of(st.text(max_size=5), st.integers(0, 99)), max_size=3)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**64), purposes, purposes)
def test_two_streams_are_alike_only_if_seed_and_purpose_are(seed, one, other) -> None:
    first = stream(seed, *one).integers(0, 2**63, 4).tolist()
    assert first == stream(seed, *one).integers(0, 2**63, 4).tolist()
    assert (first == stream(seed, *other).integers(0, 2**63, 4).tolist()) == (one == other)
    assert first != stream(seed + 1, *one).integers(0, 2**63, 4).tolist()


def test_numbers_are_those_of_earlier_versions() -> None:
    # Every published number depends on these: a change here is a change of the protocol.
    assert stream(0, "attack").integers(0, 1000, 5).tolist() == [686, 962, 865, 696, 669]
    assert torch.randint(1000, (3,), generator=torch_generator(0, "ebm")).tolist() == [
        959,
        457,
        434,
    ]


def test_a_draw_elsewhere_shifts_nothing() -> None:
    expected = stream(3, "train").random(3)
    np.random.default_rng(0).random(10)
    torch.rand(10)
    stream(3, "attack").random(1000)
    np.testing.assert_array_equal(stream(3, "train").random(3), expected)


@pytest.mark.parametrize("number", [1, "1"])
def test_text_and_number_are_different_purposes(number) -> None:
    other = "1" if number == 1 else 1
    assert stream(0, number).random() != stream(0, other).random()


def test_subseed_is_a_seed() -> None:
    seeds = {subseed(stream(s)) for s in range(50)}
    assert len(seeds) == 50
    assert all(0 <= s < 2**63 for s in seeds)
