"""What lies in the store of a folder of results: listed, verified, pruned."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dptrain.config.commands import Action, StoreConfig
from dptrain.core.errors import LedgerError, RunError
from dptrain.core.guard import only_writer
from dptrain.core.store import Store, to_json, write_atomic
from dptrain.privacy import ledger
from dptrain.report.tables import table

USED = "used.json"
"""In the store: stage and key of every artefact that the last finished sweep read or wrote."""


@dataclass(frozen=True)
class Stage:
    """unused: artefacts that the last finished sweep did not need, None where none has finished;
    damaged: keys of those that are not what was written, None where nobody has looked; size and
    unused_size in bytes.
    """

    name: str
    artefacts: int
    size: int
    unused: int | None
    unused_size: int | None
    damaged: tuple[str, ...] | None


@dataclass(frozen=True)
class Inventory:
    """keys: secret keys that were ever charged in the ledger, and steps: noisy steps of them all;
    None where the ledger is damaged, as `ledger` says. checkpoints: of unfinished stacks.
    pruned: artefacts that were deleted just now, and pruned_size their bytes.
    """

    folder: str
    stages: tuple[Stage, ...]
    checkpoints: int
    keys: int | None
    steps: int | None
    ledger: str | None
    pruned: int = 0
    pruned_size: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing that was looked at is damaged."""
        return self.ledger is None and not any(stage.damaged for stage in self.stages)

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def write_used(store: Store) -> None:
    """Write down which artefacts a sweep needed, when it has finished."""
    write_atomic(store.root / USED, to_json(sorted(map(list, store.used))))


def inventory(config: StoreConfig) -> Inventory:
    """Of a run's store, after what is asked for was done. Raises RunError where there is none, and
    where artefacts are to be pruned of which nobody knows whether they are needed.
    """
    assert config.run is not None
    store = Store(Path(config.run) / "store")
    if not store.root.is_dir():
        raise RunError(f"{config.run} holds no store; give the folder of a sweep", "run")
    if config.action != Action.PRUNE:
        return _look(config.run, store, config.action == Action.VERIFY)
    with only_writer(Path(config.run)):
        used = _used(store)
        if used is None:
            raise RunError(
                "no sweep has finished here, so what it needs is not known; finish it first", "run"
            )
        unused = [pair for pair in _artefacts(store) if pair not in used]
        size = sum(store.size(*pair) for pair in unused)
        for pair in unused:
            store.delete(*pair)
        store.sweep_temporaries()
        left = _look(config.run, store, verify=False)
    return Inventory(**{**vars(left), "pruned": len(unused), "pruned_size": size})


def _artefacts(store: Store) -> list[tuple[str, str]]:
    return [(stage, key) for stage in store.stages() for key in store.keys(stage)]


def _used(store: Store) -> set[tuple[str, str]] | None:
    try:
        return {(stage, key) for stage, key in json.loads((store.root / USED).read_bytes())}
    except (OSError, ValueError):
        return None


def _look(run: str, store: Store, verify: bool) -> Inventory:
    used = _used(store)
    stages = []
    for stage in store.stages():
        keys = store.keys(stage)
        if not keys:
            continue
        sizes = {key: store.size(stage, key) for key in keys}
        unused = None if used is None else [key for key in keys if (stage, key) not in used]
        damaged = [key for key in keys if verify and store.read(stage, key) is None]
        stages.append(
            Stage(
                stage,
                len(keys),
                sum(sizes.values()),
                None if unused is None else len(unused),
                None if unused is None else sum(sizes[key] for key in unused),
                tuple(damaged) if verify else None,
            )
        )
    accounts, wrong = {}, None
    try:
        accounts = ledger.read(store.root / "ledger").accounts
    except LedgerError as error:
        wrong = error.message
    steps = sum(len(account.steps) for account in accounts.values())
    return Inventory(
        run,
        tuple(stages),
        len(store.file_keys("checkpoint")),
        None if wrong else len(accounts),
        None if wrong else steps,
        wrong,
    )


def text(there: Inventory) -> str:
    """What lies in the store of a run."""
    body = [
        [
            stage.name,
            f"{stage.artefacts:,}",
            f"{stage.size / 2**20:,.1f}",
            "-" if stage.unused is None else f"{stage.unused:,}",
            "-" if stage.unused_size is None else f"{stage.unused_size / 2**20:,.1f}",
            "-" if stage.damaged is None else f"{len(stage.damaged):,}",
        ]
        for stage in there.stages
    ]
    lines = [table(["stage", "artefacts", "MiB", "unused", "MiB unused", "damaged"], body), ""]
    lines += [
        f"damaged: {stage.name}/{key}" for stage in there.stages for key in stage.damaged or ()
    ]
    lines.append(f"Checkpoints of unfinished stacks: {there.checkpoints:,}.")
    lines.append(
        there.ledger or f"Ledger: {there.keys:,} secret keys, {there.steps:,} noisy steps charged."
    )
    if there.pruned:
        lines.append(f"Deleted: {there.pruned:,} artefacts, {there.pruned_size / 2**20:,.1f} MiB.")
    return "\n".join(lines)
