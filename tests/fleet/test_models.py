"""Keys of trained models: what shapes a model moves its key, and nothing else does."""

from dataclasses import replace

import pytest

from dptrain.config import compose
from dptrain.core import store
from dptrain.core.store import Store
from dptrain.fleet import models
from dptrain.pipeline import run
from dptrain.pipeline.plan import plan
from tests.common import TINY


@pytest.fixture(scope="module")
def fleet_and_setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    ready = plan(compose.load("sweep", [*TINY, f"output={folder}"]))
    return run.load(ready, Store(folder / "store")), ready.settings[1]


def test_what_shapes_a_model_moves_its_key(fleet_and_setting):
    fleet, setting = fleet_and_setting
    key = models.key(fleet, setting, 0)
    mechanism = replace(setting.mechanism, noise_multiplier=9.0)
    others = [
        models.key(fleet, setting, 1),
        models.key(fleet, replace(setting, mechanism=mechanism), 0),
        models.key(fleet, replace(setting, name="other"), 0),
        models.key(fleet, replace(setting, delta=1e-6), 0),
        models.key(replace(fleet, engine="vmap"), setting, 0),
        models.key(replace(fleet, architecture="other"), setting, 0),
        models.key(replace(fleet, config=replace(fleet.config, seed=1)), setting, 0),
    ]
    assert len({key, *others}) == len(others) + 1
    wider = replace(fleet, config=replace(fleet.config, models_per_setting=8))
    assert models.key(wider, setting, 0) == key


def test_an_absent_model_says_what_to_do(fleet_and_setting):
    fleet, setting = fleet_and_setting
    assert models.missing(fleet, setting) == list(range(6))
    assert models.blocks(fleet, setting) == [range(0, 2), range(2, 4), range(4, 6)]
    with pytest.raises(RuntimeError, match="run the sweep again"):
        models.stored(fleet, setting, 0)


def test_wording_moves_no_key_and_an_operator_does(tmp_path, monkeypatch):
    """Of a package that stands in for one of ours."""
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(store, "__file__", str(tmp_path / "core" / "store.py"))

    def digest(text):
        (folder / "loop.py").write_text(text)
        store._ours.cache_clear()
        store.code_fingerprint.cache_clear()
        return store.code_fingerprint("training")

    base = (
        'def f(x):\n    """Doc."""\n    if x < 0:\n        raise ValueError("no")\n'
        "    return x + 1\n"
    )
    assert digest(base) == digest(base.replace("Doc.", "Other words.").replace("no", "not so"))
    assert digest(base) == digest("# a comment\n" + base.replace("x + 1", "(x + 1)"))
    for change in ("x - 1", "x + 2"):
        assert digest(base) != digest(base.replace("x + 1", change))
    assert digest(base) != digest(base.replace("x < 0", "x <= 0"))
    store.code_fingerprint.cache_clear()
    with pytest.raises(ValueError, match="no package"):
        store.code_fingerprint("nothing")
