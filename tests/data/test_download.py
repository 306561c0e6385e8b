"""Tests of data.download."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dptrain.core.errors import ConfigError, LayerError
from dptrain.data.download import Remote, obtain
from tests.helpers.datasets import blob


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
    for checksum in (
        f"md5:{hashlib.md5(b'whole').hexdigest()}",
        f"sha256:{hashlib.sha256(b'whole').hexdigest()}",
        f"git:{blob(b'whole')}",
    ):
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
    with pytest.raises((ConfigError, LayerError), match="is not the published file"):
        obtain("some", [remote], None)
    path.unlink()
    with pytest.raises((ConfigError, LayerError), match="is not the published file"):
        obtain("some", [remote], None)
    assert not list(path.parent.iterdir())  # nothing half done stays


def test_offline_and_absent_says_what_to_put_where(server, tmp_path, monkeypatch):
    _, base = server
    remote = Remote("a.bin", f"{base}none.bin", "md5:0")
    with pytest.raises(
        LayerError,
        match=r"a\.bin for some is not here .* put the file into a folder and give path=",
    ):
        obtain("some", [remote], None)
    with pytest.raises((ConfigError, LayerError), match=r"cannot be reached"):
        obtain("some", [Remote("a.bin", "http://127.0.0.1:9/a.bin", "md5:0")], None)
    with pytest.raises(
        (ConfigError, LayerError), match=r"no a\.bin in .*, which some needs; get it from"
    ):
        obtain("some", [remote], str(tmp_path))
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises((ConfigError, LayerError), match="is not the published file"):
        obtain("some", [remote], str(tmp_path))
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path / "file"))
    with pytest.raises((ConfigError, LayerError), match="cannot write to"):
        obtain("some", [remote], None)
