"""Made-up rows."""

from tests import fleets


def row(attack, value, setting="none", metric="auc"):
    return fleets.row(
        setting, "none", None, attack, metric, value, value - 0.01, value + 0.01, 4, 100, 100
    )
