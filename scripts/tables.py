"""Tables for scripts/tables: two of scikit-learn's as CSV, and two that are made here, with names
of rows, repeats, a column that gives the answer away, and times.

    python scripts/tables.py

writes breast_cancer.csv, diabetes.csv, visits.csv and loans.csv into the current folder.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes


def visits(users: int = 700, seed: int = 1) -> pd.DataFrame:
    """Hospital visits of patients with one to many each; what a patient is like stays the same."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(users), np.minimum(rng.geometric(0.25, users), 40))
    age, home = rng.integers(18, 90, users)[who], rng.normal(size=users)[who]
    dose = home + rng.normal(size=len(who))
    back = age / 40 + home + rng.normal(size=len(who)) > 1.4
    table = pd.DataFrame(
        {
            "patient": [f"p{number:04}" for number in who],
            "age": age,
            "home_score": home.round(3),
            "dose": dose.round(3),
            "ward": rng.choice(list("abcd"), len(who)),
            "back": np.where(back, "yes", "no"),
        }
    )
    return table.sample(frac=1, random_state=seed)


def loans(rows: int = 6000, seed: int = 2) -> pd.DataFrame:
    """Loans in order of time, one in eight of which defaulted; what was recovered is known only of
    those that did, so it gives the answer away.
    """
    rng = np.random.default_rng(seed)
    income, amount = rng.lognormal(10, 0.5, rows), rng.lognormal(9, 0.7, rows)
    region = rng.choice(["north", "south", "east", "isles"], rows, p=[0.5, 0.3, 0.15, 0.05])
    score = amount / income + (region == "isles") * 0.3 + rng.normal(0, 0.35, rows)
    bad = score > np.quantile(score, 7 / 8)
    opened = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 1800, rows)), "D")
    return pd.DataFrame(
        {
            "loan_id": rng.permutation(rows) + 100_000,
            "opened": opened.strftime("%Y-%m-%d"),
            "income": income.round(2),
            "amount": amount.round(2),
            "region": region,
            "recovered": np.where(bad, (amount * rng.random(rows)).round(2), 0.0),
            "defaulted": np.where(bad, "yes", "no"),
        }
    )


def main() -> None:
    load_breast_cancer(as_frame=True).frame.to_csv("breast_cancer.csv", index=False)
    load_diabetes(as_frame=True, scaled=False).frame.to_csv("diabetes.csv", index=False)
    visits().to_csv("visits.csv", index=False)
    loans().to_csv("loans.csv", index=False)


if __name__ == "__main__":
    main()
