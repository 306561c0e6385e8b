"""What lies in the store of a folder of results: listed, verified, pruned."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dptrain.config.commands import Action, StoreConfig
from dptrain.core.errors import LedgerError, RunError
from dptrain.core.guard import only_writer
from dptrain.core.store import Store, digests, unseal
from dptrain.pipeline.outputs import USED
from dptrain.privacy import ledger
from dptrain.report.record import METRICS
from dptrain.report.tables import table


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
    def undamaged(self) -> bool:
        """Whether nothing that was looked at is damaged."""
        return self.ledger is None and not any(stage.damaged for stage in self.stages)

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def inventory(config: StoreConfig) -> Inventory:
    """Of a run's store, after what is asked for was done. Raises RunError where there is none, and
    where artefacts are to be pruned of which nobody knows whether they are needed.
    """
    assert config.run is not None
    store = Store(Path(config.run) / "store")
    if not store.root.is_dir():
        raise RunError(f"{config.run} holds no store; give the folder of a sweep")
    if config.action != Action.PRUNE:
        return _look(config.run, store, config.action == Action.VERIFY)
    with only_writer(Path(config.run)):
        unused = _unused(store)
        if unused is None:
            raise RunError(
                "no sweep has finished here, or its metrics.json was altered, so what it needs is "
                "not known; run it again"
            )
        size = sum(store.size(*pair) for pair in unused)
        for pair in unused:
            store.delete(*pair)
        store.sweep_temporaries()
        left = _look(config.run, store, verify=False)
    return replace(left, pruned=len(unused), pruned_size=size)


def _unused(store: Store) -> list[tuple[str, str]] | None:
    """Stage and key of artefacts that the sweep did not need whose result stands in the folder;
    None where that is not known. What is younger than the result is of a sweep that has not
    finished, and the checkpoints of such a sweep need its placement.
    """
    folder = store.root.parent
    try:
        record = unseal((folder / METRICS).read_bytes())
        if record["outputs"].get(USED) != digests(folder, [USED])[USED]:
            return None
        used = {(stage, key) for stage, key in json.loads((folder / USED).read_bytes())}
        finished = (folder / METRICS).stat().st_mtime
    except (OSError, ValueError, KeyError):
        return None
    return [
        (stage, key)
        for stage in store.stages()
        for key in store.keys(stage)
        if stage != "placement"
        and (stage, key) not in used
        and store.changed(stage, key) <= finished
    ]


def _artefacts(store: Store) -> list[tuple[str, str]]:
    """All but placements."""
    stages = [stage for stage in store.stages() if stage != "placement"]
    return [(stage, key) for stage in stages for key in store.keys(stage)]


def _look(run: str, store: Store, verify: bool) -> Inventory:
    unused, stages = _unused(store), []
    for stage in store.stages():
        keys = store.keys(stage)
        if not keys:
            continue
        sizes = {key: store.size(stage, key) for key in keys}
        idle = None if unused is None else [key for of, key in unused if of == stage]
        damaged = [key for key in keys if verify and store.read(stage, key) is None]
        stages.append(
            Stage(
                stage,
                len(keys),
                sum(sizes.values()),
                None if idle is None else len(idle),
                None if idle is None else sum(sizes[key] for key in idle),
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


def text(contents: Inventory) -> str:
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
        for stage in contents.stages
    ]
    lines = [table(["stage", "artefacts", "MiB", "unused", "MiB unused", "damaged"], body), ""]
    lines += [
        f"damaged: {stage.name}/{key}" for stage in contents.stages for key in stage.damaged or ()
    ]
    lines.append(f"Checkpoints of unfinished stacks: {contents.checkpoints:,}.")
    lines.append(
        contents.ledger
        or f"Ledger: {contents.keys:,} secret keys, {contents.steps:,} noisy steps charged."
    )
    if contents.pruned:
        lines.append(
            f"Deleted: {contents.pruned:,} artefacts, {contents.pruned_size / 2**20:,.1f} MiB."
        )
    return "\n".join(lines)
