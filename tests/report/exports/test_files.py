"""Files for other tools: the same digits in each."""

import json
import re

import pandas as pd
import pytest

from dptrain.config.commands import EXPORTS as NAMES
from dptrain.core.errors import RunError
from dptrain.report import tables
from dptrain.report.charts import figures
from dptrain.report.exports import files
from dptrain.report.exports.frames import frames


def test_every_format_is_configured():
    assert set(files.EXPORTS) == set(NAMES)


@pytest.fixture(scope="module")
def exported(done, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    formats = ["csv", "json", "parquet", "latex"]
    written = files.export(folder, done.record, formats)
    assert written == [folder / "exports" / name for name in formats]
    return folder / "exports"


def test_tables_of_values_agree_to_the_last_digit(done, exported):
    for name, frame in frames(done.record).items():
        texts = pd.read_csv(exported / "csv" / f"{name}.csv")
        plain = json.loads((exported / "json" / f"{name}.json").read_text())
        columns = pd.read_parquet(exported / "parquet" / f"{name}.parquet")
        numbers = [each for each in frame if frame[each].dtype == float]
        for each in numbers:
            pd.testing.assert_series_equal(texts[each], frame[each], check_exact=True)
            pd.testing.assert_series_equal(columns[each], frame[each], check_exact=True)
            assert [line[each] for line in plain] == [
                None if pd.isna(value) else value for value in frame[each]
            ]
    assert {path.stem for path in (exported / "csv").iterdir()} == set(frames(done.record))


def test_latex_has_the_cells_of_the_page(done, exported):
    head, body = tables.summary(done.record.rows)
    text = (exported / "latex" / "summary.tex").read_text()
    assert text.count(r"\\") == 1 + len(body)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    for line in [head, *body]:
        for cell in line:
            assert cell.replace("%", r"\%").replace("_", r"\_").replace("<=", r"$\leq$") in text


def test_latex_of_any_text_is_text():
    table = (["a_b", "c"], [["50% & #1 {x} ~ ^ \\ $", "[1, 2]"]])
    line = files.latex(table).splitlines()[5]
    plain = re.sub(r"\\textbackslash\{\}|\\text[a-z]+\{\}|\\[&%$#_{}]", "", line.strip()[:-3])
    assert not re.search(r"[\\%$#_^~]", plain)
    assert "{[1, 2]}" in line


@pytest.mark.long
@pytest.mark.whole
def test_figures_are_as_wide_as_a_column(done, tmp_path):
    files.export(tmp_path, done.record, ["svg", "pdf"])
    names = {"utility", "membership_risk", "frontier", "roc_none", "roc_dpsgd-8"}
    assert 'width="244.8pt"' in (tmp_path / "exports/svg/utility.svg").read_text()  # 3.4 inches
    for kind, start in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        paths = list((tmp_path / "exports" / kind).iterdir())
        assert {path.stem for path in paths} == names
        assert all(path.read_bytes().startswith(start) for path in paths)


def test_what_is_not_installed_is_named_before_anything_is_written(done, tmp_path, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"export=wandb needs wandb: pip install 'dptrain\[wandb\]'"):
        files.export(tmp_path, done.record, ["wandb"])
    assert not any(tmp_path.iterdir())


def test_no_table_takes_the_name_of_another():
    names = figures.file_names(["a b", "a_b", "roc_dpsgd-8", "\u53ce\u5165", "\u5e74\u9f62", "a b"])
    assert len(set(names)) == 6
    assert names[:3] == ["a_b", "a_b_2", "roc_dpsgd-8"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)


def test_accuracy_by_class_is_exported(done, exported):
    texts = pd.read_csv(exported / "csv" / "classes.csv")
    assert len(texts) == len(done.record.classes)
    assert (exported / "latex" / "classes.tex").exists()
    assert not (exported / "latex" / "attacks_all.tex").exists()
