"""`dptrain train`: one model of one setting on all rows, to be given away, with a ledger of its
own, a statement and, where they are asked for, canaries on which it is audited.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dptrain.config.commands import TrainConfig
from dptrain.config.keys import named
from dptrain.core.guard import only_writer
from dptrain.core.store import Store, unseal
from dptrain.fleet import models as trained_models
from dptrain.fleet.settings import settings as planned_settings
from dptrain.fleet.spending import verify
from dptrain.pipeline.plan import plan
from dptrain.pipeline.run import circumstances, claims
from dptrain.pipeline.training import train as train_missing
from dptrain.privacy import ledger
from dptrain.privacy.statement import Released
from dptrain.release.export import chosen, require_free, require_same_data
from dptrain.release.final import (
    METRICS,
    MODEL,
    Final,
    fleet_of,
    give_away,
    learnt_from,
    require_outsiders,
    unit_of,
    whole_config,
)


def train(config: TrainConfig, show_progress: bool = True) -> Final:
    """Train a setting on all rows, or go on with it. Raises ConfigError; Interrupted is raised at
    Ctrl-C or SIGTERM, with all work saved.
    """
    with named():
        return _train(config, show_progress)


def _train(config: TrainConfig, show_progress: bool) -> Final:
    of_sweep = plan(replace(config, dataset=replace(config.dataset, canaries=0)))
    name = chosen(of_sweep, config.setting).name
    record = _record(config)
    if config.run is not None:
        require_same_data(of_sweep, record, config.run)
    whole = replace(whole_config(of_sweep, config), setting=name)
    [setting] = [each for each in planned_settings(whole) if each.name == name]
    ready = replace(of_sweep, config=whole, settings=(setting,))
    require_outsiders(setting, config, of_sweep.source)
    dataset = learnt_from(of_sweep, config)
    folder = ready.config.folder
    require_free(folder / MODEL)
    with only_writer(folder):
        store = Store(folder / "store")
        store.sweep_temporaries()
        around = replace(
            circumstances(ready),
            counted=ready.counted
            or any(each.get("counted", False) for each in record.get("privacy", {}).values()),
            released=Released.FINAL_MODEL,
            unit=unit_of(ready, config),
            rows=config.rows,
            canaries=dataset.canaries,
            chosen_among=len(of_sweep.settings) if config.run and of_sweep.settings[1:] else 0,
        )
        statements = claims(ready, store, around)
        fleet = fleet_of(ready, store, dataset)
        count = train_missing(ready, fleet, statements, show_progress)
        trained_models.forget_keys(fleet)
        spent = ledger.read(fleet.ledger_folder)
        verify(fleet, setting, spent)
        statement, rows = give_away(ready, fleet, setting, statements[name], spent)
    return Final(folder, folder / MODEL, name, statement, tuple(rows), count)


def _record(config: TrainConfig) -> dict[str, Any]:
    """What the sweep that a setting is taken from has written; empty without one."""
    return {} if config.run is None else unseal((Path(config.run) / METRICS).read_bytes())
