"""Every number of a run as plain tables."""

import numpy as np

from dptrain.report.exports.frames import frames


def test_numbers_are_those_of_the_record(done):
    made = frames(done.record)
    numbers = made["numbers"]
    assert len(numbers) == len(done.rows)
    for row, line in zip(done.rows, numbers.to_dict("records"), strict=True):
        assert (line["setting"], line["metric"]) == (row.setting, row.metric.name)
        for name in ("estimate", "low", "high", "ceiling"):
            value = getattr(row, name)
            assert np.isnan(line[name]) if value is None else line[name] == value


def test_statements_curves_and_rocs_are_those_of_the_record(done):
    made, record = frames(done.record), done.record
    privacy = made["privacy"].set_index("setting").to_dict("index")
    for name, statement in record.statements.items():
        line = privacy[name]
        assert line["noise_multiplier"] == statement.noise_multiplier
        if statement.private:
            assert line["epsilon"] == statement.epsilon
            assert line["ceilings_auc"] == statement.ceilings.auc
            assert line["accountants_rdp"] == statement.accountants.rdp
        else:
            assert np.isnan(line["epsilon"])
    points = made["training"].query("setting == 'dpsgd-8'")
    assert points["loss"].tolist() == [each["loss"] for each in record.training["dpsgd-8"]]
    [roc] = [each for each in record.rocs if each.setting == "dpsgd-8"]
    shown = made["roc"].query("setting == 'dpsgd-8' and attack == 'loss'")
    np.testing.assert_array_equal(shown["tpr"], roc.curves["loss"][1])
    proved = made["roc"].query("setting == 'dpsgd-8' and attack == 'proved bound'")
    np.testing.assert_array_equal(proved["fpr"], roc.bound[0])
