#!/usr/bin/env python
"""experiment=self_audit on the true package, and on copies whose trainer is broken on purpose; the
table goes to results/reference/self_audit/table.md.

A sound trainer must stay below its proof. A broken one must be measured above it, or refuse to run;
if one is neither, this exits 1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dptrain.evaluation.rows import Row  # noqa: E402
from dptrain.report.tables import cell, table  # noqa: E402
from scripts.mutants import apply, copied  # noqa: E402
from tests.mutants import CLIPPER, COINS, FLAT, STD, Mutant  # noqa: E402

OUT = ROOT / "results" / "reference" / "self_audit"
SHUFFLED = (
    "np.roll(np.flatnonzero(membership), -step * batch_size)[: round(int(membership.sum()) * "
    "batch_size / public_n)]"
)
UNCLIPPED = "Clipping.FLAT: lambda norms, clip: torch.ones_like(norms)"
TRAINER, ENGINES = "training/trainer", "training/gradients/base"
BROKEN = [
    Mutant("half the noise", TRAINER, STD, f"0.5 * {STD}", ""),
    Mutant("no clip", TRAINER, CLIPPER, CLIPPER.replace("ran.clip", "1e6"), ""),
    Mutant("clip at 2C", TRAINER, CLIPPER, CLIPPER.replace("ran.clip", "2 * ran.clip"), ""),
    Mutant("no clip in the engine", ENGINES, FLAT, UNCLIPPED, ""),
    Mutant("noise divided by B twice", TRAINER, STD, f"{STD} / ran.divisor", ""),
    Mutant("shuffled as Poisson", "core/streams", COINS, SHUFFLED, ""),
]
HEAD = [
    "trainer",
    "setting",
    "AUC on the canaries <= proof",
    "TPR @ 1% FPR <= proof",
    "epsilon, one run <= proof",
    "epsilon, GDP <= proof",
    "verdict",
]
METRICS = ("auc", "tpr_at_fpr_0.01", "epsilon_one_run", "epsilon_gdp")


def audit(package: Path, out: Path, *overrides: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit code, last line of complaint, rows."""
    command = [
        sys.executable,
        "-m",
        "dptrain",
        "sweep",
        "experiment=self_audit",
        f"output={out.name}",
        *overrides,
    ]
    # From the folder of the output, so that the record that is kept names no path of a machine.
    ran = subprocess.run(
        command,
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    record = out / "metrics.json"
    rows = json.loads(record.read_text())["rows"] if record.exists() else []
    return ran.returncode, (ran.stderr.strip().splitlines() or [""])[-1].strip(), rows


def lines(trainer: str, rows: list[dict[str, Any]]) -> list[list[str]]:
    found = []
    for setting in dict.fromkeys(row["setting"] for row in rows if row["defence"] == "dpsgd"):
        own = [Row.of(row) for row in rows if row["setting"] == setting]
        canaries = {
            row.metric.name: row
            for row in own
            if row.examples == "canaries" and row.attack == "gradient_canary"
        }
        above = [row for row in own if row.contradicted]
        verdict = (
            f"CAUGHT: {len(above)} measurements above the proof" if above else "below the proof"
        )
        found.append(
            [trainer, setting, *(cell(canaries.get(metric)) for metric in METRICS), verdict]
        )
    return found


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        code, complaint, rows = audit(ROOT, Path(temporary) / OUT.name)
        if not rows:
            print(complaint, file=sys.stderr)
            return 1
        shutil.copy(Path(temporary) / OUT.name / "metrics.json", OUT)
        body, failed = lines("sound", rows), ["sound"] if code else []
        for number, broken in enumerate(BROKEN):
            package = copied(Path(temporary) / f"copy{number}")
            apply(broken, package)
            code, complaint, rows = audit(
                package, Path(temporary) / f"out{number}", "epsilons=[8,4]"
            )
            found = lines(broken.name, rows) or [
                [broken.name, "all", "-", "-", "-", "-", f"REFUSED: {complaint[:90]}..."]
            ]
            body += found
            caught = code == 1 and any("CAUGHT" in line[-1] for line in found)
            refused = code == 2 and not rows and "dptrain: error" in complaint
            failed += [] if caught or refused else [broken.name]
    text = table(HEAD, body)
    (OUT / "table.md").write_text(text + "\n")
    print(text)
    print(
        f"not as it must be: {', '.join(failed)}"
        if failed
        else "sound trainers below the proof, broken ones caught or refused"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
