"""Tables of texts: .txt, .jsonl, .csv and .parquet, row by row, so that memory does not grow with the file.

In a .txt file each line is a row with the one column `text`. Rows of .txt and .csv hold text only, as it stands in the
file. What is not UTF-8 is replaced by U+FFFD when it is written, and its row says so if it is the text.
"""
import codecs
import collections
import contextlib
import csv
import glob
import gzip
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

FORMATS = (".txt", ".jsonl", ".csv", ".parquet")
OUT_FORMATS = FORMATS[1:]
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
N_ROWS = 1024  # of a parquet batch
MAX_DEPTH = 800  # of lists and objects in JSON: Python's json can read and write that in every version
MAX_NESTED_TYPES = 32  # a parquet column nested deeper is JSON text
MAX_FIELDS = 1000  # and so are objects with more keys than that, taken together
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: in JSON, or a byte that is not UTF-8
LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # in JSON, where other control characters are escaped anyway
ESCAPED = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # by default a text may have no more than 131,072 characters


class Row(NamedTuple):
    """A row: its values by column, and what is wrong with the row as a whole.

    Dates and times from .parquet are `pyarrow.Scalar`s (`needs_scalars`): Python's own have no nanoseconds.
    """

    values: dict[str, Any]
    error: str | None = None


class Source:
    """The files that a name stands for, as one table.

    Args:
        name: a path, a pattern with *, or a URL of either that fsspec opens (s3://..., https://...).
        kind: "txt", "jsonl", "csv" or "parquet"; None takes it from the name's ending.

    Attributes:
        paths: list of str, in order.
        kind: ".txt", ".jsonl", ".csv" or ".parquet".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown format, several formats, not a regular file, or a kind of URL for which a package is not
            installed.
    """

    def __init__(self, name: str, kind: str | None = None):
        import fsspec

        self.name, self.is_local = name, os.path.exists(name) or "://" not in name
        self.is_web = not self.is_local and name.lower().startswith("http")
        if self.is_local:  # a name with a * or [ in it may be that of a file, too
            self.fs = fsspec.filesystem("file")
            self.paths = [name] if os.path.exists(name) else glob.glob(os.path.expanduser(name), recursive=True)
        else:
            try:
                self.fs, pattern = fsspec.url_to_fs(name)
            except (ImportError, ValueError) as error:
                package = ": pip install aiohttp" if name.lower().startswith("http") else ""
                raise ValueError(f"{name}: {error}{package}") from None
            self.paths = self.fs.glob(pattern)
        self.paths = sorted(path for path in self.paths if not self.fs.isdir(self._full(path)))
        if not self.paths:
            raise FileNotFoundError(f"{name}: there is no such file" + (", and none that fits the pattern"
                                                                        if glob.has_magic(name) else ""))
        for path in self.paths if self.is_local else []:
            if not os.path.isfile(path):
                raise ValueError(f"{path} is not a regular file, and texts are read twice: pipe it into stdin, with - "
                                 "in its place")
        zst = any(self._bare(path).lower().endswith(".zst") for path in self.paths)
        if zst and "zst" not in fsspec.utils.compressions:
            raise ValueError(f"{name}: before Python 3.14, .zst needs a package: pip install backports.zstd")
        kinds = {format_of(self._bare(path), FORMATS) for path in self.paths} if kind is None else {check_kind(kind)}
        if len(kinds) > 1:
            raise ValueError(f"{name} stands for files of several formats, {', '.join(sorted(kinds))}: give one at a "
                             "time")
        self.kind, = kinds

    def _full(self, path):
        return os.path.abspath(path) if self.is_local else path  # fsspec takes "file:x.txt" for x.txt

    def _bare(self, path):
        """The path that says the format: without a URL's query, unless the name is in that."""
        bare = path.partition("?")[0] if self.is_web else path
        return bare if os.path.splitext(bare)[1].lower() in (*FORMATS, *COMPRESSIONS) else path

    @contextlib.contextmanager
    def _open(self, path):
        """The binary file of a path; OSError or ValueError where it cannot be read, with its name."""
        import fsspec

        # Not every web server sends parts of a file, which only parquet needs.
        whole = {"block_size": 0} if self.is_web and self.kind != ".parquet" else {}
        try:
            compression = fsspec.utils.infer_compression(self._bare(path))
            with self.fs.open(self._full(path), "rb", compression=compression, **whole) as file:
                yield file
        except (EOFError, OSError) as error:
            if getattr(error, "filename", None):
                raise
            raise OSError(f"{path}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def rows(self) -> Iterator[Row]:
        """All rows, file after file; OSError or ValueError where a file cannot be read, with its name."""
        for path in self.paths:
            with self._open(path) as file:
                yield from READERS[self.kind](file)

    def types(self) -> dict[str, Any]:
        """The pyarrow type of each column, as far as the files say it: {} for .jsonl."""
        import pyarrow as pa

        if self.kind == ".jsonl":
            return {}
        schemas = []
        for path in self.paths:
            with self._open(path) as file:
                schemas.append(SCHEMAS[self.kind](file))
        if self.kind != ".parquet":
            return {name: pa.string() for names in schemas for name in names}
        try:
            schema = pa.unify_schemas(schemas)
        except pa.ArrowException as error:
            raise ValueError(f"the files of {self.name} do not have the same columns: {error}") from None
        return dict(zip(schema.names, map(writable, schema.types)))


def writable(kind):
    """An Arrow type, or text in the place of one that pyarrow cannot make from Python's values."""
    import pyarrow as pa

    try:
        return pa.array([], kind).type
    except pa.ArrowNotImplementedError:  # as for an extension type inside a list
        return pa.string()


def check_kind(kind: str) -> str:
    """The ending of a format's name: "csv" -> ".csv", else ValueError."""
    if "." + kind not in FORMATS:
        raise ValueError(f"{kind!r} is not a supported format: give {', '.join(ending[1:] for ending in FORMATS)}")
    return "." + kind


def format_of(path: str, formats: Iterable[str], compressions: Iterable[str] = COMPRESSIONS) -> str:
    """The ending of a path, without that of a compression: one of `formats`, else ValueError."""
    name, ending = os.path.splitext(path)
    if ending.lower() in compressions:
        ending = os.path.splitext(name)[1]
    if ending.lower() not in formats:
        wrong = f"{ending!r} is not a supported format" if ending else "the name has no ending"
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
            values = json.loads(line, object_pairs_hook=object_of)
            if line.count(b"[") + line.count(b"{") > MAX_DEPTH and depth_of(values) > MAX_DEPTH:
                raise ValueError(f"lists and objects are nested more than {MAX_DEPTH} deep")
        except (ValueError, RecursionError) as error:
            yield Row({}, f"line {n} is not JSON: {error}")
            continue
        except KeyError as error:
            yield Row({}, f"line {n} has the key {error} twice in one object")
            continue
        if not isinstance(values, dict):
            yield Row({}, f"line {n} is not a JSON object, but {json.dumps(values)[:60]}")
        else:
            yield Row({storable(name): with_storable_keys(value) for name, value in values.items()})


def object_of(pairs):
    """The dict of a JSON object; KeyError for a key that is there twice: one of its values would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        (key, _), = collections.Counter(key for key, _ in pairs).most_common(1)
        raise KeyError(key)
    return values


def depth_of(value):
    """How deep lists and objects are nested, without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (list, dict))]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def read_csv(file):
    with csv_reader(file) as reader:
        columns = csv_columns(reader)
        for fields in reader:
            if not fields:  # an empty line: a text in a table of one column, else nothing
                if len(columns) > 1:
                    continue
                fields = [""]
            fields = [field.replace(NUL, "\0") for field in fields]
            values = dict.fromkeys(columns, "") | dict(zip(columns, fields))
            wrong = len(fields) != len(columns)
            yield Row(values, f"line {reader.line_num} has {len(fields)} fields where the header has {len(columns)}"
                      if wrong else None)


NUL = "\udc00"  # stands for it in Python 3.10, whose csv module refuses it; surrogateescape makes no such character


@contextlib.contextmanager
def csv_reader(file):
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    some = (line.replace("\0", NUL) for line in text)
    reader = csv.reader(some, strict=True)  # strict: a quote that does not end would swallow the rows after it
    try:
        yield reader
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    finally:
        text.detach()


def csv_columns(reader):
    columns = next(reader, None)
    if columns is None:
        raise ValueError("the file is empty: the first line of a .csv file has the names of its columns")
    columns = [storable(name.replace(NUL, "\0")) for name in columns]
    check_names(columns)
    return columns


def check_names(columns):
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"the column {twice[0]!r} is there twice")


def csv_schema(file):
    with csv_reader(file) as reader:
        return csv_columns(reader)


def read_parquet(file):
    import pyarrow.parquet as pq

    with arrow_errors():
        parquet = pq.ParquetFile(file)
        for i in range(parquet.num_row_groups):  # pyarrow cannot join two groups' dictionaries inside a struct or list
            for batch in parquet.iter_batches(N_ROWS, row_groups=[i]):
                for values in zip(*map(values_of, batch.columns)):
                    yield Row(dict(zip(batch.schema.names, values)))


def parquet_schema(file):
    import pyarrow.parquet as pq

    with arrow_errors():
        schema = pq.read_schema(file)
        check_names(schema.names)
        return schema


@contextlib.contextmanager
def arrow_errors():
    import pyarrow as pa

    try:
        yield
    except pa.ArrowInvalid as error:
        raise ValueError(f"not a parquet file, or a damaged one ({error})") from None


def needs_scalars(kind):
    """Whether Python has no values for an Arrow type, or for one inside, that pyarrow takes back as they were."""
    import pyarrow as pa

    return (pa.types.is_temporal(kind) or getattr(kind, "extension_name", "") == "arrow.bool8"
            or any(needs_scalars(kind.field(i).type) for i in range(kind.num_fields)))


def values_of(column):
    if needs_scalars(column.type):
        return [value if value.is_valid else None for value in column]
    return column.to_pylist()


READERS = {".txt": read_txt, ".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}
SCHEMAS = {".txt": lambda file: ["text"], ".csv": csv_schema, ".parquet": parquet_schema}


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
    if not text.isascii() and (escaped := ESCAPED.search(text)):
        return None, f"not UTF-8: byte 0x{ord(escaped[0]) - 0xDC00:02X} after {escaped.start()} characters"
    return text, None


# --- out ----------------------------------------------------------------------------------------


def arrow_type(name: str):
    """The pyarrow type of "string", "int64", "list of string", ..."""
    import pyarrow as pa

    return pa.list_(arrow_type(name[8:])) if name.startswith("list of ") else pa.type_for_alias(name)


class Columns:
    """The columns of a table and, for .parquet, the type of each, found out while the rows go by."""

    def __init__(self, typed: bool):
        self.kinds: dict[str, Kind] = collections.defaultdict(Kind)
        self.typed = typed

    def pass_on(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, each looked at."""
        for row in rows:
            for name, value in row.values.items():
                kind = self.kinds[name]
                if self.typed:
                    kind.add(value)
            yield row

    def types(self) -> dict[str, Any]:
        """The pyarrow type of each column: string, too, for one with values that no other type holds exactly."""
        import pyarrow as pa

        return {name: kind.arrow() or pa.string() for name, kind in self.kinds.items()}


class Kind:
    """What the values from JSON in one place have in common: of a column, of its lists' items, of an object's key."""

    __slots__ = "types", "low", "high", "inside"

    def __init__(self) -> None:
        self.types: set[type] = set()
        self.low = self.high = 0  # of whole numbers
        self.inside: dict[str | None, Kind] = collections.defaultdict(Kind)  # by key; under None for lists

    def add(self, value: Any, depth: int = 0) -> None:
        if value is None or object in self.types:
            return
        self.types.add(type(value))
        if isinstance(value, int):
            self.low, self.high = min(self.low, value), max(self.high, value)
        elif isinstance(value, (list, dict)):
            for key, item in value.items() if isinstance(value, dict) else ((None, item) for item in value):
                self.inside[key].add(item, depth + 1)
            if depth == MAX_NESTED_TYPES or len(self.inside) > MAX_FIELDS:
                self.types, self.inside = {object}, {}

    def arrow(self) -> Any:
        """The pyarrow type that holds all values exactly; None if there is none, so that they are kept as text."""
        import pyarrow as pa

        inside = {key: kind.arrow() for key, kind in self.inside.items()}
        if None in inside.values():
            return None
        if self.types == {bool}:
            return pa.bool_()
        if self.types == {int}:
            signed, unsigned = -(2**63) <= self.low and self.high < 2**63, self.low >= 0 and self.high < 2**64
            return pa.int64() if signed else pa.uint64() if unsigned else None
        if self.types and self.types <= {int, float}:
            return pa.float64() if max(-self.low, self.high) <= 2**53 else None
        if self.types == {list}:
            return pa.list_(inside.get(None, pa.string()))
        if self.types == {dict} and inside:  # .parquet has no objects without keys
            return pa.struct(list(inside.items()))
        return pa.string() if self.types <= {str} else None


def write_jsonl(file, rows, types):
    for row in rows:
        text = LINE_ENDS.sub(lambda match: f"\\u{ord(match[0]):04x}", as_json(row))  # for readers that split there
        file.write(text.encode("utf-8") + b"\n")


def write_csv(file, rows, types):
    for cells in itertools.chain([types], ([cell(row.get(name)) for name in types] for row in rows)):
        file.write(storable(",".join(map(quoted, cells)) or '""').encode("utf-8") + b"\n")


def quoted(text: str | None) -> str:
    """A cell of .csv. An empty text is "", a value that is not there is nothing."""
    if text is None:
        return ""
    needs_quotes = text.strip() != text or not text or any(special in text for special in ',"\r\n')
    return '"' + text.replace('"', '""') + '"' if needs_quotes else text


def write_parquet(file, rows, types):
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(list(types.items()))
    with pq.ParquetWriter(file, schema) as writer:
        for some in iter(lambda: list(itertools.islice(rows, N_ROWS)), []):
            columns = []
            for name, kind in types.items():
                as_kind = cell if kind == pa.string() else storable
                columns.append(pa.array([as_kind(row.get(name)) for row in some], kind))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


WRITERS = {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


def write(path: str, rows: Iterator[dict[str, Any]], types: dict[str, Any]) -> None:
    """Write rows to `path`, which appears when it is whole.

    Args:
        path: ends in one of `OUT_FORMATS`; .jsonl.gz and .csv.gz are compressed.
        rows: an iterator of dicts {column: value}.
        types: dict {column: pyarrow type}; only .parquet needs the types.
    """
    with (whole_file(path, path + ".part") as file,
          gzip.GzipFile("", "wb", 6, file, 0) if is_gzip(path) else contextlib.nullcontext(file) as inner):
        WRITERS[format_of(path, OUT_FORMATS)](inner, rows, types)


@contextlib.contextmanager
def whole_file(path: str | Path, partial: str | None = None) -> Iterator[BinaryIO]:
    """A file to write that gets its name `path` when it is whole: Ctrl-C or a full disk leaves the old one, not half a
    new one. Until then it has the name `partial`, by default one of this process alone."""
    partial = partial or f"{path}.{os.getpid()}.part"
    Path(partial).unlink(missing_ok=True)
    try:
        with open(partial, "xb") as file:  # not through a link, and not into a file that somebody else has open
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def cell(value: Any) -> str | None:
    """A value as text: lists and dicts as JSON."""
    value = plain(value)
    if isinstance(value, (list, dict)):
        return as_json(value)
    return None if value is None else storable(str(value))


def as_json(value: Any) -> str:
    """A value as JSON, which has no NaN and no infinity: null."""
    try:
        return storable(json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain))
    except ValueError:
        finite = json.loads(json.dumps(value, default=plain), parse_constant=lambda name: None)
        return storable(json.dumps(finite, ensure_ascii=False))


def plain(value: Any) -> Any:
    """A value that JSON does not have, a `pyarrow.Scalar` above all, as one that it has."""
    import pyarrow as pa

    if not isinstance(value, pa.Scalar):
        return value if value is None or isinstance(value, (int, float, str, list, dict)) else str(value)
    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, pa.MapScalar):  # pairs, as `to_pylist` has them
        return [[plain(item) for item in pair.values()] for pair in value.values]
    if isinstance(value, pa.ListScalar):
        return [plain(item) for item in value.values]
    if pa.types.is_duration(value.type):
        return f"{value.value} {value.type.unit}"
    return value.cast(pa.string()).as_py() if pa.types.is_temporal(value.type) else value.as_py()


def with_storable_keys(value: Any) -> Any:
    """A value of JSON; half characters inside lists and objects are replaced, as some are in keys."""
    if isinstance(value, (list, dict)) and SURROGATE.search(text := json.dumps(value, ensure_ascii=False)):
        return json.loads(SURROGATE.sub("\ufffd", text))
    return value


def storable(value: Any) -> Any:
    """The value, with U+FFFD in the place of what cannot be written as UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return value
