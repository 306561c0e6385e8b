"""Files of tables: CSV, Parquet, Excel and OpenML's. Each is read whole to a frame, and the frame
becomes examples.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dptrain.config.schema import DatasetConfig
from dptrain.core.errors import DataError, first_line, path_error
from dptrain.core.limits import require_memory
from dptrain.data.download import digest
from dptrain.data.splits import Source
from dptrain.data.tables import require_columns, table_source

DELIMITERS = ",;\t|"
LONGEST_LINE = 10_000_000


def csv_frame(config: DatasetConfig) -> pd.DataFrame:
    """Every value as text; a file whose name ends in .gz is unpacked."""
    return _read_csv(_path(config, "FILE.csv"), config.header)


def excel_frame(config: DatasetConfig) -> pd.DataFrame:
    """Every value of the first sheet as text."""
    path = _path(config, "FILE.xlsx")
    try:
        with zipfile.ZipFile(path) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
        # A cell of some letters becomes an object of Python.
        require_memory(10 * unpacked, path_error, f"{path}, unpacked,")
        frame = pd.read_excel(path, dtype=str, keep_default_na=False, engine="openpyxl")
    except DataError:
        raise
    except ImportError:
        fix = "pip install 'dptrain[excel]', or save the sheet as CSV"
        raise DataError(f"excel needs openpyxl; {fix}", "name") from None
    except Exception as error:  # openpyxl has many for a file that is not what it should be
        reason = f"{path} cannot be read ({first_line(error)})"
        raise DataError(f"{reason}; give an .xlsx file", "path") from None
    return frame


def parquet_frame(config: DatasetConfig) -> pd.DataFrame:
    path = _path(config, "FILE.parquet")
    try:
        import pyarrow.parquet

        about = pyarrow.parquet.read_metadata(path)
        require_columns([], about.num_columns)
        require_memory(8 * about.num_rows * about.num_columns, path_error, f"{path}, unpacked,")
        # Else one null makes floats of a whole column, and large whole numbers run together.
        frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except DataError:
        raise
    except ImportError:
        raise DataError(
            "parquet needs pyarrow; pip install 'dptrain[parquet]', or convert the file to CSV",
            "name",
        ) from None
    except Exception as error:  # pyarrow has many for a file that is not what it should be
        raise DataError(
            f"{path} cannot be read ({first_line(error)}); give a Parquet file", "path"
        ) from None
    return frame


def openml_frame(config: DatasetConfig) -> pd.DataFrame:
    """scikit-learn's fetcher, which verifies the checksum of OpenML's own record, and its cache."""
    from sklearn.datasets import fetch_openml

    if config.number is None:
        fix = "openml needs the number of a data set; give number=1590, which is adult"
        raise DataError(fix, "number")
    try:
        bunch = fetch_openml(
            data_id=config.number, as_frame=True, parser="auto", data_home=config.path
        )
    except Exception as error:  # of the network, of OpenML, of its file
        reason = f"OpenML's data set {config.number} cannot be had ({first_line(error)})"
        raise DataError(
            f"{reason}; go online once, or give path=FOLDER of scikit-learn's cache", "number"
        ) from None
    frame: pd.DataFrame = bunch.frame
    frame.attrs["target"] = (bunch.target_names or [None])[0]
    return frame


FRAMES: dict[str, Callable[[DatasetConfig], pd.DataFrame]] = {
    "csv": csv_frame,
    "excel": excel_frame,
    "parquet": parquet_frame,
    "openml": openml_frame,
}
"""The kinds of files, by the name of the data set."""


def tabular(
    read: Callable[[DatasetConfig], pd.DataFrame],
) -> Callable[[DatasetConfig, int], Source]:
    """A data set from what reads its table. attrs["target"] of the frame is its usual target;
    attrs["digest"], of its files, stands for a published table, which has no other.
    """

    def source(config: DatasetConfig, seed: int) -> Source:
        frame = read(config)
        return table_source(frame, aimed(config, frame), seed, _digest(config, frame))

    return source


def aimed(config: DatasetConfig, frame: pd.DataFrame) -> DatasetConfig:
    """The same with the usual target of a table, where none is given. Raises DataError for another
    one of a published table.
    """
    usual = frame.attrs.get("target")
    if "digest" in frame.attrs and config.target not in (None, usual):
        raise DataError(f"{config.name} has one target, {usual}; leave it out", "target")
    return dataclasses.replace(config, target=config.target or usual)


def _digest(config: DatasetConfig, frame: pd.DataFrame) -> str:
    """Of the file; of what has none of the table itself."""
    if "digest" in frame.attrs:
        return str(frame.attrs["digest"])
    if config.name in FRAMES and config.name != "openml" and config.path is not None:
        return digest(Path(config.path), "sha256")
    hashes = pd.util.hash_pandas_object(frame.astype(str)).to_numpy()
    return hashlib.sha256(repr(list(frame.columns)).encode() + hashes.tobytes()).hexdigest()


def _path(config: DatasetConfig, example: str) -> Path:
    if config.path is None:
        raise DataError(f"{config.name} needs a file; give path={example} target=COLUMN", "path")
    if not Path(config.path).is_file():
        raise DataError(f"there is no file {config.path}; give path={example}", "path")
    require_memory(2 * Path(config.path).stat().st_size, path_error, f"reading {config.path}")
    return Path(config.path)


def _unpacked_size(path: Path) -> int:
    """Bytes of a file once unpacked, without holding them."""
    with gzip.open(path) as file:
        return sum(iter(lambda: len(file.read(1 << 20)), 0))


def _read_csv(path: Path, header: bool) -> pd.DataFrame:
    """Every value as text. The delimiter is the one of DELIMITERS that stands most often in the
    first line.
    """
    try:
        packed = path.suffix == ".gz"
        if packed:
            require_memory(2 * _unpacked_size(path), path_error, f"reading {path}, unpacked,")
        opened = gzip.open if packed else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            first = file.readline(LONGEST_LINE + 1)
            if len(first) > LONGEST_LINE:
                raise ValueError(f"its first line is longer than {LONGEST_LINE:,} characters")
            if "\0" in first or not first.strip():
                raise ValueError("its first line is empty or not text")
            delimiter = max(DELIMITERS, key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            names = [name.strip() for name in next(reader)]
            require_columns(names if header else [], len(names))
            # Pandas would take the first cell for a name of the row, and shift the others.
            for row in reader:
                if len(row) > len(names):
                    message = (
                        f"line {reader.line_num} of {path} has {len(row)} cells, and the "
                        f"first line {len(names)}; mend it"
                    )
                    raise DataError(message, "path")
        frame = pd.read_csv(
            path,
            sep=delimiter,
            header=0 if header else None,
            names=names if header else [f"c{number}" for number in range(len(names))],
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
            on_bad_lines="error",
            low_memory=False,
        )
    except DataError:
        raise
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is not UTF-8 text; convert it, such as with iconv -t UTF-8", "path"
        ) from None
    except Exception as error:  # pandas and csv have many
        raise DataError(
            f"{path} cannot be read as CSV ({first_line(error)}); mend it", "path"
        ) from None
    return frame
