"""Users in a sweep: coins, canaries, attacks and audits are theirs, and every setting says whom it
protects.
"""

import numpy as np
import pandas as pd
import pytest

import dptrain
from dptrain.attacks.scores import Scores
from dptrain.config import compose
from dptrain.core import streams
from dptrain.core.errors import ConfigError
from dptrain.core.store import Store
from dptrain.core.streams import Users
from dptrain.core.types import Unit
from dptrain.data import datasets, splits
from dptrain.evaluation.evaluate import evaluate
from dptrain.evaluation.rows import AUC, Kind, Subject
from dptrain.pipeline.evaluation import subject_of
from dptrain.pipeline.plan import plan
from dptrain.pipeline.run import load
from dptrain.privacy import ledger, pld

USERS = 260
pytestmark = pytest.mark.long


def visits(seed=0):
    """A table of users with one to nine rows each, in random order."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(USERS), rng.integers(1, 10, USERS))
    age = rng.integers(18, 90, USERS)[who]
    table = pd.DataFrame(
        {
            "patient": [f"p{number:03}" for number in who],
            "age": age,
            "dose": np.round(rng.normal(size=len(who)), 3),
            "back": np.where(age + rng.normal(0, 30, len(who)) > 54, "yes", "no"),
        }
    )
    return table.sample(frac=1, random_state=seed)


OPTIONS = [
    "name=visits",
    "dataset=csv",
    "dataset.target=back",
    "dataset.unit=patient",
    "dataset.unit_rows=4",
    "dataset.pool=120",
    "dataset.population=60",
    "dataset.test=60",
    "dataset.canaries=20",
    "defence=[none,dpsgd,dpsgd_user,dpsgd_group]",
    "defence.dpsgd_user.batch_users=12",
    "epsilons=[inf,8]",
    "model=logistic",
    "models_per_setting=4",
    "training.batch_size=16",
    "training.epochs=2",
    "training.width=4",
    "training.workers=1",
    "attacks=[loss]",
    "privacy.noise=seeded",
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("users")
    visits().to_csv(folder / "visits.csv", index=False)
    options = [*OPTIONS, f"dataset.path={folder}/visits.csv"]
    return folder, options, dptrain.sweep(*options, output=folder / "run")


@pytest.fixture(scope="module")
def fleet(swept):
    folder, options, _ = swept
    ready = plan(compose.load("sweep", [*options, f"output={folder}/run"]))
    return ready, load(ready, Store(folder / "run" / "store"))


def test_no_user_is_in_two_parts_and_none_has_more_rows_than_are_used(swept, fleet):
    ready, loaded = fleet
    parts = splits.parts(ready.config.dataset, ready.config.seed, ready.source)
    of_parts = [set(ready.source.users[part]) for part in parts]
    assert [len(users) for users in of_parts] == [120, 60, 60]
    assert len(set.union(*of_parts)) == 240
    assert np.bincount(loaded.dataset.users).max() == 4
    names = visits().reset_index(drop=True)["patient"].to_numpy()
    ids = loaded.dataset.pool.ids
    assert len(set(zip(names[ids], loaded.dataset.users, strict=True))) == 120
    # An id is no input.
    assert loaded.dataset.pool.inputs.shape[1] == 2


def test_all_rows_of_a_user_share_one_coin(fleet):
    _, loaded = fleet
    by_user = loaded.of_users(loaded.membership)
    assert (by_user[:, loaded.dataset.users] == loaded.membership).all()
    assert (by_user.sum(axis=0) == 2).all()
    key = streams.seeded_key(0, "membership")
    assert (by_user == streams.memberships(4, 120, key)).all()


def test_a_column_is_attacked_on_one_row_of_each_user(swept):
    """Others of theirs are alike, and canaries are nobody. What protects rows proves nothing."""
    folder, options, _ = swept
    result = dptrain.sweep(*options, "attributes=[age]", output=folder / "run")
    assert result.trained == 0
    rows = [row for row in result.rows if row.metric.kind == Kind.ATTRIBUTE_ADVANTAGE]
    proved = {row.setting for row in rows if row.ceiling is not None}
    assert proved == {"dpsgd_user-8", "dpsgd_group-8"}
    for row in rows:
        assert "4 values, 100 rows, 0 more left out" in row.note
        assert row.n_in + row.n_out == 4 * 100


def test_canaries_are_whole_users(fleet):
    _, loaded = fleet
    users, count = loaded.dataset.users, loaded.dataset.canaries
    assert set(users[:count]) == set(range(20))
    assert not set(users[count:]) & set(range(20))


def test_each_setting_says_whom_it_protects(swept, fleet):
    _, _, result = swept
    ready, _ = fleet
    said = result.statements
    rows = ready.config.dataset.unit_count
    assert rows == len(splits.parts(ready.config.dataset, 0, ready.source)[0])
    user, group, single = said["dpsgd_user-8"], said["dpsgd_group-8"], said["dpsgd-8"]
    assert (user.public_n, user.drawn, user.grouped) == (60, Unit.USER, True)
    assert (group.public_n, group.drawn, group.group_size) == (rows // 2, Unit.EXAMPLE, 4)
    assert single.public_n == rows // 2
    assert single.unit == "one example of the pool"
    assert "one patient: all rows of it" in user.unit
    by_name = {setting.name: setting for setting in ready.settings}
    mechanism = by_name["dpsgd_group-8"].mechanism
    assert group.epsilon == pld.group_epsilon(mechanism, 1e-5, 4) <= 8
    assert group.accountants.pld == pld.epsilon(mechanism, 1e-5) < 3
    assert by_name["dpsgd_user-8"].mechanism.unit == Unit.USER
    # Two passes over 60 users in batches of 12.
    assert by_name["dpsgd_user-8"].mechanism.steps == 10
    from dptrain.report.statement import claim, sentences

    assert "half the users of the pool" in sentences(user)["neighbours"]
    assert "random examples of a user clipped as one" in sentences(user)["mechanism"]
    assert "any attack on one user" in sentences(group)["ceiling"]
    assert "for all rows of a user" in claim(user)
    assert "for all rows of a user" in claim(group)
    assert "of a user" not in claim(single)


def test_ceilings_stand_beside_attacks_on_those_who_are_protected_only(swept):
    _, _, result = swept
    aucs = {
        (row.setting, row.examples): row
        for row in result.rows
        if row.metric == AUC and row.attack == "loss"
    }
    for setting, of_users in (
        ("dpsgd_user-8", True),
        ("dpsgd_group-8", True),
        ("dpsgd-8", False),
        ("none", False),
    ):
        assert (aucs[setting, "all"].ceiling is not None) == of_users
        assert aucs[setting, "rows"].ceiling is None
        assert aucs[setting, "all"].n_in + aucs[setting, "all"].n_out == 4 * 120
        assert aucs[setting, "rows"].n_in > aucs[setting, "all"].n_in
        assert aucs[setting, "canaries"].n_in + aucs[setting, "canaries"].n_out == 4 * 20
    audited = [row for row in result.rows if row.metric.name.startswith("epsilon")]
    assert audited
    assert {row.examples for row in audited} == {"all", "canaries"}


def test_the_ledger_says_what_was_drawn(swept):
    folder, _, _ = swept
    accounts = ledger.read(folder / "run" / "store" / "ledger").accounts.values()
    drawn = {
        account.setting: {step.unit for step in account.steps.values()} for account in accounts
    }
    assert drawn == {
        "dpsgd-8": {Unit.EXAMPLE},
        "dpsgd_user-8": {Unit.USER},
        "dpsgd_group-8": {Unit.EXAMPLE},
    }


def test_a_final_model_of_users(swept, tmp_path):
    folder, _, _ = swept
    final = dptrain.train(
        run=folder / "run", setting="dpsgd_user-8", output=tmp_path, **{"dataset.canaries": 0}
    )
    assert final.statement.public_n == 120
    assert final.statement.drawn == Unit.USER
    assert final.statement.epsilon <= 8
    with pytest.raises(ConfigError, match=r"rows: (sizes count users|what is fitted)"):
        dptrain.train(
            run=folder / "run",
            setting="dpsgd_user-8",
            output=tmp_path,
            rows="all",
            **{"dataset.canaries": 0},
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": None, "unit_rows": None}, "dpsgd_user: protects users"),
        ({"unit_rows": None}, "dpsgd_group: calibrates for all rows"),
        ({"unit": "nobody"}, "there is no column 'nobody'"),
        ({"unit": "back"}, "unit: is the target"),
        ({"pool": 200}, "unit: patient has 260 different values"),
        ({"group": "patient"}, "group: does not go with dataset.unit"),
    ],
)
def test_what_cannot_be_said_of_users(change, said, swept, tmp_path):
    _, options, _ = swept
    values = {f"dataset.{key}": value for key, value in change.items()}
    with pytest.raises(ConfigError, match=said):
        dptrain.sweep(*options, output=tmp_path, **values)


def test_sizes_that_are_left_open_count_users(swept):
    folder, options, _ = swept
    left = [
        part
        for part in options
        if not part.startswith(("dataset.pool", "dataset.pop", "dataset.test"))
    ]
    ready = plan(compose.load("sweep", [*left, f"output={folder}/open"]))
    data = ready.config.dataset
    assert ready.counted
    assert data.test == USERS // 5
    assert data.population == USERS // 10
    assert data.pool == (USERS - USERS // 5 - USERS // 10) // 2 * 2
    with_count = [*options, "dataset.unit_count=400", f"output={folder}/declared"]
    declared = plan(compose.load("sweep", with_count))
    assert not declared.counted
    assert declared.config.public_n == 200


@pytest.mark.parametrize("seed", range(3))
def test_an_attack_on_users_finds_at_least_what_that_on_rows_does(seed):
    """Planted: every row of a member says a little more, and a user has up to nine."""
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(300), rng.integers(1, 10, 300))
    users = Users.of(units)
    coins = streams.memberships(16, 300, streams.seeded_key(seed, "test"))
    membership = coins[:, units]
    labels = rng.integers(0, 3, len(units))
    shared = rng.normal(size=(1, len(units), 1, 3))
    logits = shared + rng.normal(size=(16, len(units), 1, 3))
    logits[:, np.arange(len(units)), 0, labels] += 0.4 * membership
    scores = Scores(logits, labels, membership)
    attacks = {"loss": {}, "lira": {"variance": "auto"}, "rmia": {}}
    from dptrain.config.compose import load as composed

    options = composed("sweep", ["attacks=[loss,lira,rmia]"]).attacks
    found = evaluate(Subject("s", "none", None, 1e-5), scores, options, (), users=users)
    aucs = {(row.attack, row.examples): row.estimate for row in found.rows if row.metric == AUC}
    best = max(aucs[attack, "rows"] for attack in attacks)
    assert max(aucs[attack, "all"] for attack in attacks) > best + 0.05


def test_a_table_of_users_leaves_out_rows_without_one(tmp_path):
    table = visits()
    table.loc[table.index[:7], "patient"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    chosen = compose.load("sweep", [*OPTIONS, f"dataset.path={tmp_path}/t.csv"])
    source = datasets.source(chosen.dataset, 0)
    assert any("7 rows without a patient" in note for note in source.notes)


def test_models_that_protect_different_units_have_no_epsilon_together(swept, fleet):
    _, _, result = swept
    for name in ("dpsgd-8", "dpsgd_user-8", "dpsgd_group-8"):
        assert result.statements[name].evaluated.composed.epsilon is None
    from dptrain.report.statement import sentences

    said = sentences(result.statements["dpsgd-8"])["composition"]
    assert "no epsilon is known, since they protect different units" in said


def test_a_user_is_one_however_the_name_is_written():
    table = visits()
    numbers = table.patient.str[1:].astype(int)
    rng = np.random.default_rng(0)
    shown = [rng.choice([str(n), f"{n}.0", f" {n} "]) for n in numbers]
    mixed = [(n, str(n), float(n))[rng.integers(3)] for n in numbers]
    for name, ids in (("text", shown), ("mixed", mixed)):
        held = table.assign(patient=pd.Series(ids, index=table.index, dtype=object))
        datasets.hold(f"ids_{name}", held)
        chosen = compose.load("sweep", [*OPTIONS, f"dataset.name=ids_{name}"])
        source = datasets.source(chosen.dataset, 0)
        assert len(np.unique(source.users)) == USERS
        assert np.bincount(source.users).max() == 4


def test_parts_hold_the_same_kind_of_users(tmp_path):
    """Users are dealt out by their names: those with many rows lie no more in one part than in
    another. Of 200 users with 30 rows among 1,000, each part has its share within six standard
    errors.
    """
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(1000), np.where(np.arange(1000) < 200, 30, 1))
    table = pd.DataFrame(
        {
            "patient": who,
            "age": rng.normal(size=len(who)),
            "back": rng.choice(["yes", "no"], len(who)),
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    keys = [
        "dataset=csv",
        f"dataset.path={tmp_path}/t.csv",
        "dataset.target=back",
        "dataset.unit=patient",
    ]
    chosen = compose.load("sweep", keys)
    source = datasets.source(chosen.dataset, 0)
    for part in splits.parts(chosen.dataset, 0, source):
        users = np.unique(who[source.read().ids[part]])
        share = (users < 200).mean()
        assert abs(share - 0.2) < 6 * np.sqrt(0.16 / len(users))


def test_a_setting_for_rows_proves_nothing_of_users(fleet):
    ready, _ = fleet
    by_name = {setting.name: setting for setting in ready.settings}
    assert subject_of(by_name["dpsgd-8"], users=True).curve is None
    assert subject_of(by_name["dpsgd-8"], users=False).curve is not None
    assert subject_of(by_name["dpsgd_user-8"], users=True).proved <= 8
