"""The errors of each layer. Only config and the command line know configuration keys, and attach
them (config/keys.py).
"""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run; `key` names the entry, the message says the fix."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}" if key else message)
        self.key, self.message = key, message


class LayerError(ValueError):
    """Something that a caller gave cannot be used; the message says the fix.

    `about` names the parameter of the layer that is wrong, such as `path` of a data set, and is
    empty where the message is about all of it.
    """

    def __init__(self, message: str, about: str = ""):
        super().__init__(f"{about}: {message}" if about else message)
        self.message, self.about = message, about


class ModelError(LayerError):
    """A model that cannot be built, or that must not be trained; `about` names an option."""


class DataError(LayerError):
    """Data that cannot be read or used; `about` names a field of the data set."""


def path_error(message: str) -> DataError:
    """The error for a file of data that cannot be read."""
    return DataError(message, "path")


class TrainingError(LayerError):
    """A way to train that does not fit the model or the data; `about` names a training option."""


class SettingError(LayerError):
    """A defence that cannot be planned or has failed; `about` names the defence, or its option."""


class AttackError(LayerError):
    """An unknown attack or option, or one that does not fit the model; `about` names it."""


class ScoresError(LayerError):
    """A file of scores that cannot be read, or that gives the membership away."""


class FolderError(LayerError):
    """A folder of results that cannot be written to."""


class LedgerError(LayerError):
    """A ledger that was altered or is gone: what was spent is not known."""


class RunError(LayerError):
    """A folder that holds no finished sweep, or none that answers the question."""


class ComparisonError(LayerError):
    """Runs that cannot be shown side by side."""


class FleetError(LayerError):
    """Models or measurements that this machine cannot hold; `about` names what to make smaller."""


class PluginError(LayerError):
    """Another installed package fails."""


class TargetError(LayerError):
    """A privacy target that cannot be reached or computed; `about` names the target."""


class PaperError(LayerError):
    """A preset of a paper that there is not, or a number of it that was refused."""


class ReleaseError(LayerError):
    """A model that cannot be given away or loaded, or data that do not fit it; `about` names the
    key.
    """


class Refusal(Exception):
    """A number that these data cannot support; the message is the reason, for the reader of the
    report.
    """


def first_line(error: Exception) -> str:
    """What an error says, in at most 200 letters of one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def printable(text: str) -> str:
    """A text of unknown origin for a terminal: what would not be printed, such as an escape, is
    spelled out.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
