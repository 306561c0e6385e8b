"""Attribute inference: guesses of each attack, what is known without a model, what is proved."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

import dptrain
from dptrain.config import compose
from dptrain.core.errors import ConfigError, Refusal
from dptrain.core.store import unseal
from dptrain.data import columns
from dptrain.data.columns import Kind as ColumnKind
from dptrain.data.splits import Attribute, Examples
from dptrain.evaluation.rows import Kind, Metric, Row, Subject
from dptrain.pipeline import attribute_inference as inference
from dptrain.pipeline.attribute_inference import Answers, Attacked, Guessed
from dptrain.pipeline.plan import plan
from dptrain.privacy import pld
from tests.common import TINY
from tests.release.test_release import OPTIONS, frame


def test_the_likeliest_value_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    likelihood, prior = rng.normal(size=(4, 50)), np.log(rng.dirichlet(np.ones(4), 50).T)
    guesses = inference.likeliest(Answers(likelihood), prior)
    for row in range(50):
        scores = [np.exp(prior[v, row]) * np.exp(likelihood[v, row]) for v in range(4)]
        assert guesses[row] == int(np.argmax(scores))


def test_the_three_cases_of_the_confidence_score():
    right = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)  # [values, rows]
    confidence = np.array([[0.9, 0.6, 0.7], [0.5, 0.8, 0.6], [0.4, 0.9, 0.9]])
    answers = Answers(np.log(confidence), right, confidence)
    # The single right value; the surer of two; the least sure where none is right.
    assert inference.confidence_score(answers).tolist() == [1, 1, 1]
    with pytest.raises(Refusal, match="classes"):
        inference.confidence_score(Answers(np.log(confidence)))


def paired(rng, pairs, rows):
    """Memberships as a fleet has them: each model beside its complement."""
    half = rng.random((pairs, rows)) < 0.5
    return np.stack([half, ~half], axis=1).reshape(2 * pairs, rows)


def test_shadows_are_the_same_whether_the_target_holds_a_row_or_not():
    """A row's shadows are the models of the other pairs that do not hold it: flip the pair of the
    target, and they stay.
    """
    rng = np.random.default_rng(1)
    membership = paired(rng, 3, 40)
    said, prior = rng.normal(size=(6, 3, 40)), rng.normal(size=(3, 40))
    for target in range(6):
        guesses = inference.calibrated(said, membership, target, prior)
        for row in range(40):
            others = [m for m in range(6) if m // 2 != target // 2]
            shadows = [m for m in others if not membership[m, row]]
            assert len(shadows) == 2
            score = prior[:, row] + said[target, :, row] - said[shadows, :, row].mean(axis=0)
            assert guesses[row] == int(score.argmax())
        flipped = membership.copy()
        flipped[[target, target ^ 1]] = membership[[target ^ 1, target]]
        assert (inference.calibrated(said, flipped, target, prior) == guesses).all()
    with pytest.raises(Refusal, match="4 models"):
        inference.calibrated(said[:2], membership[:2], 0, prior)


def test_models_that_know_nothing_give_no_advantage():
    """Epsilon 0 exactly: each model is one random number that all rows share. A guess that judged
    members by other shadows than non-members had advantages of .15 here, far above any ceiling.
    60 runs of 4 models; the mean of the true guesses has a deviation of .01.
    """
    rng = np.random.default_rng(2)
    for _ in range(60):
        membership = paired(rng, 2, 1000)
        codes = (rng.random(1000) < 0.2).astype(int)
        said = rng.normal(size=(4, 1)) * np.array([[1.0, -1.0]])
        said = np.broadcast_to(said[:, :, None], (4, 2, 1000))
        prior = np.broadcast_to(np.log([[0.5], [0.5]]), (2, 1000))
        right = np.stack(
            [inference.calibrated(said, membership, target, prior) == codes for target in range(4)]
        )
        inside, outside = ((right & each).sum() / each.sum() for each in (membership, ~membership))
        assert abs(inside - outside) < 0.06


@pytest.mark.parametrize("counts", [(300, 3), (300, 300, 4), (300,)])
def test_imputation_guesses_no_value_that_is_too_rare(counts):
    rng = np.random.default_rng(7)
    codes = np.repeat(np.arange(len(counts)), counts)
    inputs = rng.normal(size=(codes.size, 3)).astype(np.float32)
    population = Examples(inputs, rng.integers(0, 2, codes.size))
    blocks = np.arange(len(counts), dtype=np.float32)[:, None]
    known = Attribute(tuple(map(str, blocks[:, 0])), codes, np.array([0]), blocks)
    said = inference.impute(population, known, population.take(np.arange(9)), 2)
    rare = np.array(counts) < inference.FOLDS
    assert (said[rare] == inference.LEAST).all()
    assert not (said[~rare] == inference.LEAST).all()


@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        (np.r_[np.full(85, 100.0), np.arange(15)], ("14 or less", "above 14")),
        (np.r_[np.zeros(85), np.arange(15) + 1.0], ("0 or less", "above 0")),
        (
            np.arange(100) + 1234567.0,
            (
                "1234591 or less",
                "above 1234591 to 1234616",
                "above 1234616 to 1234641",
                "above 1234641",
            ),
        ),
        (np.r_[np.zeros(50), np.ones(46), np.full(4, 2.0)], ("0", "1")),
    ],
)
def test_bins_of_numbers(numbers, values):
    column = pd.Series(numbers)
    texts, codes = columns.values_of(column, ColumnKind.NUMBER, np.arange(100))
    assert texts == values
    assert codes.max() == len(values) - 1
    for code, text in enumerate(texts):
        of = numbers[codes == code]
        if text.startswith("above"):
            assert of.min() > float(text.split()[1])
        if text.endswith("or less"):
            assert of.max() <= float(text.split()[0])


def test_a_column_that_is_the_target_is_asked_for_as_a_label():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(1, 30, 3)), rng.integers(0, 3, 30)
    nothing = np.zeros((3, 0), dtype=np.float32)
    target = Attribute(("a", "b", "c"), labels, np.zeros(0, dtype=np.int64), nothing)
    answers = inference.of_classes(logits, labels, target)
    logs = log_softmax(logits[0], axis=-1)
    assert answers.likelihood == pytest.approx(logs.T)
    assert (inference.confidence_score(answers) == logs.argmax(axis=1)).all()
    other = Attribute(("a", "b"), labels, np.array([0]), np.zeros((2, 1), dtype=np.float32))
    two = inference.of_classes(rng.normal(size=(2, 30, 3)), labels, other)
    assert two.likelihood.shape == (2, 30)
    assert two.right.shape == (2, 30)
    # Of the target the posterior has the prior in it, and yeom would count that twice.
    nobody = np.zeros((4, 30), dtype=bool)
    guessed = inference._guesses([answers] * 4, Attacked(None, target, nobody, logs.T, logs.T))
    assert list(guessed) == ["imputation", "csmia", "calibrated"]


def test_imputation_never_sees_the_column_or_the_pool():
    """What it says of a row is the same whatever stands in the column there."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 2, 400)
    inputs = np.column_stack([codes, rng.normal(size=400), codes + rng.normal(size=400)])
    population = Examples(inputs.astype(np.float32), rng.integers(0, 2, 400))
    places, blocks = np.array([0]), np.array([[0], [1]], dtype=np.float32)
    known = Attribute(("0", "1"), codes, places, blocks)
    rows = population.take(np.arange(50))
    hidden = Examples(rows.inputs.copy(), rows.labels)
    hidden.inputs[:, 0] = 7
    said = inference.impute(population, known, rows, 2)
    assert (said == inference.impute(population, known, hidden, 2)).all()
    right = (said.argmax(axis=0) == codes[:50]).mean()
    assert 0.5 < right < 0.95


def test_a_leak_above_the_proved_advantage_contradicts_it():
    """The advantage of guesses is bounded by that of a membership attack, so a column that only
    members give away refutes a small one.
    """
    rng = np.random.default_rng(4)
    membership = paired(rng, 4, 400)
    codes = rng.integers(0, 2, 400)
    values = Attribute(("0", "1"), codes, np.array([0]), np.zeros((2, 1), dtype=np.float32))
    known, nothing = Examples(np.zeros((400, 1), dtype=np.float32), codes), np.zeros((2, 400))
    column = Attacked(known, values, membership, nothing, nothing)

    def leak(share):
        def guess(target):
            given = membership[target] & (rng.random(400) < share)
            return np.where(given, codes, rng.integers(0, 2, 400))

        return guess

    curve = pld.claimed_trade_off(0.5, 1e-5)  # an advantage of .245
    subject = Subject("s", "dpsgd", 0.5, 1e-5, 0.5, curve)
    limits = inference.Limits(low=-1.0)
    for share, contradicted in ((1.0, True), (0.0, False)):
        rows = inference._rows(
            subject, Guessed("sex", "yeom", column, leak(share)), np.zeros(400, bool), limits
        )
        of_kind = {row.metric.kind: row for row in rows}
        advantage = of_kind[Kind.ATTRIBUTE_ADVANTAGE]
        assert advantage.ceiling == pytest.approx(curve.max_advantage)
        assert advantage.contradicted == contradicted
        assert advantage.low - 0.05 < share / 2 < advantage.high + 0.05
        accuracy = of_kind[Kind.ATTRIBUTE_ACCURACY]
        assert accuracy.estimate == pytest.approx((1 + share) / 2, abs=0.05)
        assert of_kind[Kind.ATTRIBUTE_GAIN].estimate == pytest.approx(accuracy.estimate)
        assert [Row.of(row.to_json()) for row in rows] == rows


def test_names_of_numbers_of_columns_are_read_back():
    for kind in (kind for kind in Kind if kind.startswith("attribute_")):
        metric = Metric(kind, column="marital status_of")
        assert Metric.parse(metric.name) == metric


def test_a_value_put_in_the_place_of_itself_changes_nothing(tmp_path):
    """Known truth of every kind of column: what stands there for a value is what its rows have."""
    frame().to_csv(tmp_path / "t.csv", index=False)
    names = ("city", "code", "size", "listed", "flag")
    config = compose.load("sweep", [*OPTIONS, f"dataset.path={tmp_path}/t.csv"])
    ready = plan(config)
    inputs = ready.source.read().inputs
    for name in names:
        attribute = ready.source.attribute(name)
        assert len(attribute.values) > 1
        seen = attribute.codes >= 0
        assert seen.any()
        assert (
            inputs[np.ix_(seen, attribute.places)] == attribute.blocks[attribute.codes[seen]]
        ).all()
    for name in ("age", "income"):
        attribute = ready.source.attribute(name)
        assert len(attribute.values) == 4
        column = inputs[:, attribute.places[0]]
        typical = attribute.blocks[:, 0]
        assert (np.diff(typical) > 0).all()
        for code, value in enumerate(typical):
            of_bin = column[attribute.codes == code]
            assert of_bin.min() <= value <= of_bin.max()
    target = ready.source.attribute("y")
    assert target.values == ("no", "yes")
    assert target.places.size == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "there is no column 'nobody'; see dptrain inspect"),
        ("drop", "'drop' is no input of the models, since constant or too rare there"),
    ],
)
def test_columns_that_cannot_be_attacked(name, said, tmp_path):
    frame().assign(drop=1).to_csv(tmp_path / "t.csv", index=False)
    options = [*OPTIONS, f"dataset.path={tmp_path}/t.csv", f"output={tmp_path}/run"]
    with pytest.raises(ConfigError, match=f"attributes: {said}"):
        dptrain.sweep(*options, f"attributes=[{name}]")


def test_images_have_no_columns(tmp_path, tiny):
    with pytest.raises(ConfigError, match="attributes: is for columns of a table"):
        dptrain.sweep(*tiny, "attributes=[sex]", f"output={tmp_path}")


def secrets(count=900):
    """A column that no other tells of, and labels that a model can only learn by heart."""
    rng = np.random.default_rng(5)
    secret = rng.choice(["yes", "no"], count)
    table = {f"x{place}": np.round(rng.normal(size=count), 3) for place in range(12)}
    noisy = (secret == "yes") ^ (rng.random(count) < 0.25)
    return pd.DataFrame(table | {"secret": secret, "y": np.where(noisy, "a", "b")})


@pytest.mark.long
def test_a_planted_secret_is_learnt_of_members(tmp_path):
    """Models that learn by heart give the column of members away, beyond what is known of anybody;
    under DP no more than is proved. It trains nothing anew.
    """
    secrets().to_csv(tmp_path / "t.csv", index=False)
    options = [
        *(part for part in TINY if not part.startswith(("dataset.", "epsilons", "training."))),
        "dataset=csv",
        f"dataset.path={tmp_path}/t.csv",
        "dataset.target=y",
        "dataset.pool=320",
        "dataset.population=300",
        "dataset.test=280",
        "dataset.canaries=20",
        "model.hidden=[64]",
        "models_per_setting=16",
        "epsilons=[inf,1]",
        "training.batch_size=32",
        "training.epochs=100",
        "attacks=[loss]",
        f"output={tmp_path}/run",
    ]
    dptrain.sweep(*options)
    result = dptrain.sweep(*options, "attributes=[secret,y]")
    assert result.trained == 0
    rows = {
        (row.setting, row.attack, row.metric.name): row
        for row in result.rows
        if row.metric.column is not None
    }
    advantage = rows["none", "yeom", "attribute_advantage_secret"]
    assert advantage.low > 0
    # Canaries are left out, and all differences of a setting hold at once.
    assert advantage.note == (
        "2 values, 300 rows, 0 more left out, whose value is missing or rare; 300 rows of the "
        "population; one of 12 intervals that hold at once"
    )
    assert rows["none", "imputation", "attribute_advantage_secret"].low < 0
    assert rows["none", "csmia", "attribute_advantage_y"].low > 0.05
    private = [row for key, row in rows.items() if key[0] == "dpsgd-1"]
    assert all(not row.contradicted for row in private)
    ceilings = {row.ceiling for row in private if row.metric.kind == Kind.ATTRIBUTE_ADVANTAGE}
    assert len(ceilings) == 1
    assert 0 < min(ceilings) < 0.5
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Attribute inference" in page
    assert "Setting none, column &#39;secret&#39;:" in page
    assert "(it gives the value away)" in page
    record = unseal((tmp_path / "run" / "metrics.json").read_bytes())
    assert sum("attribute_" in row["metric"] for row in record["rows"]) == len(rows)
    assert dptrain.sweep(*options, "attributes=[secret,y]").rows == result.rows


@pytest.mark.long
def test_a_regression_is_asked_by_the_likelihood_of_its_errors(tmp_path):
    rng = np.random.default_rng(6)
    count = 600
    secret = rng.choice(["low", "high"], count)
    amount = np.where(secret == "high", 60, 40) + rng.normal(0, 8, count)
    table = pd.DataFrame({"x": rng.normal(size=count), "secret": secret, "amount": amount})
    table.to_csv(tmp_path / "t.csv", index=False)
    result = dptrain.sweep(
        *(part for part in TINY if not part.startswith(("dataset.", "epsilons"))),
        "dataset=csv",
        f"dataset.path={tmp_path}/t.csv",
        "dataset.target=amount",
        "task=regression",
        "bounds=[0,100]",
        "training.epochs=30",
        "epsilons=[inf]",
        "attacks=[loss]",
        "attributes=[secret]",
        f"output={tmp_path}/run",
    )
    of = {(row.attack, row.metric.kind): row for row in result.rows if row.metric.column}
    # The label tells the column: imputation knows it without the model, which adds nothing.
    assert of["imputation", Kind.ATTRIBUTE_ACCURACY].estimate > 0.8
    assert of["yeom", Kind.ATTRIBUTE_ACCURACY].estimate > 0.7
    assert of["csmia", Kind.ATTRIBUTE_ADVANTAGE].note == "refused: it needs a model of classes"
    assert of["calibrated", Kind.ATTRIBUTE_GAIN].low < 0.05
