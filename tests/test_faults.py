"""Some of the faults of scripts/faults.py; all of them under -m slow."""

import shutil
import sys

import pytest

from scripts import faults

needs_compiler = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not (shutil.which("cc") or shutil.which("gcc")),
    reason="needs Linux and a C compiler",
)


@needs_compiler
@pytest.mark.long
def test_faults_of_the_disk_end_in_one_line_and_leave_nothing():
    tried, wrong = faults.all_trials(every=173, offset=7)
    assert tried > 10
    assert not wrong


@pytest.mark.slow
@needs_compiler
def test_all_faults_of_the_disk():
    assert not faults.all_trials(every=1)[1]
