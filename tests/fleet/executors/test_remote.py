"""The driver's side of other machines, with a cluster in this process."""

import dataclasses

import pytest

from dptrain.core.errors import FleetError
from dptrain.fleet.executors import remote
from dptrain.fleet.executors.remote import News
from dptrain.training.checkpoint import Progress
from tests.helpers.clusters import require_same
from tests.helpers.sweep import go, ledgers


class Here:
    """Does each chunk at once. answer: what comes back of a chunk, in place of its own progress."""

    whole = False

    def __init__(self, fleet, folder, answer=None):
        self.fleet, self.folder, self.answer = fleet, folder, answer
        self.sent, self.left = [], {}

    def room(self, at_work):
        return at_work < 2

    def leftover(self, name):
        return self.left.get(name)

    def submit(self, name, chunk):
        self.sent.append((name, chunk))

    def news(self, seconds):
        name, chunk = self.sent.pop()
        page = ledgers(self.folder)[f"{chunk.setting.name}-{name}.jsonl"]
        # Each step of the chunk is charged before the chunk is worked on.
        assert page.count(b"noise_std") == chunk.until
        progress = remote.work(remote.shipped(self.fleet), chunk)
        yield News(name, self.answer(progress) if self.answer else progress)


@pytest.fixture
def drive(monkeypatch):
    """Run the sweep of TINY through Here; a mutating `prepare` is given the cluster first."""

    def run(folder, answer=None, prepare=lambda cluster: None):
        def execute(given):
            cluster = Here(given.fleet, folder, answer)
            prepare(cluster)
            remote.drive(cluster, given)

        with monkeypatch.context() as patch:
            patch.setattr("dptrain.pipeline.training.execute", execute)
            return go(folder, "epsilons=[8]")

    return run


def test_every_step_is_charged_before_it_is_sent(tmp_path, drive):
    assert drive(tmp_path / "there").trained == 6
    go(tmp_path / "here", "epsilons=[8]")
    require_same(tmp_path / "there", tmp_path / "here")


def other_keys(data):
    progress = Progress.of(data)
    return dataclasses.replace(progress, keys=[b"x" * 32 for _ in progress.keys]).to_bytes()


def further(data):
    progress = Progress.of(data)
    progress.state.step += 1
    return progress.to_bytes()


@pytest.mark.parametrize("answer", [other_keys, further])
def test_a_worker_that_gives_back_another_stack_is_not_believed(tmp_path, drive, answer):
    """With other keys, or with a step that nobody has charged."""
    with pytest.raises(RuntimeError, match="gave back another stack"):
        drive(tmp_path, answer)


def test_what_lies_about_of_other_keys_is_not_taken_over(tmp_path, drive):
    """A leftover is taken where its keys are those of the checkpoint, and nowhere else."""

    def prepare(cluster):
        class Left(dict):
            def get(self, name):
                stored = Progress.read(cluster.fleet.store, name)
                stored.state.step = 1
                return other_keys(stored.to_bytes())

        cluster.left = Left()

    assert drive(tmp_path, prepare=prepare).trained == 6


def test_a_node_with_other_code_is_refused(tmp_path, drive, monkeypatch):
    codes = iter(["of the driver"])
    real = remote.code
    monkeypatch.setattr(remote, "code", lambda: next(codes, real()))
    with pytest.raises(ValueError, match="another dptrain, Python or library") as caught:
        drive(tmp_path)
    assert isinstance(caught.value.__cause__ or caught.value.__context__, FleetError)
