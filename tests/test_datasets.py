"""Named data sets: their formats, on small files written here; what is absent, altered or unreachable is one line."""

import gzip
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from dptrain import config, data, datasets, fetch, images
from dptrain.fetch import Remote, obtain
from dptrain.types import ConfigError
from tests.test_data import idx

RNG = np.random.default_rng(0)


def chosen(name, *more):
    return config.load("sweep", [f"dataset={name}", "training.batch_size=20", "privacy.delta=1e-5", *more]).dataset


def blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served on this machine, and an empty cache."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield served, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_a_download_is_verified_and_then_named(server, tmp_path):
    served, base = server
    (served / "a.bin").write_bytes(b"whole")
    for checksum in (f"md5:{hashlib.md5(b'whole').hexdigest()}", f"sha256:{hashlib.sha256(b'whole').hexdigest()}", f"git:{blob(b'whole')}"):
        remote = Remote("a.bin", f"{base}a.bin", checksum)
        [path] = obtain("some", [remote], None)
        assert path.read_bytes() == b"whole"
        assert path.parent == tmp_path / "cache" / "some"
        path.unlink()
    obtain("some", [remote], None)
    (served / "a.bin").unlink()
    assert obtain("some", [remote], None) == [path]  # from the cache
    path.write_bytes(b"altered")
    (served / "a.bin").write_bytes(b"altered")
    with pytest.raises(ConfigError, match="is not the published file"):
        obtain("some", [remote], None)
    path.unlink()
    with pytest.raises(ConfigError, match="is not the published file"):
        obtain("some", [remote], None)
    assert not list(path.parent.iterdir())  # nothing half done stays


def test_offline_and_absent_says_what_to_put_where(server, tmp_path, monkeypatch):
    _, base = server
    remote = Remote("a.bin", f"{base}none.bin", "md5:0")
    with pytest.raises(ConfigError, match=r"a\.bin for some is not here .* put the file into a folder and give dataset\.path=FOLDER"):
        obtain("some", [remote], None)
    with pytest.raises(ConfigError, match=r"cannot be reached"):
        obtain("some", [Remote("a.bin", "http://127.0.0.1:9/a.bin", "md5:0")], None)
    with pytest.raises(ConfigError, match=r"no a\.bin in .*, which some needs; get it from"):
        obtain("some", [remote], str(tmp_path))
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(ConfigError, match="is not the published file"):
        obtain("some", [remote], str(tmp_path))
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot write to"):
        obtain("some", [remote], None)


def archive(path, files):
    with tarfile.open(path, "w:gz") as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    return f"sha256:{fetch.digest(path, 'sha256')}"


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_its_binary_version(tmp_path, classes):
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"] if classes == 10 else ["train.bin", "test.bin"]
    extra = 1 if classes == 10 else 2
    each = 60_000 // len(names)
    parts = {}
    for name in names:
        rows = RNG.integers(0, 256, (each, extra + 3072), np.uint8)
        rows[:, :extra] %= classes
        parts[f"cifar/{name}"] = rows
    path = tmp_path / "c.tar.gz"
    order = sorted(parts, key=lambda name: ("test" in name, name))
    content = {name: rows[:200].tobytes() for name, rows in parts.items()} | {"cifar/readme.html": b"text"}
    archive(path, content)
    found = images._cifar(path, classes)
    whole = np.concatenate([parts[name][:200] for name in order])
    np.testing.assert_array_equal(found.labels, whole[:, extra - 1])
    red = whole[:, extra : extra + 1024].reshape(-1, 32, 32) / 255
    np.testing.assert_allclose(found.inputs[:, 0], (red - 0.4914) / 0.2470, rtol=1e-4, atol=1e-5)
    for bad in ({}, {"a.bin": b"123"}, {"a.bin": b"\xff" * (extra + 3072)}):
        archive(path, bad)
        with pytest.raises(ConfigError, match="cannot be read"):
            images._cifar(path, classes)
    path.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="cannot be read"):
        images._cifar(path, classes)


def test_location30(tmp_path, monkeypatch):
    rows = [f'"{n % 30 + 1}",' + ",".join(map(str, RNG.integers(0, 2, 446))) for n in range(300)]
    checksum = archive(tmp_path / "dataset_location.tgz", {"bangkok": "\n".join(rows).encode()})
    monkeypatch.setattr(datasets, "LOCATION", Remote("dataset_location.tgz", "http://none", checksum))
    config_ = chosen("location30", f"dataset.path={tmp_path}", "dataset.pool=200", "dataset.population=40", "dataset.test=40")
    declared = datasets.source(config_, 0)
    assert (declared.size, declared.shape, declared.classes) == (300, (446,), 30)
    examples = declared.read()
    assert examples.labels.tolist()[:31] == [*range(30), 0]
    assert set(np.unique(examples.inputs)) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["purchase100", "texas100"])
def test_a_hundred_classes(tmp_path, monkeypatch, name):
    labels = RNG.integers(0, 100, 400)
    path = tmp_path / f"{name}.npz"
    np.savez(path, features=RNG.integers(0, 2, (400, 50)), labels=np.eye(100)[labels])
    remote = Remote(path.name, "http://none", f"git:{blob(path.read_bytes())}")
    declared = datasets._hundred(name, remote)(chosen(name, f"dataset.path={tmp_path}"), 0)
    np.testing.assert_array_equal(declared.read().labels, labels)
    assert declared.classes == 100


def test_adult(tmp_path, monkeypatch):
    def row(n, end):
        return f"{20 + n % 50}, {['Private', '?'][n % 3 == 0]}, {n}, HS-grad, 9, x, y, z, White, Male, 0, 0, 40, Here, {['<=50K', '>50K'][n % 2]}{end}"

    (tmp_path / "adult.data").write_text("\n".join(row(n, "") for n in range(200)) + "\n\n")
    (tmp_path / "adult.test").write_text("|1x3 Cross validator\n" + "\n".join(row(n, ".") for n in range(150, 260)) + "\n")
    files = [Remote(name, "http://none", f"md5:{fetch.digest(tmp_path / name, 'md5')}") for name in ("adult.data", "adult.test")]
    monkeypatch.setattr(datasets, "ADULT", files)
    small = ("dataset.pool=100", "dataset.population=100", "dataset.test=30")
    declared = datasets.source(chosen("adult", f"dataset.path={tmp_path}", *small), 0)
    assert (declared.size, declared.classes) == (260, 2)  # fifty rows stand in both parts
    assert declared.notes == ("50 rows that copy another left out",)
    with pytest.raises(ConfigError, match=r"dataset\.target: adult has one target"):
        datasets.source(chosen("adult", f"dataset.path={tmp_path}", "dataset.target=race", *small), 0)


def test_bundled():
    small = ("dataset.pool=100", "dataset.population=100", "dataset.test=30")
    digits = datasets.source(chosen("digits", *small), 0)
    np.testing.assert_array_equal(digits.read().inputs[:, 0], load_digits().images.astype(np.float32) / 8 - 1)
    declared = datasets.source(chosen("breast_cancer", *small), 0)
    assert (declared.size, declared.shape) == (569, (30,))
    np.testing.assert_array_equal(declared.read().labels, load_breast_cancer().target)


def write_idx(folder: Path, shape=(9, 7), classes=3):
    parts = {}
    for part, size in (("train", 300), ("t10k", 100)):
        pixels, labels = RNG.integers(0, 256, (size, *shape), np.uint8), RNG.integers(0, classes, size).astype(np.uint8)
        parts[part] = pixels, labels
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array), 1))
    return parts


def test_idx_of_anyone(tmp_path):
    parts = write_idx(tmp_path)
    one = chosen("idx", f"dataset.path={tmp_path}", "dataset.pool=200", "dataset.population=100", "dataset.test=50")
    declared = datasets.source(one, 0)
    assert (declared.size, declared.shape, declared.classes) == (400, (1, 9, 7), 3)
    np.testing.assert_allclose(declared.read().inputs[:300, 0], parts["train"][0] / 127.5 - 1, atol=1e-6)
    assert len(data.load(declared, one, 0).pool.labels) == 200
    write_idx(tmp_path, classes=1)
    with pytest.raises(ConfigError, match="at least two classes"):
        datasets.source(one, 0)
    with pytest.raises(ConfigError, match="idx needs the folder"):
        datasets.source(chosen("idx"), 0)


def test_fashion_mnist_where_debian_puts_it():
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    declared = datasets.source(chosen("fashion_mnist"), 0)
    examples = declared.read()
    assert examples.inputs.shape == (70_000, 1, 28, 28)
    assert np.bincount(examples.labels).tolist() == [7000] * 10
    assert abs(float(examples.inputs[:60_000].mean())) < 0.01
    assert float(examples.inputs[:60_000].std()) == pytest.approx(1, abs=0.01)


def test_openml_offline(tmp_path, monkeypatch):
    import sklearn.datasets

    def offline(**_):
        raise OSError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    with pytest.raises(ConfigError, match=r"dataset\.id: OpenML's data set 1590 cannot be had \(no network\); go online once"):
        datasets.source(chosen("openml", "dataset.id=1590"), 0)
    with pytest.raises(ConfigError, match=r"dataset\.id: openml needs the number"):
        datasets.source(chosen("openml"), 0)


def test_openml_as_scikit_learn_gives_it(monkeypatch):
    import sklearn.datasets
    from sklearn.utils import Bunch

    frame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "class"})
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda **_: Bunch(frame=frame, target_names=["class"]))
    small = ("dataset.pool=300", "dataset.population=100", "dataset.test=100")
    declared = datasets.source(chosen("openml", "dataset.id=13", *small), 0)
    assert (declared.shape, declared.classes, declared.size) == ((30,), 2, 569)
