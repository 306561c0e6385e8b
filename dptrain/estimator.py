"""A classifier and a regressor for scikit-learn, trained with DP-SGD by the one loop."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from dptrain import models
from dptrain.config.build import build, plain_value
from dptrain.config.defences import LEAST_CLIP, MOST_CLIP
from dptrain.config.fields import FINITE, check_fields, option
from dptrain.core import streams
from dptrain.core.store import versions
from dptrain.core.types import (
    Loss,
    Mechanism,
    Neighbouring,
    NoiseSource,
    Optimiser,
    Recipe,
    Sampling,
    Setting,
)
from dptrain.data.splits import Examples, Source
from dptrain.fleet.placement import choose_device, choose_engine
from dptrain.models import validation
from dptrain.models.validation import refuse_mixing
from dptrain.privacy import pld
from dptrain.privacy.statement import Circumstances, PrivacyStatement, Released, planned
from dptrain.release.export import Exported, write
from dptrain.training import inference
from dptrain.training.checks import refuse_sampler
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train

PREPROCESSING = (
    "none by this estimator: inputs as given, {public} and number of rows public; whatever "
    "was fitted on these rows before, such as a scaler in a pipeline, is not covered"
)


@dataclass(frozen=True)
class _Options:
    """The parameters of an estimator, checked as a configuration is."""

    epsilon: float = option("", above=0, hint="inf is no privacy")
    delta: float | None = option("", above=0, below=1)
    hidden: tuple[int, ...] = option("", least=1)
    epochs: float = option("", above=0, below=FINITE)
    batch_size: int = option("", least=1)
    clip: float = option("", least=LEAST_CLIP, most=MOST_CLIP)
    learning_rate: float = option("", above=0, below=FINITE)
    momentum: float = option("", least=0, below=1)
    device: str = option("", choices=("auto", "cpu", "cuda", "mps"))
    noise_seed: int | None = option("")


class _DPEstimator(BaseEstimator):  # type: ignore[misc]
    """What both estimators have in common: parameters, the fit, the folder of the fitted model."""

    def __init__(  # noqa: PLR0913  # scikit-learn wants every parameter by name
        self,
        epsilon: float = 8.0,
        delta: float | None = None,
        hidden: Sequence[int] = (),
        epochs: float = 40,
        batch_size: int = 256,
        clip: float = 1.0,
        learning_rate: float = 2.0,
        momentum: float = 0.0,
        device: str = "auto",
        random_state: int | None = None,
        noise_seed: int | None = None,
        model: str | torch.nn.Module | None = None,
    ):
        self.epsilon = epsilon
        self.delta = delta
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip = clip
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.device = device
        self.random_state = random_state
        self.noise_seed = noise_seed
        self.model = model

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.noise_seed is None
        return tags

    def _fit(
        self,
        X: Shaped[np.ndarray, "rows features"],
        targets: Shaped[np.ndarray, " rows"],
        outputs: int,
        recipe: Recipe,
    ) -> None:
        """Train on checked inputs; targets: classes from 0, or numbers from -1 to 1."""
        options = self._options()
        setting = self._setting(len(X), options, recipe)
        device = choose_device(options.device)
        inputs = torch.from_numpy(_finite32(X)).to(device)
        self._model = self._build(X.shape[1:], outputs)
        key = self._key(X, targets, setting)
        engine, _ = choose_engine(None, self._model, X.shape[1:])
        refuse_mixing(self._model, X.shape[1:], inputs[: validation.PROBED].cpu())
        refuse_sampler(setting.mechanism.batch_size, setting.mechanism.public_n)
        state = State.start([self._model]).to(device)
        everyone = np.ones((1, len(X)), dtype=bool)
        data = TrainingData(inputs, torch.from_numpy(targets).to(device), everyone)
        trainer = Trainer.of(self._model.to(device), setting, engine, [key], data)
        state, ran = train(trainer, state, lambda *_: None)
        if not state.finite():
            raise ValueError("training diverged; lower learning_rate, or scale the inputs")
        self._parameters = {name: value.cpu() for name, value in state.released.items()}
        self._model.to("cpu")
        self.mechanism_ = ran
        self.epsilon_ = pld.epsilon(ran, setting.delta) if ran.private else math.inf
        self.privacy_statement_ = self._statement(setting)
        self.n_iter_ = ran.steps

    def _outputs(self, X: Any) -> np.ndarray:
        """What the fitted model gives for rows, float64 [rows, outputs]."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        # In float64, so that a row's answer does not depend on how many others are asked about.
        wide = {name: value.double() for name, value in self._parameters.items()}
        inputs = torch.from_numpy(_finite32(X).astype(np.float64))
        outputs = inference.logits(copy.deepcopy(self._model).double(), wide, inputs)[0]
        result: np.ndarray = outputs.astype(np.float64)
        return result

    def export(self, folder: str | Path, title: str = "model") -> Path:
        """Write the fitted model as `dptrain export` does: parameters, architecture and statement
        as plain data, and predict.py. Returns the folder; raises ValueError for one that holds
        other files.
        """
        check_is_fitted(self)
        module = copy.deepcopy(self._model)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self._parameters[name][0])
        names, how = self._described()
        nothing = Examples(np.zeros((0, self.n_features_in_), np.float32), np.zeros(0, np.int64))
        shape = (self.n_features_in_,)
        source = Source(
            self.privacy_statement_.preprocessing,
            shape,
            len(names) or 1,
            0,
            lambda: nothing,
            how=how,
            names=names,
        )
        exported = Exported(
            title=title,
            module=module,
            name=type(self).__name__,
            options={},
            source=source,
            threshold=None,
            statement=self.privacy_statement_,
            rows=(),
        )
        write(Path(folder), exported)
        return Path(folder)

    def _described(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Names of the classes, and what an exported folder says of inputs and targets."""
        raise NotImplementedError

    def _build(self, shape: Sequence[int], outputs: int) -> torch.nn.Module:
        """The module before the fit. Raises ModelError."""
        if isinstance(self.model, torch.nn.Module):
            return copy.deepcopy(self.model)
        seed, hidden = self._initial_seed(), self._options().hidden
        if self.model is not None:
            return models.build(self.model, {}, shape, outputs, seed)
        name, options = ("mlp", {"hidden": tuple(hidden)}) if len(hidden) else ("logistic", {})
        return models.build(name, options, shape, outputs, seed)

    def _options(self) -> _Options:
        given = {name: plain_value(value) for name, value in self.get_params(deep=False).items()}
        for name in ("random_state", "model", "bounds", "loss"):  # which are checked elsewhere
            given.pop(name, None)
        options: _Options = build(_Options, given)
        check_fields(options)
        return options

    def _setting(self, rows: int, options: _Options, recipe: Recipe) -> Setting:
        delta = min(1e-5, 0.1 / rows) if options.delta is None else options.delta
        if not 0 < delta < 1 / rows:
            raise ValueError(
                f"delta must lie above 0 and below 1/rows = {1 / rows:.3g}, got {delta!r}"
            )
        batch = min(options.batch_size, max(1, rows // 2))
        steps = max(1, math.ceil(options.epochs * rows / batch))
        private = math.isfinite(options.epsilon)
        plan = Mechanism(
            Sampling.POISSON,
            batch,
            rows,
            steps,
            0.0,
            options.clip if private else math.inf,
            batch,
            Neighbouring.ZERO_OUT,
        )
        if private:
            plan = pld.calibrate(plan, options.epsilon, delta)
        rate = options.learning_rate / max(1.0, plan.noise_multiplier)
        return Setting(
            "model",
            "dpsgd",
            options.epsilon if private else None,
            delta,
            plan,
            replace(recipe, optimiser=Optimiser(rate, options.momentum)),
        )

    def _key(
        self,
        X: Shaped[np.ndarray, "rows features"],
        targets: Shaped[np.ndarray, " rows"],
        setting: Setting,
    ) -> bytes:
        """Of batches and noise. A seeded one depends on all that a fit depends on, initial weights
        included: equal noise over other gradients would be subtracted by whoever has both models.
        """
        if self.noise_seed is None:
            return streams.os_key()
        rows = hashlib.sha256(
            repr((X.shape, X.dtype)).encode()
            + np.ascontiguousarray(X).tobytes()
            + targets.tobytes()
        )
        for name, value in self._model.state_dict().items():
            rows.update(name.encode() + value.numpy().tobytes())
        names, how = self._described()
        plan = json.dumps(
            [setting.shaping(), list(self.hidden), repr(self._model), list(names), how],
            sort_keys=True,
        )
        return streams.seeded_key(int(self.noise_seed), "estimator", rows.hexdigest(), plan)

    def _initial_seed(self) -> int:
        if self.random_state is None:
            return int.from_bytes(streams.os_key()[:4], "big")
        return int(check_random_state(self.random_state).randint(2**31))

    def _statement(self, setting: Setting) -> PrivacyStatement:
        given = isinstance(self.model, torch.nn.Module)
        around = Circumstances(
            noise=NoiseSource.OS if self.noise_seed is None else NoiseSource.SEEDED,
            preprocessing=PREPROCESSING.format(public=self._public),
            unit="one row of X",
            supplied=[name for name, _ in self._model.named_parameters()] if given else (),
            versions=versions(),
            released=Released.SINGLE_FIT,
        )
        return planned(setting, around)

    _public = "classes"


class DPClassifier(ClassifierMixin, _DPEstimator):  # type: ignore[misc]
    """A classifier, (epsilon, delta)-differentially private in each row: softmax regression, a
    multi-layer perceptron, or any other model.

    The number of rows is public, since batches and noise are planned by it: neighbours are data of
    as many rows, in one of which a row counts for nothing (zero-out; Kairouz et al. 2021, section
    3). Scale inputs to about [-1, 1] by constants that do not come from these rows: a scaler that
    is fitted on them is not covered by epsilon, nor is the choice of parameters by GridSearchCV.

    Parameters
    ----------
    epsilon : target; inf trains without privacy.
    delta : None for the lesser of 1e-5 and a tenth of 1 / rows.
    hidden : widths of the hidden layers; () for softmax regression.
    learning_rate : of SGD, divided by the noise multiplier where that exceeds 1.
    random_state : of the initial weights only. Batches and noise come from the operating system.
    noise_seed : a number from which, with the data and the plan, batches and noise are derived
        instead, so that a fit can be repeated. Whoever knows it and guesses the data can subtract
        the noise: no epsilon holds against them.
    model : name of a registered model instead of `hidden`, or a module whose outputs are the logits
        of the classes. A module brings its initial weights along, which must not depend on these
        rows.

    Attributes
    ----------
    classes_, n_features_in_, epsilon_ (the proved upper bound; inf without privacy), mechanism_
    (what ran), privacy_statement_ (a PrivacyStatement; report.statement turns it into sentences).
    """

    def fit(self, X: Any, y: Any) -> DPClassifier:
        """X [rows, features], y [rows]. Raises ValueError for inputs or parameters that cannot be
        used.
        """
        self._options()
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "DPClassifier needs at least 2 classes, and y has 1 class only: "
                f"{self.classes_[0]!r}"
            )
        self._fit(X, labels.astype(np.int64), len(self.classes_), Recipe(Optimiser(1.0)))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """[rows, classes], in the order of classes_."""
        result: np.ndarray = softmax(self._outputs(X), axis=1)
        return result

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        result: np.ndarray = self.classes_[self.predict_proba(X).argmax(1)]
        return result

    def _described(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        return tuple(map(str, self.classes_)), {}


class DPRegressor(RegressorMixin, _DPEstimator):  # type: ignore[misc]
    """A regressor, (epsilon, delta)-differentially private in each row; what DPClassifier says of
    rows, inputs and parameters holds here too.

    Parameters
    ----------
    bounds : the least and the greatest target, public: what lies beyond is cut. They must not come
        from these rows.
    loss : squared or absolute.

    Attributes
    ----------
    n_features_in_, epsilon_, mechanism_, privacy_statement_, as of DPClassifier.
    """

    def __init__(  # noqa: PLR0913  # scikit-learn wants every parameter by name
        self,
        bounds: tuple[float, float] = (-1.0, 1.0),
        loss: str = "squared",
        epsilon: float = 8.0,
        delta: float | None = None,
        hidden: Sequence[int] = (),
        epochs: float = 40,
        batch_size: int = 256,
        clip: float = 1.0,
        learning_rate: float = 0.2,
        momentum: float = 0.0,
        device: str = "auto",
        random_state: int | None = None,
        noise_seed: int | None = None,
        model: str | torch.nn.Module | None = None,
    ):
        super().__init__(
            epsilon,
            delta,
            hidden,
            epochs,
            batch_size,
            clip,
            learning_rate,
            momentum,
            device,
            random_state,
            noise_seed,
            model,
        )
        self.bounds = bounds
        self.loss = loss

    _public = "bounds of the target"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # On the few rows of scikit-learn's checks noise outweighs what there is to learn.
        tags.regressor_tags.poor_score = math.isfinite(self.epsilon)
        return tags

    def fit(self, X: Any, y: Any) -> DPRegressor:
        """X [rows, features], y [rows]. Raises ValueError for inputs or parameters that cannot be
        used.
        """
        self._options()
        X, y = validate_data(self, X, y, y_numeric=True)
        low, high = self._bounds()
        scaled = 2 * (np.clip(y.astype(np.float64), low, high) - low) / (high - low) - 1
        if self.loss not in ("squared", "absolute"):
            raise ValueError(f"loss must be squared or absolute, got {self.loss!r}")
        recipe = Recipe(Optimiser(1.0), loss=Loss(self.loss))
        self._fit(X, scaled.astype(np.float32), 1, recipe)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """[rows], between the bounds."""
        outputs = self._outputs(X)[:, 0]
        low, high = self._bounds()
        result: np.ndarray = low + (np.clip(outputs, -1, 1) + 1) / 2 * (high - low)
        return result

    def _bounds(self) -> tuple[float, float]:
        bounds = tuple(map(float, self.bounds))
        if len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"bounds must be two numbers, the less first, got {self.bounds!r}")
        return bounds[0], bounds[1]

    def _described(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        return (), {"bounds": list(self._bounds())}


def _finite32(X: Shaped[np.ndarray, "rows features"]) -> np.ndarray:
    limit = float(np.finfo(np.float32).max)
    result: np.ndarray = np.clip(X, -limit, limit).astype(np.float32)
    return result
