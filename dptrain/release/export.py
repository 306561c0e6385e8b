"""The folder that a model is given away in: parameters, architecture, preprocessing and class names
as plain data, a model card with the privacy statement, and predict.py, which needs torch and
safetensors only.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from dptrain import models
from dptrain.config import compose
from dptrain.config.commands import ExportConfig
from dptrain.core.errors import FolderError, ReleaseError
from dptrain.core.store import Store, to_json, unseal, write_atomic
from dptrain.core.types import Setting, Task
from dptrain.data.splits import Source
from dptrain.evaluation import utility
from dptrain.evaluation.rows import Row
from dptrain.fleet import models as trained_models
from dptrain.fleet.blueprint import build
from dptrain.fleet.fleet import Fleet
from dptrain.models import layers, validation
from dptrain.pipeline.evaluation import answers, counts_of, subject_of
from dptrain.pipeline.plan import Plan, plan
from dptrain.pipeline.run import load
from dptrain.privacy.statement import PrivacyStatement
from dptrain.release import predict
from dptrain.release.predict import LAYERS, OURS
from dptrain.report import tables
from dptrain.report.record import METRICS
from dptrain.report.statement import claim, header

PARAMETERS, RECORD, CARD = "parameters.safetensors", "model.json", "README.md"


@dataclass(frozen=True)
class Exported:
    """A model to give away. module: with its trained parameters; name and options: of its builder;
    shape: of one input; threshold: log-odds from which on it decides for the second of two classes,
    None for the highest probability; rows: its utility on rows that it did not learn from.
    """

    title: str
    module: nn.Module
    name: str
    options: Mapping[str, Any]
    source: Source
    threshold: float | None
    statement: PrivacyStatement
    rows: Sequence[Row]

    @property
    def claimed(self) -> PrivacyStatement:
        """The statement without what was measured, since no epsilon covers that, but with a
        measurement that refuted it.
        """
        after = self.statement.evaluated
        if after is None or after.refuted is None:
            return replace(self.statement, evaluated=None)
        known = replace(after, measured=None, utilities={}, test_examples=0, models=0)
        return replace(self.statement, evaluated=known)

    @property
    def regression(self) -> bool:
        return bool(self.source.how.get("bounds"))

    @property
    def classes(self) -> list[str]:
        """Their names; none in a regression."""
        if self.regression:
            return []
        return list(self.source.names) or [str(number) for number in range(self.source.classes)]


def layers_of(module: nn.Module) -> list[dict[str, Any]] | None:
    """The layers of a module in order, each with its options, from which predict.py builds it
    again; None for what is no plain chain of layers that it knows.
    """
    chain: list[dict[str, Any]] = []
    if type(module) is not nn.Sequential:
        return None
    for layer in module:
        kind = type(layer)
        known = LAYERS if getattr(nn, kind.__name__, None) is kind else OURS
        if kind.__name__ not in known or (known is OURS and kind is not _ours(kind.__name__)):
            return None
        options = {name: getattr(layer, name) for name in known[kind.__name__]}
        if "bias" in options:
            options["bias"] = options["bias"] is not None
        chain.append({"layer": kind.__name__, "options": options})
    plain: list[dict[str, Any]] = json.loads(json.dumps(chain))
    rebuilt = predict.built_of(plain, lambda: layers)
    shapes = [
        {name: value.shape for name, value in each.state_dict().items()}
        for each in (module, rebuilt)
    ]
    return plain if repr(rebuilt) == repr(module) and shapes[0] == shapes[1] else None


def _ours(name: str) -> type | None:
    return getattr(layers, name, None)


def require_free(folder: Path) -> None:
    """Raise FolderError for a folder that holds files and no exported model, and for a file."""
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file; choose another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise FolderError(f"{folder} holds other files; choose another folder")


def write(folder: Path, exported: Exported) -> None:
    """Write the folder of a model, made if need be. Raises FolderError as require_free does."""
    require_free(folder)
    (folder / "layers.py").unlink(missing_ok=True)  # of another model
    chain = layers_of(exported.module)
    state = {
        name: value.detach().cpu().clone().contiguous()
        for name, value in exported.module.state_dict().items()
    }
    how = dict(exported.source.how)
    record = {
        "title": exported.title,
        "claim": claim(exported.statement),
        "task": str(Task.REGRESSION if exported.regression else Task.CLASSIFICATION),
        "model": {"name": exported.name, "options": dict(exported.options)},
        "layers": chain,
        "shape": list(exported.source.shape),
        "classes": exported.classes,
        "threshold": exported.threshold,
        "inputs": how,
        "tokens": validation.takes_tokens(exported.module, exported.source.shape),
        "preprocessing": exported.source.preprocessing,
        "privacy": exported.claimed.to_json(),
        "utility": [row.to_json() for row in exported.rows],
    }
    parameters = save(state, {"statement": header(exported.statement)})
    write_atomic(folder / PARAMETERS, parameters)
    write_atomic(folder / "predict.py", Path(predict.__file__).read_bytes())
    if any(layer["layer"] in OURS for layer in chain or ()):
        text = Path(layers.__file__).read_text().replace("from jaxtyping import Float\n", "")
        write_atomic(folder / "layers.py", text.encode())
    write_atomic(folder / CARD, _card(exported, chain is not None).encode())
    # Last, since a folder without it is none that can be loaded.
    write_atomic(folder / RECORD, to_json(record))


def _card(exported: Exported, alone: bool) -> str:
    """The model card, in Markdown. alone: whether predict.py can build the model."""
    table = "numbers" in exported.source.how
    inputs = "rows of a table" if table else f"inputs of shape {list(exported.source.shape)}"
    names = ", ".join(exported.classes[:20]) + (", ..." if len(exported.classes) > 20 else "")
    what, classes = "A classifier", f"for the classes {names}"
    if exported.regression:
        low, high = exported.source.how["bounds"]
        what, classes = "A regression", f"for numbers between {low:g} and {high:g}"
    use = (
        "    python predict.py new.csv > predictions.csv      needs torch and safetensors only\n"
        if table and alone
        else '    import predict; model = predict.Model("."); model.probabilities(inputs)\n'
        if alone
        else f"    its module is {exported.name}, of another package; dptrain predict builds it\n"
        if exported.name in models.names()
        else '    from dptrain\'s predict.py: predict.Model(".", module), with its module\n'
    )
    if exported.regression:
        use = use.replace("model.probabilities(inputs)", "model.values(model.outputs(inputs))")
    said = [line.split(": ", 1) for line in header(exported.statement).splitlines()]
    measured = tables.table(*tables.measures(exported.rows)) if exported.rows else "not measured"
    return "\n".join(
        [
            f"# {exported.title}",
            "",
            f"{what} of {inputs}: {exported.name}, {classes}.",
            f"Privacy: {claim(exported.statement)}.",
            "",
            "## Use",
            "",
            use,
            "## Utility",
            "",
            "Of this model alone, on test rows, which it did not learn from and no epsilon covers.",
            "",
            measured,
            "",
            "## Privacy statement",
            "",
            *(f"- **{heading}**: {text}" for heading, text in said),
            "",
        ]
    )


def export(config: ExportConfig) -> Path:
    """Write the folder of a model that a sweep trained; returns it. Raises ConfigError and
    ReleaseError for a run, a setting or a model that is not there.
    """
    assert config.run is not None
    assert config.setting is not None
    of_sweep = compose.of_run(config.run)
    if config.path is not None:
        of_sweep = replace(of_sweep, dataset=replace(of_sweep.dataset, path=config.path))
    record = unseal((Path(config.run) / METRICS).read_bytes())
    ready = plan(of_sweep)
    require_same_data(ready, record, config.run)
    setting = chosen(ready, config.setting)
    if config.model >= of_sweep.models_per_setting:
        count = of_sweep.models_per_setting
        raise ReleaseError(f"{config.setting} has {count} models, numbered from 0", "model")
    fleet = load(ready, Store(Path(config.run) / "store"))
    module = module_of(fleet, setting, config.model)
    thresholds = record.get("thresholds", {}).get(config.setting)
    threshold = thresholds[config.model] if thresholds else None
    exported = Exported(
        title=f"{of_sweep.name}: {setting.name}, model {config.model}",
        module=module,
        name=str(of_sweep.model["name"]),
        options=options_of(of_sweep.model, setting),
        source=ready.source,
        threshold=threshold,
        statement=PrivacyStatement.of(record["privacy"][setting.name]),
        rows=utility_of(fleet, setting, config.model, threshold),
    )
    default = Path(config.run) / "export" / f"{setting.name}-{config.model}"
    folder = Path(config.output) if config.output else default
    write(folder, exported)
    return folder


def require_same_data(ready: Plan, record: Mapping[str, Any], run: str) -> None:
    """Raise ReleaseError where the data are not those of a finished sweep."""
    if record.get("data", ready.source.digest) != ready.source.digest:
        raise ReleaseError(
            f"the data are not those of {run}: its file was changed; restore it, or run the sweep "
            "again",
            "run",
        )


def chosen(ready: Plan, name: str | None) -> Setting:
    """A setting of a plan by its name; its only one where none is named. Raises ReleaseError for
    none, and for one whose defence is not in its parameters.
    """
    names = ", ".join(setting.name for setting in ready.settings)
    if name is None and len(ready.settings) > 1:
        raise ReleaseError(f"give one of {names}", "setting")
    for setting in ready.settings:
        if name in (None, setting.name):
            if setting.recipe.release.top:
                what = "hides confidences of a service, and a folder gives the model itself away"
                raise ReleaseError(f"{setting.name} {what}; choose another", "setting")
            return setting
    raise ReleaseError(f"there is no {name!r}; choose from {names}", "setting")


def utility_of(fleet: Fleet, setting: Setting, index: int, threshold: float | None) -> list[Row]:
    """Rows of every utility of one model by itself: those of a fleet are means over models that are
    not given away. None where the model says no number of some test row.
    """
    dataset, test = fleet.dataset, fleet.dataset.test.labels
    outputs = trained_models.part_logits(fleet, setting, index, "test")
    if not np.isfinite(outputs).all():
        return []
    said = answers(fleet.config, outputs, test, threshold)
    measured = utility.resamples([said], dataset.test_users)
    return utility.utility_rows(subject_of(setting), measured, counts_of(dataset, test))


def module_of(fleet: Fleet, setting: Setting, index: int) -> nn.Module:
    """The whole module of a trained model, features that nothing was learnt for included."""
    whole = build(
        fleet.config,
        fleet.dataset.pool.inputs.shape[1:],
        fleet.dataset.classes,
        0,
        dict(setting.model),
    )
    part = models.trained(whole)
    values: Mapping[str, Tensor] = trained_models.parameters(fleet, setting, index, part)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            parameter.copy_(values[name][0])
    return copy.deepcopy(whole)


def options_of(model: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """Options of the model's builder: the configuration's, with those of the setting."""
    return {key: value for key, value in {**model, **dict(setting.model)}.items() if key != "name"}
