"""dptrain <command> [key=value ...]"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dptrain import __version__

if TYPE_CHECKING:
    from dptrain.config.commands import TrainConfig, TuneConfig
    from dptrain.config.schema import Config
    from dptrain.evaluation.rows import Row
    from dptrain.papers.reproduce import Outcome
    from dptrain.pipeline.outputs import Result
    from dptrain.release.final import Final
    from dptrain.release.tune import Tuned
    from dptrain.report.record import Record

Trained = TypeVar("Trained")

# Imports wait until a command needs them: help answers at once, and Ctrl-C while torch loads is no
# traceback.

USAGE = """usage: dptrain <command> [key=value ...]

Differentially private training with built-in attack evaluation.

commands:
{commands}

dptrain <command> --help tells more."""

SWEEP = """usage: dptrain sweep [options] [key=value ...]

Train every setting (no DP, and DP-SGD at each epsilon), attack every model with the others as its
shadows, and write tables, figures, report.html, metrics.json and TensorBoard to results/<name>
under the current folder. The same command goes on after Ctrl-C or a kill; a finished sweep is only
printed again.

examples:
  dptrain sweep experiment=quickstart
  dptrain sweep experiment=quickstart epsilons=[inf,8,2,0.5] models_per_setting=16
  dptrain sweep name=linear model=logistic epsilons=[inf,4] output=out/linear
  dptrain sweep experiment=quickstart attacks=[loss,lira]    trains nothing that is trained
  dptrain sweep experiment=quickstart dry_run=true           what it would train, spend and take
  dptrain sweep experiment=quickstart executor=ray           on a Ray cluster; executor=slurm too
  dptrain sweep -m model=mlp,logistic seed=0,1               four sweeps, one table over all

options:
  --statements       print the privacy statements whole
  --quiet            print nothing but warnings and errors
  --cfg              print the composed configuration and stop
  --config-dir DIR   add a folder with YAML files of your own: DIR/experiment, DIR/dataset, ...
  -m, --multirun     run each combination of values that commas part, in a folder of its own,
                     through Hydra's launcher (hydra/launcher=joblib where that is installed)

keys (default):
"""

ATTACK = """usage: dptrain attack scores=FILE [key=value ...]

Membership attacks on what anyone's models say about examples, with intervals, refusals and lower
bounds of epsilon. Needs no torch. Exit code 1 where something is measured above `claim`, or where
the inputs themselves tell members from the rest.

FILE.npz holds the arrays
  logits [M,N,C] or [M,N,Q,C]  of M models, N examples, Q queries, C classes; or probabilities of
                               the same shape; or loss or confidence (of the true class) [M,N] or
                               [M,N,Q] alone. [N,C] and [N] are a single model
  labels [N]                   0..C-1; may be absent with loss or confidence
  membership [M,N]             1 where the model trained on the example
  targets, ids [N], inputs     optional: models to attack (default all), names of the examples, the
                               examples
  population_logits, ...       optional: the same models on examples that none trained on;
                               population_labels, population_inputs
  jittered_logits, noisy_logits, augmented_logits [M,N,T,C], gradient_norm, gradient_canary [M,N],
                               trajectory_loss [M,N,E]
or, for one target whose shadow models have examples of their own,
  target_logits, target_labels, target_member, shadow_logits, shadow_labels, shadow_member
FILE.csv has the columns id, member, and loss, confidence or label, p0, p1, ...; with a column
model, of several models.

examples:
  dptrain attack scores=my.npz
  dptrain attack scores=my.csv attacks=[loss,confidence] format=json
  dptrain attack scores=my.npz claim=8 delta=1e-5 output=results/my

keys (default):
"""

CALIBRATE = """usage: dptrain calibrate TARGET n=N batch_size=B epochs=E [key=value ...]

The least noise of DP-SGD for one target, never above it: epsilon, max_advantage, or max_tpr at
at_fpr (Kulynych et al. 2024). Or, given noise_multiplier, the other way round. Either way the
answer is everything that the noise buys.

examples:
  dptrain calibrate epsilon=2 n=60000 batch_size=256 epochs=20
  dptrain calibrate max_tpr=0.02 at_fpr=0.01 n=60000 batch_size=256 epochs=20 delta=1e-6
  dptrain calibrate max_advantage=0.1 n=60000 batch_size=256 epochs=20 format=json
  dptrain calibrate noise_multiplier=0.7 sample_rate=0.004 steps=11250
  dptrain calibrate epsilon=4 trials=20 n=60000 batch_size=256 epochs=20    tuned, then given away

keys (default):
"""

ADVISE = """usage: dptrain advise run=FOLDER [key=value ...]

Which setting of a finished sweep meets a demand at the safe end of its intervals, the runner-up,
the frontiers against measured and proven risk, and what these data cannot tell. Exit code 1 where
no setting meets the demand for certain.

examples:
  dptrain advise run=results/quickstart max_tpr_at_1pct_fpr=0.05
  dptrain advise run=results/quickstart min_accuracy=0.85
  dptrain advise run=results/quickstart max_epsilon=4 format=json
  dptrain advise run=RUN where="accuracy >= 0.7 of sex=Female, tpr_at_fpr_0.001 <= 0.01"

keys (default):
"""

SHOW = """usage: dptrain show run=FOLDER [--statements]

The table of a finished sweep, what it says in three sentences, and what is claimed of each setting.
It trains and measures nothing.

examples:
  dptrain show run=results/quickstart
  dptrain show run=results/quickstart --statements

keys (default):
"""

REPORT = """usage: dptrain report run=FOLDER [key=value ...]
       dptrain report runs=[FOLDER,FOLDER,...] [output=FOLDER] [key=value ...]

Writes report.html, the charts and TensorBoard's files of a finished sweep anew, or of several side
by side, from metrics.json and curves.json in their folders. It trains and measures nothing.

export=[...] writes FOLDER/exports/FORMAT: every number as csv, json or parquet, every table as
latex (booktabs), every figure as svg or pdf in the width of a paper's column, and runs of mlflow
and of wandb (offline), one a sweep and one a setting. compliance=true writes FOLDER/compliance: the
hazards of NIST SP 800-226, each answered from numbers or left to the organisation, and for each
setting a model card and an entry of OpenDP's registry of deployments.

examples:
  dptrain report run=results/quickstart
  dptrain report run=results/quickstart export=[csv,latex,pdf]
  dptrain report run=results/quickstart compliance=true
  dptrain report runs=[results/quickstart,results/biopsies] output=results/both

keys (default):
"""

TENSORBOARD = """usage: dptrain tensorboard run=FOLDER [key=value ...]

Starts TensorBoard on a finished sweep and prints its address, whose first page is the trade-off.

examples:
  dptrain tensorboard run=results/quickstart
  dptrain tensorboard run=results/quickstart port=7007

keys (default):
"""

STORE = """usage: dptrain store run=FOLDER [key=value ...]

What lies in the store of a sweep: trained models, scores, checkpoints of unfinished stacks, and the
ledger. action=verify reads every byte again, and exits with 1 where one is not what was written.
action=prune deletes what the last finished sweep in that folder did not use, such as the models of
another configuration; never the ledger, and no checkpoint. A private model that was pruned and is
asked for again is trained with other noise, and spends again.

examples:
  dptrain store run=results/quickstart
  dptrain store run=results/quickstart action=verify
  dptrain store run=results/quickstart action=prune

keys (default):
"""

INSPECT = """usage: dptrain inspect dataset.path=FILE [dataset.target=COLUMN] [key=value ...]

What a table holds, before anything is trained on it: the kind of every column as a sweep would take
it, missing and different values, columns that name rows, that repeat as people do, that hold dates
or that alone predict the target, the class balance, and the sizes of the splits. It looks at all
rows and prints counts of them: that is for the owner of the table. output=FILE.yaml writes the
kinds as a file for dataset.schema.

examples:
  dptrain inspect dataset.path=people.csv
  dptrain inspect dataset.path=people.csv dataset.target=income output=people.yaml
  dptrain inspect dataset=excel dataset.path=visits.xlsx dataset.target=outcome format=json

keys (default):
"""

TRAIN = """usage: dptrain train run=FOLDER setting=NAME [key=value ...]
       dptrain train setting=NAME [keys of dptrain sweep ...]

One model of one setting on all rows of the pool, to be given away: noise for the same epsilon is
calibrated anew for so many rows, the ledger is its own, and with dataset.canaries=N it is audited
on canaries made of population rows. FOLDER/model then holds what dptrain export writes. The same
command goes on after Ctrl-C or a kill. --quiet prints nothing but warnings and errors.

examples:
  dptrain train run=results/quickstart setting=dpsgd-8
  dptrain train run=results/quickstart setting=dpsgd-8 rows=pool_and_test output=out/final
  dptrain train dataset=csv dataset.path=people.csv dataset.target=income setting=dpsgd-2

keys (default):
"""

TUNE = """usage: dptrain tune epsilon=E KEY=VALUE,VALUE,... [key=value ...]

Choose by what the data say, at a price that is in the epsilon. Commas part the values of a key, and
every combination is a candidate. A random number of trials is drawn, each trains one candidate on
all rows of the pool, and the model that does best on the population is given away: epsilon covers
training and choice (Papernot and Steinke 2022). Keys are those of dptrain sweep; the setting is
DP-SGD. The same command goes on after Ctrl-C or a kill; to draw again is not covered. --quiet
prints nothing but warnings and errors.

examples:
  dptrain tune experiment=quickstart epsilon=4 defence.dpsgd.learning_rate=1,2,4
  dptrain tune experiment=quickstart epsilon=4 trials=10 training.batch_size=64,256 model=mlp,cnn
  dptrain tune dataset=csv dataset.path=people.csv dataset.target=income utility=auroc epsilon=2

keys (default):
"""

EXPORT = """usage: dptrain export run=FOLDER setting=NAME [key=value ...]

A model that a sweep trained, as a folder that anyone can load: parameters.safetensors, model.json
(architecture, preprocessing and class names as plain data), README.md with the privacy statement,
and predict.py, which needs torch and safetensors only. Such a model learnt from half of the pool;
dptrain train makes one of all of it.

examples:
  dptrain export run=results/quickstart setting=dpsgd-8
  dptrain export run=results/quickstart setting=dpsgd-8 model=3 output=out/model

keys (default):
"""

PREDICT = """usage: dptrain predict model=FOLDER data=FILE [key=value ...]

What an exported model says of new data, as CSV: the class, and the probability of every class. A
table needs the columns that the model was trained on, in any order, and may have others. No file of
FOLDER is run.

examples:
  dptrain predict model=results/quickstart/release/dpsgd-8/model data=new.npz
  dptrain predict model=out/model data=new.csv output=predictions.csv

keys (default):
"""

REPRODUCE = """usage: dptrain reproduce [NAME] [key=value ...]

Repeats a published result: prints what the paper has beside ours, with spread and verdict, and
writes both to results/papers/NAME. Without a name it lists the presets and how long each takes. A
finished one is only printed again; Ctrl-C loses nothing that was trained. Exit code 1 where it is
not reproduced.

examples:
  dptrain reproduce
  dptrain reproduce jayaraman2019_accounting
  dptrain reproduce song2021_location

keys (default):
"""

LIST = """usage: dptrain list

Data sets, models, defences, attacks and experiments, with one line each."""

FLAGS = {"show": "statements", "train": "quiet", "tune": "quiet"}
"""The one option of these commands."""

FINISHED = "What was finished is on disk: mend that, and the same command goes on from there."


@dataclass(frozen=True)
class Options:
    """What a command is given beside its keys. folders: of a user's YAML files."""

    statements: bool = False
    quiet: bool = False
    show_config: bool = False
    multirun: bool = False
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Command:
    """run: does it, and returns the exit code; least: overrides without which there are no
    defaults to show, None for a command without keys.
    """

    run: Callable[[Sequence[str], Options], int]
    summary: str
    help: str
    least: tuple[str, ...] | None = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a contradiction or failure, 2 a wrong
    configuration, 3 the machine failed (a full disk, no permission, no memory), 130 interrupted.
    """
    parser = argparse.ArgumentParser("dptrain", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="version", version=f"dptrain {__version__}")
    parser.add_argument("command", nargs="?")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    try:
        return _guarded(options.command, options.rest, options.help)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from the last checkpoint")
        return 130


def _guarded(name: str | None, rest: Sequence[str], help_wanted: bool) -> int:
    from dptrain.core.errors import ConfigError

    if help_wanted or name is None:
        commands = "\n".join(f"  {each:<11} {it.summary}" for each, it in COMMANDS.items())
        print(USAGE.format(commands=commands))
        return 0
    try:
        if name not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise ConfigError("", f"unknown command {name!r}; choose from {known}")
        command = COMMANDS[name]
        if "--help" in rest or "-h" in rest:
            print(command.help + "\n".join(keys_of(name, command)))
            return 0
        overrides, options = _options(name, rest)
        return command.run(overrides, options)
    except ConfigError as error:
        _say(f"error: {error}")
        return 2
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no memory is left"
        file = getattr(error, "filename", None)
        _say(f"stopped: {reason}{f' ({file})' if file else ''}. {FINISHED}")
        return 3


def _options(name: str, rest: Sequence[str]) -> tuple[list[str], Options]:
    """The overrides among a command's arguments, and its options. Raises ConfigError."""
    from dptrain.core.errors import ConfigError

    if name in FLAGS:
        flag = FLAGS[name]
        others = [each for each in rest if each != f"--{flag}"]
        is_given = len(others) < len(rest)
        return others, Options(flag == "statements" and is_given, flag == "quiet" and is_given)
    if name != "sweep":
        return list(rest), Options()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--statements", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--cfg", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--config-dir", type=Path, action="append", default=[])
    try:
        given, overrides = parser.parse_known_args(list(rest))
    except argparse.ArgumentError as error:
        raise ConfigError(str(error.argument_name), f"{error.message}; see --help") from None
    return overrides, Options(
        given.statements, given.quiet, given.cfg, given.multirun, tuple(given.config_dir)
    )


def _say(text: str) -> None:
    """A line on standard error, whatever is in it."""
    from dptrain.core.errors import printable

    print(f"dptrain: {printable(text)}", file=sys.stderr)


def _sweep(overrides: Sequence[str], options: Options) -> int:
    from dptrain.config import compose
    from dptrain.core import allocator

    if options.show_config:
        runs = [list(overrides)]
        if options.multirun:
            from dptrain.config import multirun

            runs = list(multirun.combinations(overrides, options.folders).values())
        print("---\n".join(compose.text("sweep", run, options.folders) for run in runs), end="")
        return 0
    if options.multirun:
        return _multirun(overrides, options)
    chosen = compose.load("sweep", overrides, folders=options.folders)
    if chosen.dry_run:
        return _print_forecast([chosen])
    allocator.keep_memory()
    result = _swept(chosen, options.quiet, shlex.join(["dptrain", "sweep", *overrides]))
    if result is None:
        return 130
    if options.quiet:
        return _alarms(result.rows)
    return _print_sweep(result, options.statements)


def _multirun(overrides: Sequence[str], options: Options) -> int:
    """Several sweeps, and a table over all. Every run is planned before any is trained."""
    from dptrain.config import multirun
    from dptrain.core import allocator
    from dptrain.pipeline.plan import plan
    from dptrain.report import tables

    configs = multirun.configurations(overrides, options.folders)
    if configs[0].dry_run:
        return _print_forecast(configs)
    for config in configs:
        plan(config)
    allocator.keep_memory()
    outcomes = multirun.launch(configs, partial(_swept_or_stop, quiet=options.quiet), overrides)
    finished = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    if finished and not options.quiet:
        rows = {result.folder.name: result.rows for result in finished}
        print(tables.table(*tables.several(rows, configs[0].utility)) + "\n")
        print(f"Each run has its report in {finished[0].folder.parent}/RUN/report.html.")
    alarms = [f"{each.folder}: {line}" for each in finished for line in tables.warnings(each.rows)]
    for line in alarms:
        _say(line)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return 1 if alarms else 0


def _print_forecast(configs: Sequence[Config]) -> int:
    from dptrain.pipeline import estimate
    from dptrain.pipeline.run import forecast

    for config in configs:
        print(f"{config.folder}: {estimate.text(forecast(config))}")
    return 0


def _swept_or_stop(chosen: Config, quiet: bool) -> Result:
    """A finished sweep. Raises KeyboardInterrupt where it was interrupted, its work saved, so that
    no other is begun.
    """
    result = _swept(chosen, quiet)
    if result is None:
        raise KeyboardInterrupt
    return result


def _swept(chosen: Config, quiet: bool, command: str = "") -> Result | None:
    """A finished sweep; None where it was interrupted, its work saved."""

    def run() -> Result:
        from dptrain.pipeline.run import sweep

        return sweep(chosen, not quiet, command)

    return _finished(run)


def _finished(train: Callable[[], Trained]) -> Trained | None:
    """What a training gives; None where it was interrupted, its work saved."""
    from dptrain.fleet.executors.base import Interrupted, NodeLost, WorkerDied, no_memory

    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return train()
    except Interrupted:
        _say("stopped, everything saved; the same command goes on from here")
        return None
    except NodeLost as error:
        raise OSError(f"{error}; see executor.retries and executor.memory_gib") from None
    except WorkerDied as error:
        raise OSError(f"{error}; use fewer workers (training.workers=1)") from None
    except RuntimeError as error:
        if not no_memory(error):
            raise
        fix = "use training.physical_batch=64, or fewer models side by side (training.width=1)"
        raise MemoryError(f"no memory is left; {fix}") from None


def _print_sweep(result: Result, statements: bool) -> int:
    code = _print_record(result.folder, result.record, statements)
    print(f"{result.trained} models trained now.")
    return code


def _print_record(folder: Path, record: Record, statements: bool) -> int:
    """A finished run: the table, what it says, what is claimed, and where the rest lies."""
    from dptrain.report import tables
    from dptrain.report.choices import said_alike
    from dptrain.report.reading import reading
    from dptrain.report.statement import claim, shared

    print(tables.table(*tables.summary(record.rows, record.utility)) + "\n")
    said = [*reading(record), "", *record.remarks, *tables.legend(record.rows)]
    said += tables.said_of_constant(record.differences, record.utility)
    said += said_alike(record.differences.get(record.utility, {}), record.utility)
    said += [*tables.said_of_smallest(record.groups), *tables.said_of_attributes(record.rows), ""]
    print("\n".join(said))
    if statements:
        common, rest = shared(record.statements)
        if common:
            print("every private setting\n  " + "\n  ".join(_entries(common)) + "\n")
        for name, text in rest.items():
            print(f"{name}\n  " + "\n  ".join(_entries(text)) + "\n")
    else:
        width = max(map(len, record.statements), default=0)
        for name, statement in record.statements.items():
            print(f"{name:<{width}}  {claim(statement)}")
        print("The privacy statements stand in report.html; --statements prints them.\n")
    print(
        f"Report: {folder}/report.html; numbers: {folder}/metrics.json; charts: "
        f"{folder}/frontier.png, {folder}/roc.png, and {_tensorboard_of(folder)}"
    )
    return _alarms(record.rows)


def _entries(text: dict[str, str]) -> list[str]:
    return [f"{heading}: {sentence}" for heading, sentence in text.items()]


def _alarms(rows: Sequence[Row]) -> int:
    """Say what must not be overlooked; the exit code."""
    from dptrain.report import tables

    lines = tables.warnings(rows)
    for line in lines:
        _say(line)
    return 1 if lines else 0


def _attack(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.commands import Format

    chosen = compose.load("attack", overrides)
    from dptrain.pipeline.foreign_scores import evaluate_file
    from dptrain.report import tables

    result = evaluate_file(chosen)
    if chosen.format == Format.JSON:
        print(result.json())
    else:
        print(tables.table(*tables.attacks(result.rows, chosen.name)) + "\n")
        print("\n".join(tables.legend(result.rows, claimed=True)))
        if result.folder:
            folder = result.folder
            print(f"Report: {folder}/report.html; numbers: {folder}/metrics.json")
    return _alarms(result.rows)


def _advise(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.commands import Format
    from dptrain.config.keys import named

    chosen = compose.load("advise", overrides)
    from dptrain.report.advice import advise

    with named():
        advice = advise(chosen)
    print(advice.json() if chosen.format == Format.JSON else advice.text())
    return 0 if advice.meeting or not (advice.demands or advice.where) else 1


def _show(overrides: Sequence[str], options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.keys import named

    chosen = compose.load("show", overrides)
    from dptrain.report.record import read

    folder = Path(chosen.run)
    with named():
        record = read(folder)
    return _print_record(folder, record, options.statements)


def _tensorboard_of(folder: Path) -> str:
    """A command that one can paste, whatever the folder is called."""
    return f"dptrain tensorboard run={shlex.quote(str(folder))}"


def _report(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.keys import named

    chosen = compose.load("report", overrides)
    from dptrain.pipeline.outputs import report

    with named():
        written = report(chosen)
    folder = chosen.folder
    print(f"Report: {folder}/report.html; TensorBoard: {_tensorboard_of(folder)}")
    for path in written:
        print(f"Written: {path}")
    return 0


def _tensorboard(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.keys import named

    chosen = compose.load("tensorboard", overrides)
    from dptrain.report.charts import tensorboard

    with named():
        address = tensorboard.serve(Path(chosen.run), chosen.host, chosen.port)
    print(f"TensorBoard at {address}; Ctrl-C stops it", flush=True)
    tensorboard.wait()
    return 0


def _calibrate(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.commands import Format
    from dptrain.config.keys import named
    from dptrain.privacy import calibration

    chosen = compose.load("calibrate", overrides)
    with named():
        answer = calibration.answer(chosen)
    print(answer.json() if chosen.format == Format.JSON else answer.table())
    return 0


def _store(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.commands import Format
    from dptrain.config.keys import named

    chosen = compose.load("store", overrides)
    from dptrain.pipeline.inventory import inventory, text

    with named():
        contents = inventory(chosen)
    print(contents.json() if chosen.format == Format.JSON else text(contents))
    return 0 if contents.undamaged else 1


def _inspect(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.commands import Format
    from dptrain.config.keys import named

    chosen = compose.load("inspect", overrides)
    from dptrain.data.inspection import inspect, schema
    from dptrain.report import inspection

    with named():
        result = inspect(chosen)
    if chosen.output is not None:
        from dptrain.core.store import write_atomic

        write_atomic(Path(chosen.output), schema(chosen, result).encode())
    print(inspection.json(result) if chosen.format == Format.JSON else inspection.text(result))
    if chosen.output is not None:
        fix = f"mend them, and use dataset.schema={chosen.output}"
        _say(f"the kinds stand in {chosen.output}; {fix}")
    return 0


def _train(overrides: Sequence[str], options: Options) -> int:
    from dptrain.config import compose
    from dptrain.core import allocator

    chosen = compose.load("train", overrides)
    allocator.keep_memory()
    final = _finished(lambda: _final(chosen, options.quiet))
    if final is None:
        return 130
    if options.quiet:
        return _alarms(final.rows)
    from dptrain.report import tables
    from dptrain.report.statement import claim

    head, body = tables.measures(final.rows)
    print((tables.table(head, body) if body else "Not measured: no test rows are left.") + "\n")
    if any(row.examples == "canaries" for row in final.rows):
        audited = tables.attacks(final.rows, final.setting, "canaries")
        print(f"On its canaries:\n{tables.table(*audited)}\n")
    print(f"{final.setting}  {claim(final.statement)}")
    print(f"Model: {final.model}; its statement stands in {final.model}/README.md")
    return _alarms(final.rows)


def _final(chosen: TrainConfig, quiet: bool) -> Final:
    from dptrain.release.train import train

    return train(chosen, show_progress=not quiet)


def _tune(overrides: Sequence[str], options: Options) -> int:
    from dptrain.config import multirun
    from dptrain.core import allocator

    candidates = multirun.candidates(overrides)
    allocator.keep_memory()
    tuned = _finished(lambda: _tuned(candidates, options.quiet))
    if tuned is None:
        return 130
    if options.quiet:
        return _alarms(tuned.final.rows)
    from dptrain.report import tables
    from dptrain.report.statement import claim, rounded_up

    utility = next(iter(candidates.values())).utility
    print(tables.table(*tables.trials(tuned.candidates, tuned.trials, tuned.chosen, utility)))
    print("How many trials there were, and their scores, are not to be given away.\n")
    print(tables.table(*tables.measures(tuned.final.rows)) + "\n")
    choice, folder = tuned.final.statement.selection, tuned.final.model
    assert choice is not None
    print(
        f"{claim(tuned.final.statement)}; this model alone: epsilon {rounded_up(choice.alone, 2)}"
    )
    print(f"Model: {folder}; its statement stands in {folder}/README.md")
    return _alarms(tuned.final.rows)


def _tuned(candidates: Mapping[str, TuneConfig], quiet: bool) -> Tuned:
    from dptrain.release.tune import tune

    return tune(candidates, show_progress=not quiet)


def _export(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.keys import named

    chosen = compose.load("export", overrides)
    from dptrain.release.export import export

    with named():
        print(f"Model: {export(chosen)}")
    return 0


def _predict(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.keys import named

    chosen = compose.load("predict", overrides)
    from dptrain.release.predictions import predictions, text

    with named():
        lines = predictions(chosen)
    print(text(lines), end="") if chosen.output is None else print(f"Predictions: {chosen.output}")
    return 0


def _reproduce(overrides: Sequence[str], _options: Options) -> int:
    from dptrain.config import compose
    from dptrain.config.keys import named
    from dptrain.core import allocator

    first, *rest = overrides or ("paper=null",)
    chosen = compose.load("reproduce", [first if "=" in first else f"paper={first}", *rest])
    from dptrain.papers import presets
    from dptrain.papers.reproduce import reproduce
    from dptrain.report import tables

    if chosen.paper is None:
        print(tables.table(*presets.listed()))
        return 0
    allocator.keep_memory()
    folder = None if chosen.output is None else Path(chosen.output)

    def repeat() -> Outcome:
        with named():
            return reproduce(chosen.paper, folder, chosen.shrunk)

    outcome = _finished(repeat)
    if outcome is None:
        return 130
    print(outcome.text())
    return 0 if outcome.reproduced or chosen.shrunk else 1


def _list(arguments: Sequence[str], _options: Options) -> int:
    from dptrain.config import files
    from dptrain.core.errors import ConfigError, printable

    if arguments:
        raise ConfigError(arguments[0], "dptrain list takes no arguments; remove it")
    titles = {"dataset": "data sets", "model": "models", "defence": "defences"}
    titles |= {"attacks": "attacks", "experiment": "experiments"}
    titles |= {"executor": "executors"}
    for group, title in titles.items():
        print(f"{title} ({group}=...)")
        for name in files.groups()[group]:
            print(f"  {name:<18} {files.summary(group, name)}")
        for name, package in files.added(group):
            print(f"  {printable(name):<18} of the package {printable(package)}")
    return 0


def keys_of(name: str, command: Command) -> list[str]:
    """A line of help for every key of a command, with its default."""
    if command.least is None:
        return []
    from dptrain.config import compose
    from dptrain.config.fields import described

    default: Any = compose.load(name, command.least)
    return [
        f"  {f'{each.key} ({each.default})':<52} {each.help}".rstrip()
        for each in described(default)
    ]


COMMANDS = {
    "sweep": Command(
        _sweep, "train at each epsilon, attack every model, chart privacy against utility", SWEEP
    ),
    "attack": Command(
        _attack, "every membership attack on anyone's scores", ATTACK, ("scores=FILE",)
    ),
    "calibrate": Command(
        _calibrate,
        "the noise for a target epsilon or attack risk, or what a noise multiplier buys",
        CALIBRATE,
        ("epsilon=1", "n=60000", "batch_size=256", "epochs=20"),
    ),
    "advise": Command(
        _advise,
        "which setting of a finished sweep meets a demand, and how sure that is",
        ADVISE,
        ("run=FOLDER",),
    ),
    "show": Command(_show, "a finished sweep again, as its end printed it", SHOW, ("run=FOLDER",)),
    "report": Command(
        _report,
        "page and charts of finished sweeps anew, side by side, or for other tools",
        REPORT,
        ("run=FOLDER",),
    ),
    "tensorboard": Command(
        _tensorboard, "TensorBoard on a finished sweep", TENSORBOARD, ("run=FOLDER",)
    ),
    "train": Command(_train, "one model of one setting on all rows, to be given away", TRAIN),
    "tune": Command(
        _tune, "train candidates, and give the best away at a price", TUNE, ("epsilon=4",)
    ),
    "export": Command(
        _export,
        "a model of a sweep as a folder that anyone can load",
        EXPORT,
        ("run=FOLDER", "setting=NAME"),
    ),
    "predict": Command(
        _predict,
        "what an exported model says of new data",
        PREDICT,
        ("model=FOLDER", "data=FILE"),
    ),
    "reproduce": Command(
        _reproduce, "a published result repeated: paper beside ours, and a verdict", REPRODUCE
    ),
    "store": Command(
        _store, "list, verify or prune what lies in the store of a sweep", STORE, ("run=FOLDER",)
    ),
    "inspect": Command(_inspect, "what a table holds, before anything is trained on it", INSPECT),
    "list": Command(_list, "data sets, models, defences, attacks and experiments", LIST, None),
}
