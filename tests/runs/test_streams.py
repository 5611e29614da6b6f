"""Streams are told apart by every part of their key, above bit 32 too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from robust_cli.runs.streams import key64, stream

KEYS = [(s, p, i, b) for s, p, i, b in itertools.product(
    [0, 1, 2**32, 2**32 + 1, 2**63], ["selection", "estimation"], [0, 1, 2**32, 2**40 + 1], [0, 1, 2**32])]


def test_the_same_key_gives_the_same_numbers() -> None:
    assert np.array_equal(stream(3, "a", 5, 7).standard_normal(50), stream(3, "a", 5, 7).standard_normal(50))


@pytest.mark.parametrize("draw", [lambda *key: stream(*key).integers(0, 2**63), key64], ids=["stream", "key64"])
def test_no_two_keys_share_a_stream(draw) -> None:
    firsts = [int(draw(*key)) for key in KEYS]
    assert len(set(firsts)) == len(KEYS)


def test_neighbouring_streams_do_not_overlap() -> None:
    # A counter that a stream runs through must not be another stream's start: 1e5 draws each, no common window.
    first, second = stream(0, "a", 0, 0).integers(0, 2**63, 100_000), stream(0, "a", 0, 1).integers(0, 2**63, 100_000)
    assert not set(first.tolist()) & set(second.tolist())


def test_streams_are_uncorrelated() -> None:
    draws = np.stack([stream(0, "a", i, b).standard_normal(20_000) for i in range(5) for b in range(4)])
    correlations = np.corrcoef(draws)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(20_000)  # 190 pairs, each of standard error 1/sqrt(n)
