"""dptrain <command> [key=value ...]"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from dptrain import __version__

DESCRIPTION = """Differentially private training with built-in attack evaluation.

commands:
  sweep      train at each epsilon, attack every model, chart privacy against utility
  attack     every membership attack on anyone's scores
  calibrate  the noise for a target epsilon or attack risk, or what a noise multiplier buys
  advise     which setting of a finished sweep meets a demand, and how sure that is
  list       data sets, models, defences, attacks and experiments
"""

SWEEP = """usage: dptrain sweep [key=value ...]

Train every setting (no DP, and DP-SGD at each epsilon), attack every model with the others as its shadows, and write
tables, figures, report.html, metrics.json and TensorBoard to results/<name> under the current folder.
The same command goes on after Ctrl-C or a kill; a finished sweep is only printed again.

examples:
  dptrain sweep experiment=quickstart
  dptrain sweep experiment=quickstart epsilons=[inf,8,2,0.5] models_per_setting=16
  dptrain sweep name=linear model=logistic epsilons=[inf,4] output=out/linear
  dptrain sweep experiment=quickstart attacks=[loss,lira]       trains nothing that is trained

keys (default):
"""


ATTACK = """usage: dptrain attack scores=FILE [key=value ...]

Judge anyone's models: membership attacks on what they say about examples, with intervals, refusals and lower bounds of epsilon. Needs
no torch. Exit code 1 where something is measured above `claim`, or where the inputs themselves tell members from the rest.

FILE.npz holds the arrays
  logits [M,N,C] or [M,N,Q,C]  of M models, N examples, Q queries, C classes; or probabilities of the same shape;
                               or loss or confidence (of the true class) [M,N] or [M,N,Q] alone. [N,C] and [N] are one model
  labels [N]                   0..C-1; may be absent with loss or confidence
  membership [M,N]             1 where the model trained on the example
  targets, ids [N], inputs     optional: models to attack (default all), names of the examples, the examples
  population_logits, ...       optional: the same models on examples that none trained on; population_labels, population_inputs
  jittered_logits, noisy_logits, augmented_logits [M,N,T,C], gradient_norm, gradient_canary [M,N], trajectory_loss [M,N,E]
or, for one target whose shadow models have examples of their own,
  target_logits, target_labels, target_member, shadow_logits, shadow_labels, shadow_member
FILE.csv has the columns id, member, and loss, confidence or label, p0, p1, ...; with a column model, of several models.

examples:
  dptrain attack scores=my.npz
  dptrain attack scores=my.csv attacks=[loss,confidence] format=json
  dptrain attack scores=my.npz claim=8 delta=1e-5 output=results/my

keys (default):
"""


CALIBRATE = """usage: dptrain calibrate TARGET n=N batch_size=B epochs=E [key=value ...]

The least noise of DP-SGD for one target, never above it: epsilon, max_advantage, or max_tpr at at_fpr (Kulynych et al. 2024). Or, given
noise_multiplier, the other way round. Either way the answer is everything that the noise buys.

examples:
  dptrain calibrate epsilon=2 n=60000 batch_size=256 epochs=20
  dptrain calibrate max_tpr=0.02 at_fpr=0.01 n=60000 batch_size=256 epochs=20 delta=1e-6
  dptrain calibrate max_advantage=0.1 n=60000 batch_size=256 epochs=20 format=json
  dptrain calibrate noise_multiplier=0.7 sample_rate=0.004 steps=11250

keys (default):
"""


ADVISE = """usage: dptrain advise run=FOLDER [key=value ...]

Which setting of a finished sweep meets a demand at the safe end of its intervals, the runner-up, the frontiers against measured and
proven risk, and what these data cannot tell. Exit code 1 where no setting meets the demand for certain.

examples:
  dptrain advise run=results/quickstart max_tpr_at_1pct_fpr=0.05
  dptrain advise run=results/quickstart min_accuracy=0.85
  dptrain advise run=results/quickstart max_epsilon=4 format=json

keys (default):
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a contradiction or failure, 2 a wrong configuration, 3 the machine failed (a full disk, no
    permission, no memory), 130 interrupted."""
    parser = argparse.ArgumentParser(
        "dptrain", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="version", version=f"dptrain {__version__}")
    parser.add_argument("command", nargs="?")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    try:
        return _run(options.command, options.rest, options.help)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("dptrain: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _run(command: str | None, rest: Sequence[str], help_wanted: bool) -> int:
    # Every import waits until here: help answers at once, and Ctrl-C while torch loads is no traceback.
    from dptrain.types import ConfigError

    commands = {"sweep": _sweep, "attack": _attack, "calibrate": _calibrate, "advise": _advise, "list": _list}
    if help_wanted or command is None:
        print("usage: dptrain <command> [key=value ...]\n\n" + DESCRIPTION + "\ndptrain <command> --help tells more.")
        return 0
    try:
        if command not in commands:
            raise ConfigError("", f"unknown command {command!r}; choose from {', '.join(commands)}")
        return commands[command](rest)
    except ConfigError as error:
        _say(f"error: {error}")
        return 2
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no memory is left"
        name = getattr(error, "filename", None)
        where = f" ({name})" if name else ""
        _say(f"stopped: {reason}{where}. {KEPT}")
        return 3


KEPT = "What was finished is kept: mend that, and the same command goes on from there."


def _say(text: str) -> None:
    """A line on standard error, whatever is in it."""
    from dptrain.types import printable

    print(f"dptrain: {printable(text)}", file=sys.stderr)


def _sweep(rest: Sequence[str]) -> int:
    if "--help" in rest or "-h" in rest:
        from dptrain import config

        print(SWEEP + "\n".join(_keys(config.load("sweep", []))))
        return 0
    from dptrain import allocator, config

    chosen = config.load("sweep", list(rest))
    allocator.keep_memory()
    from dptrain import report  # these load torch: a wrong key has been answered by now
    from dptrain.executor import Interrupted, WorkerDied, no_memory
    from dptrain.pipeline import sweep
    from dptrain.statement import as_lines

    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        result = sweep(chosen)
    except Interrupted:
        print("dptrain: stopped, everything saved; the same command goes on from here", file=sys.stderr)
        return 130
    except WorkerDied as error:
        _say(f"stopped: {error}. {KEPT}")
        return 3
    except RuntimeError as error:
        if not no_memory(error):
            raise
        raise MemoryError("no memory is left; use training.physical_batch=64, or fewer models side by side (training.width=1)") from None
    print(report.table(*report.summary(result.rows)) + "\n")
    print("\n".join(report.legend(result.rows)))
    for name, parts in result.statements.items():
        print(f"\n{name}\n  " + "\n  ".join(as_lines(parts)))
    folder = result.folder
    print(
        f"\n{result.trained} models trained now. Report: {folder}/report.html; numbers: {folder}/metrics.json; charts: {folder}/frontier.png, {folder}/roc.png"
    )
    print(f"tensorboard --logdir {folder}/tensorboard")
    alarms = report.warnings(result.rows)
    for line in alarms:
        _say(line)
    return 1 if alarms else 0


def _attack(rest: Sequence[str]) -> int:
    from dptrain import config

    if "--help" in rest or "-h" in rest:
        print(ATTACK + "\n".join(_keys(config.load_attack(["scores=FILE"]))))
        return 0
    chosen = config.load_attack(list(rest))
    from dptrain import report
    from dptrain.foreign import judge_file

    result = judge_file(chosen)
    if chosen.format == "json":
        print(result.json())
    else:
        print(report.table(*report.attacks(result.rows, chosen.name)) + "\n")
        print("\n".join(report.legend(result.rows)))
        if result.folder:
            print(f"Report: {result.folder}/report.html; numbers: {result.folder}/metrics.json")
    alarms = report.warnings(result.rows)
    for line in alarms:
        _say(line)
    return 1 if alarms else 0


def _advise(rest: Sequence[str]) -> int:
    from dptrain import config

    if "--help" in rest or "-h" in rest:
        print(ADVISE + "\n".join(_keys(config.load_advise(["run=FOLDER"]))))
        return 0
    chosen = config.load_advise(list(rest))
    from dptrain.advice import advise

    found = advise(chosen)
    print(found.json() if chosen.format == "json" else found.text())
    return 0 if found.meeting or not found.demands else 1


def _calibrate(rest: Sequence[str]) -> int:
    from dptrain import config

    if "--help" in rest or "-h" in rest:
        print(CALIBRATE + "\n".join(_keys(config.load_calibrate(["epsilon=1", "n=60000", "batch_size=256", "epochs=20"]))))
        return 0
    from dptrain import calibration

    chosen = config.load_calibrate(list(rest))
    answer = calibration.answer(chosen)
    print(answer.json() if chosen.format == "json" else answer.table())
    return 0


def _list(rest: Sequence[str]) -> int:
    if "--help" in rest or "-h" in rest:
        print("usage: dptrain list\n\nData sets, models, defences, attacks and experiments, with one line each.")
        return 0
    from dptrain import config
    from dptrain.types import ConfigError, printable

    if rest:
        raise ConfigError(rest[0], "dptrain list takes no arguments; remove it")
    titles = {"dataset": "data sets", "model": "models", "defence": "defences", "attacks": "attacks", "experiment": "experiments"}
    for group, title in titles.items():
        print(f"{title} ({group}=...)")
        for name in config.groups()[group]:
            print(f"  {name:<18} {config.summary(group, name)}")
        for name, package in config.added(group):
            print(f"  {printable(name):<18} of the package {printable(package)}")
    return 0


def _keys(default: Any) -> list[str]:
    """A line of help for every key of a configuration, with its default."""
    lines = []
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            lines += [
                _key(f"{field.name}.{inner.name}", getattr(value, inner.name), inner.metadata["help"])
                for inner in dataclasses.fields(value)
            ]
        elif field.name in ("defence", "attacks", "model"):
            lines.append(_key(field.name, ",".join(value) if field.name != "model" else value["name"], field.metadata["help"]))
            nested = value.items() if field.name != "model" else [(None, {key: item for key, item in value.items() if key != "name"})]
            lines += [
                _key(".".join(filter(None, [field.name, name, key])), item, "") for name, options in nested for key, item in options.items()
            ]
        else:
            lines.append(_key(field.name, list(value) if isinstance(value, tuple) else value, field.metadata["help"]))
    return lines


def _key(name: str, value: object, text: str) -> str:
    return f"  {f'{name} ({value})':<52} {text}".rstrip()
