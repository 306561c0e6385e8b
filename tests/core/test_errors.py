"""Errors in words."""

from dptrain.core.errors import DataError, first_line, path_error, printable


def test_words():
    assert str(DataError("no file", "path")) == "path: no file"
    assert str(DataError("no file")) == "no file"
    assert path_error("gone").about == "path"
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 999))) == 200
    assert printable("a\x1b[2J\x07") == "a\\x1b[2J\\x07"
