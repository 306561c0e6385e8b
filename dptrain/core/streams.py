"""Indices and random streams only: who is a member of which model, who is in which batch.

Every draw comes from a stream named by (key, purpose, step), so no draw depends on the order of the
others, on the number of workers or on a restart.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from jaxtyping import Bool, Int, Integer

KEY_BYTES = 32


class Purpose(IntEnum):
    """Separate streams of one key."""

    MEMBERSHIP = 1
    SPLIT = 2
    INITIALISATION = 3
    BATCH = 4
    NOISE = 5
    AUGMENTATION = 6
    CANARY = 7
    QUERY = 8
    REGULARISER = 9
    TAIL = 10
    ROWS = 11


def os_key() -> bytes:
    """A fresh 256-bit key from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def seeded_key(seed: int, *context: str) -> bytes:
    """The 256-bit key of `seed` in a named context: a reproducible stand-in for os_key."""
    text = "\x1f".join((str(seed), *context)).encode()
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def fill(key: bytes, purpose: Purpose, step: int, out: Integer[np.ndarray, " ..."]) -> None:
    """Fill a contiguous integer array with uniformly random bits: the AES-256-CTR keystream of
    (key, purpose, step).

    The counter block is purpose (2 bytes), step (6), block (8), so streams of one key cannot meet.
    A cipher because torch's CPU generator keeps 32 bits of a seed, so that noise seeded by step
    would collide within a sweep, and because with AES instructions it is the fastest source here.
    """
    block = int(purpose).to_bytes(2, "big") + step.to_bytes(6, "big") + bytes(8)
    encryptor = Cipher(algorithms.AES(key), modes.CTR(block)).encryptor()
    encryptor.update_into(bytes(out.nbytes), memoryview(out.view(np.uint8).data).cast("B"))


def generator(key: bytes, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """NumPy's generator of one (key, purpose, step), for draws that protect nobody: splits,
    memberships, seeds.
    """
    seed = np.random.SeedSequence(int.from_bytes(key, "big"), spawn_key=(int(purpose), step))
    return np.random.Generator(np.random.PCG64DXSM(seed))


def memberships(models: int, examples: int, key: bytes) -> np.ndarray:
    """Training sets of a fleet, bool [models, examples], models even.

    Models 2k and 2k+1 are complements, and pair k is one fair coin per example. So every example is
    a member of exactly half of the models, yet within one model the coins are independent: given
    all the other members, an example is in or out with probability 1/2, which is the add-or-remove
    world the epsilon speaks of. Pair k does not depend on `models`: a larger fleet extends a
    smaller one.
    """
    first = np.stack(
        [
            generator(key, Purpose.MEMBERSHIP, pair).random(examples) < 0.5
            for pair in range(models // 2)
        ]
    )
    return np.stack([first, ~first], axis=1).reshape(models, examples)


def poisson(
    key: bytes, step: int, membership: Bool[np.ndarray, " N"], batch_size: int, public_n: int
) -> np.ndarray:
    """Indices of the members in one step's batch, each included independently with probability
    batch_size / public_n.

    The probability is exact to 2^-64. A coin is tossed for every candidate, member or not, so that
    one example's membership moves no other example's coin. May be empty.
    """
    bits = np.empty(membership.shape[0], dtype=np.uint64)
    fill(key, Purpose.BATCH, step, bits)
    # Coin i falls heads when its 64 bits lie below batch_size / public_n of their range; `<=` on
    # the last value, since 2^64 does not fit.
    return np.flatnonzero((bits <= np.uint64((batch_size << 64) // public_n - 1)) & membership)


@dataclass(frozen=True)
class Users:
    """Whose the examples of a data set are. rows: the places of all examples, those of one user
    beside each other; starts: where each user's begin among them, and the end, int64 [U + 1].
    """

    rows: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(units: Int[np.ndarray, " N"]) -> Users:
        """units: the number of each example's user, from 0, every number there."""
        counts = np.bincount(units)
        return Users(np.argsort(units, kind="stable"), np.r_[0, np.cumsum(counts)])

    def draw(
        self, key: bytes, step: int, users: Int[np.ndarray, " b"], most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Up to `most` random examples of each of some users: places [b, most], and the share of
        each in the mean, float32 [b, most], 0 where a user has fewer. A function of (key, step).
        """
        rng = generator(key, Purpose.ROWS, step)
        places = np.empty((len(users), most), dtype=np.int64)
        shares = np.zeros((len(users), most), dtype=np.float32)
        for row, share, user in zip(places, shares, users, strict=True):
            theirs = self.rows[self.starts[user] : self.starts[user + 1]]
            if len(theirs) > most:
                theirs = theirs[rng.choice(len(theirs), most, replace=False, shuffle=False)]
            row[:] = theirs[0]
            row[: len(theirs)] = theirs
            share[: len(theirs)] = 1 / len(theirs)
        return places, shares


def pad(batches: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Batches of one step side by side: indices [K, B] and weights [K, B], B the largest batch (at
    least 1).

    Padding repeats index 0 with weight zero.
    """
    width = max(1, max(len(batch) for batch in batches))
    indices = np.zeros((len(batches), width), dtype=np.int64)
    weights = np.zeros((len(batches), width), dtype=bool)
    for row, batch in enumerate(batches):
        indices[row, : len(batch)] = batch
        weights[row, : len(batch)] = True
    return indices, weights
