"""Tables of texts: .txt, .jsonl, .csv and .parquet, row by row, so that memory does not grow with the file.

In a .txt file each line is a row with the one column `text`. Rows of .txt and .csv hold text only, as it stands in the
file. What is not UTF-8 is replaced by U+FFFD when it is written, and its row says so if it is the text.
"""
import codecs
import contextlib
import csv
import glob
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

FORMATS = (".txt", ".jsonl", ".csv", ".parquet")
OUT_FORMATS = FORMATS[1:]
N_ROWS = 1024  # of a parquet batch
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: in JSON, or a byte that is not UTF-8

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # by default a text may have no more than 131,072 characters


class Row(NamedTuple):
    """A row: its values by column, and what is wrong with the row as a whole."""

    values: dict[str, Any]
    error: str | None = None


class Source:
    """The files that a name stands for, as one table.

    Args:
        name: a path, a pattern with *, or a URL of either that fsspec opens (s3://..., https://...).

    Attributes:
        paths: list of str, in order.
        kind: ".txt", ".jsonl", ".csv" or ".parquet".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown format, several formats, or a kind of URL for which a package is not installed.
    """

    def __init__(self, name: str):
        import fsspec

        if os.path.exists(name):  # also where the name has a * or [ in it
            self.fs, self.paths = fsspec.filesystem("file"), [name]
        else:
            try:
                self.fs, path = fsspec.url_to_fs(name)
            except (ImportError, ValueError) as error:
                raise ValueError(f"{name}: {error}") from None
            self.paths = sorted(path for path in self.fs.glob(path) if not self.fs.isdir(path))
        if not self.paths:
            raise FileNotFoundError(f"{name}: there is no such file" + (", and none that fits the pattern"
                                                                        if glob.has_magic(name) else ""))
        kinds = {format_of(path, FORMATS) for path in self.paths}
        if len(kinds) > 1:
            raise ValueError(f"{name} stands for files of several formats, {', '.join(sorted(kinds))}: give one at a "
                             "time")
        self.kind, = kinds

    def rows(self) -> Iterator[Row]:
        """All rows, file after file; OSError or ValueError where a file cannot be read, with its name."""
        for path in self.paths:
            try:
                with self.fs.open(path, "rb", compression="infer") as file:
                    yield from READERS[self.kind](file)
            except (EOFError, OSError) as error:
                if getattr(error, "filename", None):
                    raise
                raise OSError(f"{path}: {error}") from None
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{path}: {error}") from None

    def types(self) -> dict[str, Any]:
        """The pyarrow type of each column, from .parquet; empty for all other formats, which do not say it."""
        if self.kind != ".parquet":
            return {}
        import pyarrow as pa
        import pyarrow.parquet as pq

        schemas = []
        for path in self.paths:
            with self.fs.open(path, "rb", compression="infer") as file:
                schemas.append(pq.read_schema(file))
        try:
            schema = pa.unify_schemas(schemas)
        except pa.ArrowException as error:
            raise ValueError(f"the files of {self.paths[0]}, ... do not have the same columns: {error}") from None
        return dict(zip(schema.names, schema.types))


def format_of(path: str, formats: Iterable[str]) -> str:
    """The ending of a path, without that of a compression: one of `formats`, else ValueError."""
    name, ending = os.path.splitext(path)
    if ending.lower() in (".gz", ".bz2", ".xz", ".zst"):
        ending = os.path.splitext(name)[1]
    if ending.lower() not in formats:
        wrong = f"{ending!r} is not a format" if ending else "the name has no ending"
        raise ValueError(f"{path}: {wrong}: it must end in {', '.join(formats)}")
    return ending.lower()


# --- in -----------------------------------------------------------------------------------------


def read_txt(file):
    for line in lines(file):
        yield Row({"text": line.decode("utf-8", errors="surrogateescape")})


def read_jsonl(file):
    for n, line in enumerate(lines(file), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row({}, f"line {n} is not JSON: {error}")
            continue
        if isinstance(values, dict):
            yield Row(values)
        else:
            yield Row({}, f"line {n} is not a JSON object, but {json.dumps(values)[:60]}")


def read_csv(file):
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)  # strict: a quote that does not end would swallow the rows after it
    try:
        columns = next(reader, None)
        if columns is None:
            raise ValueError("the file is empty: the first line of a .csv file has the names of its columns")
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise ValueError(f"the column {twice[0]!r} is there twice")
        for fields in reader:
            if not fields:  # an empty line
                continue
            values = dict.fromkeys(columns, "") | dict(zip(columns, fields))
            wrong = len(fields) != len(columns)
            yield Row(values, f"line {reader.line_num} has {len(fields)} fields where the header has {len(columns)}"
                      if wrong else None)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    finally:
        text.detach()


def read_parquet(file):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(N_ROWS):
            yield from map(Row, batch.to_pylist())
    except pa.ArrowInvalid as error:
        raise ValueError(f"not a parquet file, or a damaged one ({error})") from None


READERS = {".txt": read_txt, ".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}


def lines(file) -> Iterator[bytes]:
    """The lines of a binary file, without line ends and without a byte-order mark at the start."""
    for i, line in enumerate(file):
        if i == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def text_of(row: Row, column: str) -> tuple[str | None, str | None]:
    """(text, None) of a row, or (None, why it has none)."""
    text, error = row.values.get(column), row.error
    if error is not None:
        return None, error
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return None, f"the column {column!r} has no value"
    if text == "":
        return None, "the text is empty"
    if not isinstance(text, str):
        return None, f"the column {column!r} has a {type(text).__name__}, not a text"
    escaped = next((i for i, character in enumerate(text) if "\udc80" <= character <= "\udcff"), None)
    if escaped is not None:
        return None, f"not UTF-8: byte 0x{ord(text[escaped]) - 0xDC00:02X} after {escaped} characters"
    return text, None


# --- out ----------------------------------------------------------------------------------------


def arrow_type(name: str):
    """The pyarrow type of "string", "int64", "list of string", ..."""
    import pyarrow as pa

    return pa.list_(arrow_type(name[8:])) if name.startswith("list of ") else pa.type_for_alias(name)


class Columns:
    """The columns of a table and, for .parquet, the type of each, found out while the rows go by."""

    def __init__(self, typed: bool):
        self.typed = typed
        self.types: dict[str, Any] = {}  # name -> pyarrow type
        self.unseen: list[dict[str, Any]] = []

    def pass_on(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, each looked at."""
        for row in rows:
            for name in row.values:
                self.types.setdefault(name, None)
            if self.typed:
                self.unseen.append(row.values)
                if len(self.unseen) == N_ROWS:
                    self._infer()
            yield row
        if self.typed:
            self._infer()

    def _infer(self):
        import pyarrow as pa

        for name, known in self.types.items():
            try:
                new = pa.array([storable(values.get(name)) for values in self.unseen]).type
                both = [pa.schema([(name, kind)]) for kind in (known or new, new)]
                self.types[name] = pa.unify_schemas(both, promote_options="permissive").field(0).type
            except (pa.ArrowException, OverflowError):  # values of several types, or of none that Arrow has: as text
                self.types[name] = pa.string()
        self.unseen = []


def write_jsonl(file, rows, types):
    for row in rows:
        finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                  for name, value in row.items()}
        file.write(storable(json.dumps(finite, ensure_ascii=False, default=str) + "\n").encode("utf-8"))


def write_csv(file, rows, types):
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(storable, types))
    for row in rows:
        writer.writerow([cell(row.get(name)) for name in types])
    text.detach()


def write_parquet(file, rows, types):
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(storable(name), pa.string() if kind == pa.null() else kind) for name, kind in types.items()])
    with pq.ParquetWriter(file, schema) as writer:
        for some in iter(lambda: list(itertools.islice(rows, N_ROWS)), []):
            columns = []
            for name, kind in zip(types, schema.types):
                values = [storable(row.get(name)) for row in some]
                if kind == pa.string():
                    values = [value if value is None else cell(value) for value in values]
                columns.append(pa.array(values, kind))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


WRITERS = {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


def write(path: str, rows: Iterator[dict[str, Any]], types: dict[str, Any]) -> None:
    """Write rows to `path`, which appears when it is whole.

    Args:
        path: ends in one of `OUT_FORMATS`.
        rows: an iterator of dicts {column: value}.
        types: dict {column: pyarrow type}; only .parquet needs the types.
    """
    partial = path + ".part"
    try:
        with open(partial, "wb") as file:
            WRITERS[format_of(path, OUT_FORMATS)](file, rows, types)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def cell(value: Any) -> str:
    """A value as the text of a cell: lists and dicts as JSON."""
    if value is None:
        return ""
    return storable(json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else
                    str(value))


def storable(value: Any) -> Any:
    """The value, with U+FFFD in the place of what cannot be written as UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return value
