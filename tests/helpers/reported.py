"""A row as reports show it."""

from tests import fleets

ROW = fleets.row(
    "dpsgd-8", "dpsgd", 8.0, "lira", "auc", 0.5904, 0.5801, 0.6, 16, 100, 100, ceiling=0.86938
)
