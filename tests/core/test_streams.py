"""Streams, Poisson batches and memberships. Statistical tests: false-alarm rate 1e-6 each (|z| <
4.89), seeded.
"""

import numpy as np
import pytest

from dptrain.core import streams
from dptrain.core.streams import (
    Purpose,
    fill,
    generator,
    memberships,
    os_key,
    pad,
    poisson,
    seeded_key,
)

Z = 4.89


KEY = seeded_key(0, "test")


def test_poisson_inclusion_rate_of_every_example(seed):
    key = seeded_key(seed, "test")
    n, steps, batch, public = 200, 20_000, 30, 100
    member = np.arange(n) % 2 == 0
    counts = np.zeros(n)
    for step in range(steps):
        counts[poisson(key, step, member, batch, public)] += 1
    q = batch / public
    z = (counts[member].sum() - steps * member.sum() * q) / np.sqrt(
        steps * member.sum() * q * (1 - q)
    )
    assert abs(z) < Z
    each = (counts[member] - steps * q) / np.sqrt(steps * q * (1 - q))
    assert np.abs(each).max() < 5.8  # Bonferroni over 100 members
    assert counts[~member].sum() == 0


def test_poisson_pairs_are_independent(seed):
    key = seeded_key(seed, "test")
    steps, q = 50_000, 0.25
    member = np.ones(12, dtype=bool)
    drawn = np.zeros((steps, 12))
    for step in range(steps):
        drawn[step, poisson(key, step, member, 3, 12)] = 1
    correlation = np.corrcoef(drawn.T)[np.triu_indices(12, 1)]
    assert np.abs(correlation).max() * np.sqrt(steps) < 5.8
    between = np.mean(drawn[1:] * drawn[:-1]) - q**2  # and steps from each other
    assert abs(between) < Z * np.sqrt(q**2 * (1 - q**2) / drawn[1:].size) * 1.5


def test_batch_sizes_vary_and_may_be_empty():
    sizes = [len(poisson(KEY, step, np.ones(10, dtype=bool), 1, 10)) for step in range(2000)]
    assert 0.28 < np.mean(np.array(sizes) == 0) < 0.42  # (1 - .1)^10 = .349


def test_membership_of_one_example_moves_no_other_coin():
    member = np.ones(50, dtype=bool)
    without = member.copy()
    without[7] = False
    for step in range(100):
        with_, less = (set(poisson(KEY, step, m, 20, 50)) for m in (member, without))
        assert with_ - {7} == less


@pytest.mark.parametrize("models", [2, 6, 16])
def test_memberships_balance(models):
    table = memberships(models, 1000, KEY)
    assert table.shape == (models, 1000)
    assert (table.sum(axis=0) == models // 2).all()
    assert (table[::2] != table[1::2]).all()
    z = (table[::2].sum() - models / 2 * 500) / np.sqrt(models / 2 * 250)
    assert abs(z) < Z


def test_larger_fleets_extend_smaller_ones():
    assert (memberships(16, 100, KEY)[:6] == memberships(6, 100, KEY)).all()


def test_pairs_of_models_are_independent():
    table = memberships(40, 4000, KEY)[::2].astype(float)
    correlation = np.corrcoef(table)[np.triu_indices(20, 1)]
    assert np.abs(correlation).max() * np.sqrt(4000) < 5.9


def bits(key, purpose, step, size=64):
    out = np.empty(size, dtype=np.uint64)
    fill(key, purpose, step, out)
    return out


def test_streams_never_meet():
    seen = set()
    for key in (KEY, seeded_key(1, "test"), seeded_key(0, "other"), os_key(), os_key()):
        for purpose in Purpose:
            for step in range(50):
                seen |= set(bits(key, purpose, step).tolist())
    assert len(seen) == 5 * len(Purpose) * 50 * 64


def test_streams_repeat():
    assert (bits(KEY, Purpose.NOISE, 3) == bits(KEY, Purpose.NOISE, 3)).all()
    assert generator(KEY, Purpose.SPLIT).integers(0, 2**60) == generator(
        KEY, Purpose.SPLIT
    ).integers(0, 2**60)


def test_keystream_is_aes_256_ctr():
    """NIST SP 800-38A, F.5.5: the first block, through our counter layout set to its counter."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    block = int(Purpose.NOISE).to_bytes(2, "big") + (9).to_bytes(6, "big") + bytes(8)
    expected = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update(block)
    assert bits(KEY, Purpose.NOISE, 9, 2).tobytes() == expected


def test_padding():
    indices, weights = pad([np.array([3, 1]), np.array([], dtype=int), np.array([2])])
    assert indices.tolist() == [[3, 1], [0, 0], [2, 0]]
    assert weights.tolist() == [[True, True], [False, False], [True, False]]
    assert pad([np.array([], dtype=int)])[0].shape == (1, 1)


def test_keys_are_secret_sized():
    assert len(os_key()) == streams.KEY_BYTES == len(KEY)
    assert os_key() != os_key()
