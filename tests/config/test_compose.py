"""A wrong configuration: one line, names the key, says the fix, exit code 2, before any data are
read.
"""

import math

import pytest

from dptrain import cli
from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.core.store import seal
from dptrain.data import splits
from dptrain.fleet import settings

BAD = [
    # overrides, key named, part of the fix
    (["epsilns=[1]"], "epsilns", "did you mean 'epsilons'"),
    (["model.hiden=[3]"], "model.hiden", "did you mean 'model.hidden'"),
    (["training.learning_rate=1"], "training.learning_rate", "unknown key"),
    (["+foo=1"], "foo", "unknown key"),
    (["+training.foo=1"], "training.foo", "unknown key"),
    (["++defence.dpsgd.foo=3"], "defence.dpsgd.foo", "learning_rate"),
    (["+attacks.lira.foo=3"], "attacks.lira.foo", "remove it"),
    (["+model.depth=3"], "model.depth", "hidden"),
    (["epsilons=[0]"], "epsilons", "above 0"),
    (["epsilons=[-1]"], "epsilons", "above 0"),
    (["epsilons=[nan]"], "epsilons", "above 0"),
    (["epsilons=[1e-400]"], "epsilons", "above 0"),
    (["epsilons=[-inf]"], "epsilons", "above 0"),
    (["epsilons=[]"], "epsilons", "at least one"),
    (["epsilons=[8,8]"], "epsilons", "once"),
    (["epsilons=['8 ']"], "epsilons", "a number"),
    (["epsilons=[true]"], "epsilons", "a number"),
    (["epsilons=eight"], "epsilons", "a list"),
    (["epsilons=[1e-9]", "privacy.delta=1e-12"], "epsilons", "larger epsilon"),
    (["privacy.delta=0.0005"], "privacy.delta", "below 1/n"),
    (["privacy.delta=0"], "privacy.delta", "above 0"),
    (["privacy.delta=-1e-5"], "privacy.delta", "above 0"),
    (["privacy.delta=nan"], "privacy.delta", "above 0"),
    (["privacy.noise=none"], "privacy.noise", "seeded"),
    (["models_per_setting=3"], "models_per_setting", "use 4"),
    (["models_per_setting=0"], "models_per_setting", "use 2"),
    (["models_per_setting=1"], "models_per_setting", "use 2"),
    (["models_per_setting=-2"], "models_per_setting", "at least 2"),
    (["models_per_setting=abc"], "models_per_setting", "whole number"),
    (["models_per_setting=2.5"], "models_per_setting", "whole number"),
    (["training.batch_size=2001"], "training.batch_size", "1..2000"),
    (["training.batch_size=0"], "training.batch_size", "at least 1"),
    (["training.batch_size=true"], "training.batch_size", "whole number"),
    (["training.epochs=0"], "training.epochs", "above 0"),
    (["training.epochs=inf"], "training.epochs", "finite"),
    (["training.epochs=1e12"], "training.epochs", "lower it"),
    (["training.width=0"], "training.width", "at least 1"),
    (["training.engine=fast"], "training.engine", "stacked"),
    (["training.device=tpu"], "training.device", "cuda"),
    (["defence.dpsgd.clip=0"], "defence.dpsgd.clip", "[1e-06, 1e+06]"),
    (["defence.dpsgd.clip=inf"], "defence.dpsgd.clip", "1e+06"),
    (["defence.dpsgd.clip=[1,2]"], "defence.dpsgd.clip", "number"),
    (["defence.none.learning_rate=-1"], "defence.none.learning_rate", "above 0"),
    (["defence.none.momentum=1"], "defence.none.momentum", "[0, 1)"),
    (["~defence.dpsgd.clip"], "defence.dpsgd.clip", "missing"),
    (["defence=[none]"], "epsilons", "add it to defence"),
    (["defence=[dropouts]"], "defence", "did you mean 'dropout'"),
    (["dataset=mnist6k"], "dataset", "mnist5k"),
    (["dataset.name=mnist6k"], "dataset.name", "mnist5k"),
    (["dataset=mnist"], "dataset.path", "dataset.path=FOLDER"),
    (["dataset=mnist", "dataset.path=/nowhere"], "dataset.path", "four idx files"),
    (["dataset=npz"], "dataset.path", "FILE.npz"),
    (["dataset=npz", "dataset.path=/nowhere.npz"], "dataset.path", "cannot read /nowhere.npz"),
    (["training.optimiser=lion"], "training.optimiser", "adamw"),
    (["training.schedule=step"], "training.schedule", "cosine"),
    (["training.warmup=2"], "training.warmup", "[0, 1]"),
    (["training.average=1"], "training.average", "[0, 1)"),
    (["training.multiplicity=0"], "training.multiplicity", "1..256"),
    (["training.multiplicity=2"], "training.multiplicity", "augmentations"),
    (["training.optimiser=adamw"], "defence.none.learning_rate", "is for sgd"),
    (["training.augmentations=[mixup]"], "training.augmentations", "flip"),
    (["training.augmentations=[flip,flip]"], "training.augmentations", "once"),
    (["training.precision=float16"], "training.precision", "bfloat16"),
    (["training.weight_decay=-1"], "training.weight_decay", "0 or more"),
    (["training.workers=0"], "training.workers", "null"),
    (["training.physical_batch=0"], "training.physical_batch", "null"),
    (["defence.dpsgd.clipping=soft"], "defence.dpsgd.clipping", "automatic"),
    (["dataset.pool=4001"], "dataset.pool", "even"),
    (["dataset.pool=4200"], "dataset.pool", "5,000"),
    (["dataset.test=0"], "dataset.test", "must lie in 1.."),
    (["model=cnnn"], "model", "choose from"),
    (["model.name=cnnn"], "model.name", "choose from"),
    (["model.name=batchnorm", "~model.hidden", "~model.activation"], "model.name", "GroupNorm"),
    (["model.activation=swish"], "model.activation", "relu"),
    (["model.hidden=[]"], "model.hidden", "[128]"),
    (["model.hidden=[-1]"], "model.hidden", "positive"),
    (["model.hidden=8"], "model.hidden", "list"),
    (["attacks=[lirra]"], "attacks", "did you mean 'lira'"),
    (["attacks.lira.variance=own"], "attacks.lira.variance", "per_example"),
    (["experiment=quikstart"], "experiment", "did you mean 'quickstart'"),
    (["epsilons=[1000]"], "epsilons", "at most 100"),
    (["defence.dpsgd.clip=1e300"], "defence.dpsgd.clip", "1e+06"),
    (["dataset.pool=20"], "dataset.pool", "40.."),
    (["model.activation=[relu]"], "model.activation", "relu"),
    (["model.hidden=[99999999999]"], "model", "check its options"),
    (["model=null"], "", ""),
    (["attacks=5"], "cannot read", "group=NAME"),
    (["attacks=[]"], "attacks", ""),
    (
        ["attacks=[lira_offline]", "attacks.lira_offline.variance=own"],
        "attacks.lira_offline.variance",
        "per_example",
    ),
    (["output=/dev/null/x"], "output", "choose another folder"),
    (["hydra.run.dir=/tmp/x"], "hydra.run.dir", "remove it"),
    (["+model._target_=os.system"], "model._target_", "not allowed"),
    (["seed=${oc.env:HOME}"], "seed", "interpolation"),
    (["seed=-1"], "seed", "at least 0"),
    (["name=../up"], "name", "letters"),
    (["output=3"], "output", "text"),
    (["training=3"], "cannot read", "group=NAME"),
    (["~training"], "training", "missing"),
    (["epsilons=[1"], "cannot read", "key=value"),
    (["epsilons"], "cannot read", "key=value"),
    (["=3"], "cannot read", "group=NAME"),
]


@pytest.mark.parametrize(("overrides", "key", "fix"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_configuration(overrides, key, fix, capsys, monkeypatch, tmp_path, fake_package):
    def read(*_args):
        raise AssertionError("data were read")

    monkeypatch.setattr(splits, "load", read)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith(f"dptrain: error: {key}"), err
    assert fix in err, err
    assert not (tmp_path / "results").exists()


def test_no_privacy_is_spelt_inf():
    loaded = compose.load("sweep", ["epsilons=[inf,2]"])
    assert loaded.epsilons == (math.inf, 2.0)
    assert loaded.to_json()["epsilons"] == [None, 2.0]
    assert compose.load("sweep", ["epsilons=3"]).epsilons == (3.0,)


def test_nested_hostile_keys_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="_target_"):
        compose.load("sweep", ["+attacks.lira._target_=os.system"])


def names(*overrides):
    return [setting.name for setting in settings.settings(compose.load("sweep", list(overrides)))]


def test_a_baseline_that_is_named_stays():
    assert names("defences=[none,dpsgd]", "epsilons=[8]") == ["none", "dpsgd-8"]
    assert names("defence=[none,dpsgd]", "epsilons=8") == ["none", "dpsgd-8"]
    assert names("epsilons=[8]") == ["dpsgd-8"]
    assert names("defences=[dpsgd]", "epsilons=[8]") == ["dpsgd-8"]


def test_the_options_of_a_defence_that_is_left_out_go_with_it():
    few = ("experiment=location30", "defences=[none,early_stopping]", "epsilons=[inf]")
    assert names(*few) == ["none", "early_stopping"]
    with pytest.raises(ConfigError, match=r"^defence\.dropout: add dropout to defence=\[none,"):
        compose.load("sweep", [*few, "defence.dropout.learning_rate=0.1"])


@pytest.mark.parametrize(
    ("overrides", "hint", "never"),
    [
        (["model=cnn", "model.hidden=[8]"], "unknown key", "did you mean 'model.hidden'"),
        (
            ["training.learning_rate=1"],
            "defence.none.learning_rate' or 'defence.dpsgd.learning_rate'",
            "training.engine",
        ),
        (["training.momentum=1"], "defence.none.momentum", "training"),
        (["dataset.columns=[a]"], "unknown key; see", "dataset.pool"),
        (["training.batchsize=8"], "did you mean 'training.batch_size'", "learning"),
        (["epsilon=[8]"], "did you mean 'epsilons'", "training"),
        (
            ["seed=0,1,2"],
            "and a comma parts two; write a list as seed=[0,1,2], or run all of them "
            "with --multirun",
            "Lexer",
        ),
        (["dataset.target=a,b"], "quote it: \"dataset.target='a,b'\"", "[a,b]"),
        (["--multirun", "seed=0"], "arguments are written key=value", "Lexer"),
    ],
)
def test_hints_help(overrides, hint, never):
    with pytest.raises(ConfigError) as error:
        compose.load("sweep", overrides)
    assert hint in str(error.value)
    assert never not in str(error.value).split(":", 1)[1]


def test_runs_of_earlier_versions_are_read_with_defaults(tmp_path):
    """A key that a recorded configuration does not have takes its default, deep down too; the
    options of what was chosen stay as they are.
    """
    few = ["models_per_setting=4", "defence=[none]", "epsilons=[inf]"]
    plain = compose.load("sweep", few).to_json()
    del plain["attributes"], plain["dataset"]["unit"]
    plain["epsilons"] = [None]
    (tmp_path / "metrics.json").write_bytes(seal({"config": plain, "rows": []}))
    config = compose.of_run(str(tmp_path))
    assert config.attributes == ()
    assert config.dataset.unit is None
    assert config.models_per_setting == 4
    assert list(config.defence) == ["none"]


@pytest.mark.parametrize(
    "written",
    [
        "[out/seed=0,out/seed=1]",
        "[out/seed=0, out/seed=1]",
        "['out/seed=0',out/seed=1]",
        '["out/seed=0", "out/seed=1"]',
    ],
)
def test_folders_of_multirun_are_named_as_it_names_them(written):
    assert compose.load("show", ["run=out/seed=0,model=mlp"]).run == "out/seed=0,model=mlp"
    assert compose.load("report", [f"runs={written}"]).runs == ("out/seed=0", "out/seed=1")


@pytest.mark.parametrize(
    "written",
    [
        "[r/model=mlp,seed=0,r/model=mlp,seed=1]",
        "['r/model=mlp,seed=0','r/model=mlp,seed=1']",
        '["r/model=mlp,seed=0", r/model=mlp,seed=1]',
    ],
)
def test_folders_of_two_swept_keys_hold_a_comma(written):
    wanted = ("r/model=mlp,seed=0", "r/model=mlp,seed=1")
    assert compose.load("report", [f"runs={written}"]).runs == wanted
    spaced = compose.load("report", ["runs=[a b (1),c/d]"]).runs
    assert spaced == ("a b (1)", "c/d")
