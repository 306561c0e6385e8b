"""Subgroups in a sweep: they change no model, and stand in metrics, report and result."""

import pytest

import dptrain
from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.core.store import Store, unseal
from dptrain.pipeline import evaluation
from dptrain.pipeline.plan import plan
from dptrain.pipeline.run import load
from tests.helpers.sweep import parameters
from tests.release.test_release import OPTIONS, frame

pytestmark = pytest.mark.long


def test_groups_train_nothing_and_stand_in_the_report(tmp_path):
    frame().to_csv(tmp_path / "t.csv", index=False)
    options = [*OPTIONS, f"dataset.path={tmp_path}/t.csv", f"output={tmp_path}/run"]
    dptrain.sweep(*options)
    before = parameters(tmp_path / "run")
    result = dptrain.sweep(*options, "groups=[flag,city]")
    assert result.trained == 0
    assert parameters(tmp_path / "run") == before
    groups = {row.group for row in result.groups}
    assert {"flag=True", "flag=False", "city=Bern", "city=missing"} <= groups
    measures = {row.measure for row in result.groups}
    assert measures == {"test accuracy", "loss AUC"}
    refused = [row for row in result.groups if row.group == "city=missing"]
    assert all(row.value is None and "refused" in row.note for row in refused)
    compared = [row for row in result.groups if row.change]
    assert {row.setting for row in compared} == {"dpsgd-8"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Subgroups" in page
    assert "dpsgd-8, smallest group" in page
    record = unseal((tmp_path / "run" / "metrics.json").read_bytes())
    assert len(record["groups"]) == len(result.groups)
    assert dptrain.sweep(*options, "groups=[flag,city]").groups == result.groups


def test_every_interval_is_counted(tmp_path):
    """What is said to hold at once is divided by as many intervals as are given, or more."""
    frame().to_csv(tmp_path / "t.csv", index=False)
    options = [*OPTIONS, f"dataset.path={tmp_path}/t.csv", f"output={tmp_path}/run"]
    result = dptrain.sweep(*options, "groups=[flag,city,size]", "utility=auroc")
    ready = plan(compose.load("sweep", [*options, "groups=[flag,city,size]", "utility=auroc"]))
    many = evaluation._many(load(ready, Store(tmp_path / "run" / "store")))
    for setting in ("none", "dpsgd-8"):
        rows = [row for row in result.groups if row.setting == setting]
        limits = [each for row in rows for each in (row.value, row.gap, row.change, row.excess)]
        assert 0 < sum(each is not None for each in limits) <= many


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("[nobody]", "groups: there is no column 'nobody'"),
        ("[income]", "groups: income has"),
        ("[city,city]", "groups: each may stand there once"),
    ],
)
def test_groups_that_are_none(groups, said, tmp_path):
    frame().to_csv(tmp_path / "t.csv", index=False)
    options = [*OPTIONS, f"dataset.path={tmp_path}/t.csv", f"output={tmp_path}/run"]
    with pytest.raises(ConfigError, match=said):
        dptrain.sweep(*options, f"groups={groups}")


def test_images_have_no_groups(tmp_path, tiny):
    with pytest.raises(ConfigError, match="groups: is for columns of a table, and mnist5k is none"):
        dptrain.sweep(*tiny, "groups=[sex]", f"output={tmp_path}")


def test_a_column_that_names_rows_is_no_input_and_stands_in_the_report(tmp_path):
    """The most exposed rows are named by it; the models are those without the column."""
    table = frame()
    table.to_csv(tmp_path / "t.csv", index=False)
    table.assign(who=[f"person {row}" for row in range(len(table))]).to_csv(
        tmp_path / "named.csv", index=False
    )
    plain = dptrain.sweep(*OPTIONS, f"dataset.path={tmp_path}/t.csv", f"output={tmp_path}/plain")
    options = [*OPTIONS, f"dataset.path={tmp_path}/named.csv", "dataset.id=who"]
    named = dptrain.sweep(*options, f"output={tmp_path}/named")
    assert set(parameters(tmp_path / "named").values()) == set(
        parameters(tmp_path / "plain").values()
    )
    exposed = [
        [each["id"] for each in result.record.exposed["none"]["vulnerable"]["loss"]]
        for result in (plain, named)
    ]
    assert exposed[1] == [f"person {row}" for row in exposed[0]]
    assert "person" in (named.folder / "report.html").read_text()
    with pytest.raises(ConfigError, match=r"dataset.id: there is no column 'nobody'"):
        dptrain.sweep(*options, "dataset.id=nobody", f"output={tmp_path}/none")


def test_images_have_no_names(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"dataset.id: is for columns of a table, and mnist5k is"):
        dptrain.sweep(*tiny, "dataset.id=who", f"output={tmp_path}")
