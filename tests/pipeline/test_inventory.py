"""dptrain store: what a sweep used stays, what it did not is pruned, a changed byte is seen."""

import json
import shutil

import pytest

from dptrain import cli
from tests.helpers.sweep import go, ledgers, parameters


def store(capsys, folder, *more):
    code = cli.main(["store", f"run={folder}", "format=json", *more])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else captured.err


def stage(there, name):
    (found,) = [each for each in there["stages"] if each["name"] == name]
    return found


@pytest.mark.long
def test_what_another_sweep_left_is_pruned_and_the_ledger_stays(tmp_path, capsys):
    go(tmp_path, "epsilons=[inf,8]")
    mine = parameters(tmp_path)
    go(tmp_path, "epsilons=[inf,8,2]")
    go(tmp_path, "epsilons=[inf,8]")  # the last finished one
    before = ledgers(tmp_path)
    code, there = store(capsys, tmp_path)
    assert code == 0
    assert stage(there, "model")["artefacts"] == 18
    assert stage(there, "model")["unused"] == 6
    assert (there["keys"], there["checkpoints"]) == (12, 0)
    later = tmp_path / "store" / "model" / "later"  # of a sweep that has not finished
    shutil.copytree(next((tmp_path / "store" / "model").iterdir()), later)
    (later / "manifest.json").touch()
    code, there = store(capsys, tmp_path, "action=prune")
    assert code == 0
    assert there["pruned"] >= 12  # models and scores
    assert later.exists()
    shutil.rmtree(later)
    assert parameters(tmp_path) == mine
    assert ledgers(tmp_path) == before
    (tmp_path / "metrics.json").unlink()
    assert go(tmp_path, "epsilons=[inf,8]").trained == 0


def test_a_changed_byte_is_seen(tmp_path, capsys):
    go(tmp_path)
    assert store(capsys, tmp_path, "action=verify")[0] == 0
    file = next(tmp_path.glob("store/model/*/parameters.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, there = store(capsys, tmp_path, "action=verify")
    assert code == 1
    assert stage(there, "model")["damaged"] == [file.parent.name]
    page = next(tmp_path.glob("store/ledger/*.jsonl"))
    page.write_text(page.read_text().replace('"step": 0', '"step": 7'))
    code, there = store(capsys, tmp_path)
    assert code == 1
    assert "was altered" in there["ledger"]
    assert there["steps"] is None


@pytest.mark.parametrize("action", ["list", "prune"])
def test_what_is_not_known_is_not_pruned(tmp_path, capsys, action):
    code, message = store(capsys, tmp_path, f"action={action}")
    assert code == 2
    assert "error: run: " in message
    (tmp_path / "store" / "model").mkdir(parents=True)
    code, message = store(capsys, tmp_path, "action=prune")
    assert code == 2
    assert "no sweep has finished here" in message


def test_a_table_is_printed(tmp_path, capsys):
    go(tmp_path)
    capsys.readouterr()
    assert cli.main(["store", f"run={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "| model " in out
    assert "Ledger: 6 secret keys" in out
