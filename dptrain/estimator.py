"""A scikit-learn classifier that is trained with DP-SGD by the one loop."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from dptrain import accounting, models, sampling, score, statement
from dptrain.placement import choose_device
from dptrain.probe import refuse_mixing, refuse_sampler
from dptrain.schema import LEAST_CLIP, MOST_CLIP, PrivacyConfig
from dptrain.train import State, train
from dptrain.types import Mechanism, Neighbouring, Recipe, Sampling, Setting

PREPROCESSING = "none by this classifier: inputs as given, classes and number of rows public; whatever was fitted on these rows before, such as a scaler in a pipeline, is not covered"
TUNING = (
    "one fit; k fits on these rows, as GridSearchCV makes, compose: their epsilon is larger, and choosing the best of them is not covered"
)


class DPClassifier(ClassifierMixin, BaseEstimator):
    """Softmax regression or a multi-layer perceptron, (epsilon, delta)-differentially private in each row.

    The number of rows is public, since batches and noise are planned by it: neighbours are data of as many rows, in one of which a row counts for
    nothing (zero-out; Kairouz et al. 2021, section 3). Scale inputs to about [-1, 1] by constants that do not come from these rows: a scaler that is
    fitted on them is not covered by epsilon, nor is the choice of parameters by GridSearchCV.

    Parameters
    ----------
    epsilon : target; inf trains without privacy.
    delta : None for the lesser of 1e-5 and a tenth of 1 / rows.
    hidden : widths of the hidden layers; () for softmax regression.
    learning_rate : of SGD, divided by the noise multiplier where that exceeds 1.
    random_state : of the initial weights only. Batches and noise come from the operating system.
    noise_seed : a number from which, with the data and the plan, batches and noise are derived instead, so that a fit can be repeated. Whoever
        knows it and guesses the data can subtract the noise: no epsilon holds against them.

    Attributes
    ----------
    classes_, n_features_in_, epsilon_ (the proved upper bound; inf without privacy), mechanism_ (what ran), privacy_statement_.
    """

    def __init__(
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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.noise_seed is None
        return tags

    def fit(self, X: Any, y: Any) -> DPClassifier:
        """X [rows, features], y [rows]. Raises ValueError for inputs or parameters that cannot be used."""
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"DPClassifier needs at least 2 classes, and y has 1 class only: {self.classes_[0]!r}")
        setting = self._setting(len(X))
        device = choose_device(self.device)
        inputs = torch.from_numpy(_finite32(X)).to(device)
        self._model = _build(X.shape[1:], len(self.classes_), self.hidden, self._initial_seed())
        key = self._key(X, labels, setting)
        refuse_mixing(self._model, X.shape[1:])
        refuse_sampler(setting.mechanism.batch_size, setting.mechanism.public_n)
        state = State.start([self._model]).to(device)
        everyone = np.ones((1, len(X)), dtype=bool)
        targets = torch.from_numpy(labels.astype(np.int64)).to(device)
        ran = train(self._model.to(device), setting, "stacked", state, [key], inputs, targets, everyone, lambda *_: None)
        if not all(bool(torch.isfinite(value).all()) for value in state.released.values()):
            raise ValueError("training diverged; lower learning_rate, or scale the inputs")
        self._parameters = {name: value.cpu() for name, value in state.released.items()}
        self._model.to("cpu")
        self.mechanism_ = ran
        self.epsilon_ = accounting.epsilon(ran, setting.delta) if ran.private else math.inf
        self.privacy_statement_ = self._statement(setting)
        self.n_iter_ = ran.steps
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """[rows, classes], in the order of classes_."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        # In float64, so that a row's answer does not depend on how many others are asked about.
        wide = {name: value.double() for name, value in self._parameters.items()}
        inputs = torch.from_numpy(_finite32(X).astype(np.float64))
        logits = score.logits(copy.deepcopy(self._model).double(), wide, inputs)[0].astype(np.float64)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _setting(self, rows: int) -> Setting:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {self.epsilon!r}; use inf for no privacy")
        delta = min(1e-5, 0.1 / rows) if self.delta is None else self.delta
        if not 0 < delta < 1 / rows:
            raise ValueError(f"delta must lie above 0 and below 1/rows = {1 / rows:.3g}, got {delta!r}")
        if not self.batch_size >= 1 or not self.epochs > 0 or not self.learning_rate > 0:
            raise ValueError("batch_size, epochs and learning_rate must be above 0")
        if not LEAST_CLIP <= self.clip <= MOST_CLIP:
            raise ValueError(f"clip must lie in [{LEAST_CLIP:g}, {MOST_CLIP:g}], got {self.clip!r}")
        batch = min(int(self.batch_size), max(1, rows // 2))
        steps = max(1, math.ceil(self.epochs * rows / batch))
        private = math.isfinite(self.epsilon)
        plan = Mechanism(Sampling.POISSON, batch, rows, steps, 0.0, float(self.clip) if private else math.inf, batch, Neighbouring.ZERO_OUT)
        if private:
            plan = accounting.calibrate(plan, float(self.epsilon), delta)
        rate = self.learning_rate / max(1.0, plan.noise_multiplier)
        return Setting("model", "dpsgd", self.epsilon if private else None, delta, plan, Recipe(float(rate), float(self.momentum)))

    def _key(self, X: np.ndarray, labels: np.ndarray, setting: Setting) -> bytes:
        """Of batches and noise. A seeded one depends on all that a fit depends on, initial weights included: equal noise over other gradients
        would be subtracted by whoever has both models."""
        if self.noise_seed is None:
            return sampling.os_key()
        rows = hashlib.sha256(repr((X.shape, X.dtype)).encode() + np.ascontiguousarray(X).tobytes() + labels.tobytes())
        for name, value in self._model.state_dict().items():
            rows.update(name.encode() + value.numpy().tobytes())
        plan = json.dumps([setting.shaping(), list(self.hidden), [str(label) for label in self.classes_]], sort_keys=True)
        return sampling.seeded_key(int(self.noise_seed), "estimator", rows.hexdigest(), plan)

    def _initial_seed(self) -> int:
        if self.random_state is None:
            return int.from_bytes(sampling.os_key()[:4], "big")
        return int(check_random_state(self.random_state).randint(2**31))

    def _statement(self, setting: Setting) -> Mapping[str, str]:
        privacy = PrivacyConfig(setting.delta, "os" if self.noise_seed is None else "seeded")
        told = dict(statement.statement(setting, privacy, PREPROCESSING, None, "one row of X"))
        if setting.mechanism.private:
            told |= {
                "neighbours": f"{setting.mechanism.neighbouring}; the number of rows, {setting.mechanism.public_n}, is public, and the same in both",
                "tuning": TUNING,
                "released": "the fitted classifier; predictions of it are post-processing",
                "checks": "layers that mix rows refused, batches tested to be Poisson before the fit; no ledger and no audit of a single fit",
                "measured": "nothing; dptrain sweep attacks models of the same kind",
            }
        return told


def _finite32(X: np.ndarray) -> np.ndarray:
    limit = float(np.finfo(np.float32).max)
    return np.clip(X, -limit, limit).astype(np.float32)


def _build(shape: Sequence[int], classes: int, hidden: Sequence[int], seed: int) -> torch.nn.Module:
    name, options = ("mlp", {"hidden": tuple(hidden)}) if len(hidden) else ("logistic", {})
    return models.build(name, options, shape, classes, seed)
