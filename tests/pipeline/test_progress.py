"""Tests of pipeline.progress."""

import os
import re
import subprocess

import pytest

from tests.helpers.sweep import command


@pytest.mark.long
def test_progress_names_settings_models_and_time(tmp_path):
    ran = subprocess.run(
        command(tmp_path),
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
        check=True,
    )
    assert re.search(r"setting [12]/2 \S+, model", ran.stderr)
    assert re.search(r": 100%, [\d,.]+ steps/s, 0:00:\d\d gone", ran.stderr)
    assert ran.stderr.count("\n") < 20  # a line a minute, since nothing can be written over
    assert ran.stdout.startswith("mnist5k: 100 of 5,000 rows used")
