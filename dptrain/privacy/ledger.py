"""What was spent: an append-only file of JSON lines for each stack of models, a line a noisy step,
written before the noise is drawn.

Epsilon is a function of these lines. A restart repeats steps with the very same key, so the very
same noise, which releases nothing new: such a step stands once. A new key after a lost checkpoint
is new noise: its steps stand beside the old ones, which nothing takes away. Each line holds a hash
of itself and all before it, so that one altered or lost in the middle shows. Lines cut off at the
end, or a whole file gone, show only where a finished model needs them: a ledger is a record against
accidents, not against who keeps it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dptrain.core.errors import LedgerError
from dptrain.core.types import Mechanism, Neighbouring, Sampling, Unit


@dataclass
class Account:
    """Of one secret key: the setting and model it trained, in which split of which data, the key of
    that model in the store, and what each of its steps used (steps = 1).
    """

    setting: str
    split: str
    model: int
    steps: dict[int, Mechanism] = field(default_factory=dict)
    artefact: str = ""

    @property
    def of(self) -> tuple[str, str, int]:
        return self.setting, self.split, self.model

    def matches(self, plan: Mechanism) -> bool:
        """Whether exactly the planned steps stand here, each under the plan; the noise to 12
        digits, since the ledger holds its product with the clip.
        """
        return self.steps.keys() == set(range(plan.steps)) and all(
            _same(used, plan) for used in set(self.steps.values())
        )


def _same(used: Mechanism, plan: Mechanism) -> bool:
    close = math.isclose(used.noise_multiplier, plan.noise_multiplier, rel_tol=1e-12)
    return close and replace(used, noise_multiplier=plan.noise_multiplier, steps=plan.steps) == plan


def key_name(key: bytes) -> str:
    """A name of a secret key from which it cannot be found."""
    return hashlib.blake2b(key, digest_size=16, person=b"dptrain ledger").hexdigest()


class Ledger:
    """The file of one stack, to write to; made at the first charge, so a stack without noise leaves
    none.

    Raises LedgerError if it was altered, OSError where it cannot be written: then no noise is
    drawn.
    """

    def __init__(
        self,
        path: Path,
        setting: str,
        split: str,
        models: Sequence[int],
        keys: Sequence[bytes],
        artefacts: Sequence[str] = (),
    ):
        self._path, self._file, self._check = path, -1, ""
        names = [key_name(key) for key in keys]
        self._opening = {
            "setting": setting,
            "split": split,
            "models": list(models),
            "artefacts": list(artefacts),
            "keys": names,
        }
        self._charged: dict[int, dict[str, Any]] = {}

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows, self._check, whole = _rows(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.truncate(self._path, whole)  # half a line would be of a step whose noise was never drawn
        last = next(
            (number for number in reversed(range(len(rows))) if "keys" in rows[number]), None
        )
        if last is not None and rows[last] == self._opening:
            self._charged = {row["step"]: row for row in rows[last + 1 :]}
        else:
            self._append(self._opening)

    def charge(self, step: int, used: Mechanism, noise_std: float) -> None:
        """Write down a step of every model of the stack: `used` but for the noise, whose standard
        deviation is the one given to the sampler.
        """
        if self._file < 0:
            self._open()
        row = {"step": step, **used.to_json(), "noise_std": noise_std}
        del row["noise_multiplier"], row["steps"]
        if step not in self._charged:
            self._append(row)
            self._charged[step] = row
        elif self._charged[step] != row:
            raise RuntimeError(
                f"step {step} would repeat its noise under another mechanism than "
                f"{self._path.name} holds"
            )

    def sync(self) -> None:
        """Make it last: call before anything that depends on the noise is written."""
        if self._file >= 0:
            os.fsync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, row: dict[str, Any]) -> None:
        line, self._check = _sealed(row, self._check)
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._path} could not be written whole")


def _sealed(row: dict[str, Any], before: str) -> tuple[bytes, str]:
    check = hashlib.sha256((before + json.dumps(row, sort_keys=True)).encode()).hexdigest()[:16]
    return (
        json.dumps({**row, "check": check}, sort_keys=True, allow_nan=False) + "\n"
    ).encode(), check


def _rows(path: Path) -> tuple[list[dict[str, Any]], str, int]:
    """Verified rows, the last check, and the bytes they take; half a line at the end is not among
    them. Raises LedgerError.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read ({error.strerror}), so what was spent is not known; mend it"
        ) from None
    whole = content.rfind(b"\n") + 1
    rows, check = [], ""
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            row = json.loads(line)
            stated = row.pop("check")
            check = _sealed(row, check)[1]
            _ = _opening(row) if "keys" in row else _used(row)
        except (ValueError, KeyError, AttributeError, TypeError, ArithmeticError):
            stated, check = None, ""
        if stated != check:
            raise LedgerError(
                f"line {number} of {path} was altered, so what was spent is not known; "
                "choose another folder"
            )
        rows.append(row)
    return rows, check, whole


@dataclass(frozen=True)
class Snapshot:
    """A ledger at one moment. accounts: every key that was ever charged, by name; digest: of the
    lines that say so.
    """

    accounts: dict[str, Account]
    digest: str


def read(folder: Path) -> Snapshot:
    """The ledger as it stands, every file of it read once.

    Raises LedgerError for a file that was altered, and where one key made the noise of two models,
    or of one step under two mechanisms: noise that was used twice protects neither.
    """
    accounts: dict[str, Account] = {}
    checks = []
    for path in sorted(folder.glob("*.jsonl")):
        keys: list[str] = []
        rows, check, _ = _rows(path)
        checks.append(f"{path.name} {check}")
        for row in rows:
            if "keys" in row:
                opened = _opening(row)
                keys = list(opened)
                same = all(
                    accounts.setdefault(key, account).of == account.of
                    for key, account in opened.items()
                )
            else:
                used = _used(row)
                same = all(
                    [accounts[key].steps.setdefault(row["step"], used) == used for key in keys]
                )
            if not same:
                raise LedgerError(
                    f"{path} uses the noise of another model again, so no epsilon holds; "
                    "choose another folder"
                )
    return Snapshot(accounts, hashlib.sha256("\n".join(checks).encode()).hexdigest()[:32])


def _opening(row: dict[str, Any]) -> dict[str, Account]:
    artefacts = row["artefacts"] or [""] * len(row["keys"])
    each = zip(row["keys"], row["models"], artefacts, strict=True)
    return {
        key: Account(row["setting"], row["split"], model, artefact=artefact)
        for key, model, artefact in each
    }


def _used(row: dict[str, Any]) -> Mechanism:
    plain = {name: row[name] for name in ("batch_size", "public_n", "clip", "divisor")}
    noise = row["noise_std"] / row["clip"]
    return Mechanism(
        Sampling(row["sampling"]),
        steps=1,
        noise_multiplier=noise,
        neighbouring=Neighbouring(row["neighbouring"]),
        unit=Unit(row.get("unit", Unit.EXAMPLE)),
        **plain,
    )


def total(accounts: Sequence[Account]) -> list[Mechanism]:
    """What all models together spend on any one example, complete or not: in a split it is in one
    of the models 2k and 2k + 1, whichever spent more; in another split of the same data it may be
    in the other.
    """
    spent: dict[tuple[str, int], Counter[Mechanism]] = {}
    for account in accounts:
        spent.setdefault((account.split, account.model), Counter()).update(account.steps.values())
    both: Counter[Mechanism] = Counter()
    for split, pair in sorted({(split, model // 2) for split, model in spent}):
        both.update(
            spent.get((split, 2 * pair), Counter()) | spent.get((split, 2 * pair + 1), Counter())
        )
    return [replace(used, steps=steps) for used, steps in both.items()]
