"""many_texts/tables.py: every text survives every format, and comes back through readers that are not ours."""
import datetime
import decimal
import gzip
import importlib.util
import json
import os
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

missing = [name for name in ("pyarrow", "pandas", "fsspec") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} "
                                                      "(pip install -r many_texts/requirements.txt pandas)")

KINDS = [".jsonl", ".csv", ".parquet"]
ODD = ["", "\r", "\n", "\r\n", "\n\r", "\0", "\ufeff", "\u2028", "\x85", '"', '""', '","', ",", "'", "\\", "\\N",
       "\\u0041", "NA", "nan", "null", "None", "true", "1", "1e5", "0x1", "2020-01-01", "[1]", "{}", "#x", "=1+1",
       "e\u0301", "🤖"]


def from_jsonl(path):
    return list(rows_of(path))


def rows_of(path):
    from many_texts import tables

    return (row.values for row in tables.Source(str(path)).rows())


def readers(path):
    """The column text as each reader has it: dict {reader: list of str}."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet as pq

    name = str(path)
    found = {"batch.py": [values["text"] for values in rows_of(path)]}
    if ".jsonl" in name:
        found["pandas"] = pd.read_json(name, lines=True, dtype=False)["text"].tolist()
        schema = pa.schema([("text", pa.string()), ("n", pa.string())])
        options = {"read_options": pa.json.ReadOptions(block_size=2**24),
                   "parse_options": pa.json.ParseOptions(explicit_schema=schema)}
        found["pyarrow"] = pa.json.read_json(name, **options)["text"].to_pylist()
        data = gzip.open(name).read() if name.endswith(".gz") else path.read_bytes()
        found["json"] = [json.loads(line)["text"] for line in data.decode("utf-8").splitlines()]
    elif ".csv" in name:
        found["pandas"] = pd.read_csv(name, dtype=str, keep_default_na=False)["text"].tolist()
        if pd.__version__ < "3":  # which ends a text where a NUL is
            found["pandas"] = [ours if "\0" in ours else text for ours, text in zip(found["batch.py"], found["pandas"])]
        options = {"read_options": pa.csv.ReadOptions(block_size=2**24),
                   "parse_options": pa.csv.ParseOptions(newlines_in_values=True),
                   "convert_options": pa.csv.ConvertOptions(column_types={"text": pa.string()})}
        found["pyarrow"] = pa.csv.read_csv(name, **options)["text"].to_pylist()
    else:
        found["pandas"] = pd.read_parquet(name)["text"].tolist()
        found["pyarrow"] = pq.read_table(name)["text"].to_pylist()
    return found


def written(path, rows):
    import pyarrow as pa

    from many_texts import tables

    tables.write(str(path), iter(rows), dict.fromkeys(rows[0], pa.string()))
    return path


def through(source, out):
    """The rows of a file, written to another one as batch.py does it, but without its columns; the file."""
    from many_texts import tables

    source = tables.Source(str(source))
    columns = tables.Columns(typed=source.kind == ".jsonl")
    for _ in columns.pass_on(source.rows()):
        pass
    tables.write(str(out), (row.values for row in source.rows()), columns.types() | source.types())
    return out


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, ".csv.gz"])
def test_every_character_survives(tmp_path, kind):
    """All of Unicode in long texts, and what means something to a format alone, first, last and in the middle."""
    characters = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    texts = [text for odd in [*map(chr, range(0xA1)), *ODD] for text in (odd, odd + "b", "a" + odd, "a" + odd + "b")]
    tables = [[{"text": text} for text in texts]]
    texts += [characters[i : i + 4096] for i in range(0, len(characters), 4096)]
    tables.append([{"n": str(i), "text": text} for i, text in enumerate(texts)])
    for rows in tables:
        for reader, found in readers(written(tmp_path / f"t{kind}", rows)).items():
            assert len(found) == len(rows), reader
            assert [(row["text"], text) for row, text in zip(rows, found) if row["text"] != text] == [], reader


texts = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\r\n\t\0\",\\'\ufeff\x85\u2028")
                | st.sampled_from(string.printable), max_size=20) | st.sampled_from(ODD)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(texts, min_size=1, max_size=8), name=texts)
@pytest.mark.parametrize("kind", KINDS)
def test_any_texts_survive_and_any_name_of_a_column(tmp_path_factory, kind, values, name):
    path = tmp_path_factory.mktemp("t") / f"t{kind}"
    rows = [{"text": text, "n": str(i)} for i, text in enumerate(values)]
    for reader, found in readers(written(path, rows)).items():
        assert found == values, reader
    if name.startswith("\ufeff"):
        return  # at the start of a file, where a byte-order mark is
    rows = [{name: text, name + "2": "x"} for text in values]
    assert list(rows_of(written(path, rows))) == rows


@pytest.mark.parametrize("kind_out", KINDS)
def test_texts_survive_from_what_others_write(tmp_path, kind_out):
    import pandas as pd
    import pyarrow as pa
    import pyarrow.csv

    table = pd.DataFrame({"text": ODD[1:], "n": [str(i) for i in range(1, len(ODD))]})
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "b.parquet")
    pa.csv.write_csv(pa.Table.from_pandas(table), tmp_path / "c.csv")
    rows = [table.columns.tolist(), *table.values.tolist()]
    lines = [",".join('"' + value.replace('"', '""') + '"' for value in row) + "\r\n" for row in rows]
    (tmp_path / "d.csv").write_bytes("".join(lines).encode("utf-8-sig"))  # as Excel does it
    for source in sorted(tmp_path.iterdir()):
        for reader, found in readers(through(source, tmp_path / f"out{kind_out}")).items():
            assert found == ODD[1:], (source, reader)
        (tmp_path / f"out{kind_out}").unlink()


def test_a_value_that_is_not_there_is_not_an_empty_text(tmp_path):
    import pyarrow as pa
    import pyarrow.csv

    path = written(tmp_path / "t.csv", [{"text": "", "n": None}, {"text": None, "n": ""}])
    assert path.read_text() == 'text,n\n"",\n,""\n'
    options = pa.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False,
                                    column_types={"text": pa.string(), "n": pa.string()})
    assert pa.csv.read_csv(path, convert_options=options).to_pylist() == [{"text": "", "n": None},
                                                                        {"text": None, "n": ""}]


# --- what is in a file --------------------------------------------------------------------------


def test_lines_without_values(tmp_path):
    from many_texts import tables

    (tmp_path / "one.csv").write_text('text\nx\n\n""\ny\n')
    assert [values["text"] for values in rows_of(tmp_path / "one.csv")] == ["x", "", "", "y"]
    (tmp_path / "two.csv").write_text("text,n\nx,1\n\ny,2\n")
    assert [values["text"] for values in rows_of(tmp_path / "two.csv")] == ["x", "y"]
    (tmp_path / "none.csv").write_text("text,a\n")
    assert list(tables.Source(str(tmp_path / "none.csv")).types()) == ["text", "a"]
    assert through(tmp_path / "none.csv", tmp_path / "out.csv").read_text() == "text,a\n"


def test_names_that_look_like_something_else(tmp_path, monkeypatch):
    """A local file is opened by its name, whatever fsspec would take that for."""
    monkeypatch.chdir(tmp_path)
    for name in ("file:x.txt", "x.txt", "[a].txt", "a.txt", "~.txt", "local:b.txt"):
        (tmp_path / name).write_text(name)
    for name in ("file:x.txt", "x.txt", "[a].txt", "~.txt", "local:b.txt"):
        assert [values["text"] for values in rows_of(name)] == [name]
    assert [values["text"] for values in rows_of("file:*.txt")] == ["file:x.txt"]
    assert [values["text"] for values in rows_of((tmp_path / "x.txt").as_uri())] == ["x.txt"]


def test_what_is_no_file(tmp_path):
    from many_texts import tables

    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="pipe.txt is not a regular file.*stdin"):
        tables.Source(str(tmp_path / "pipe.txt"))
    with pytest.raises(ValueError, match="'xml' is not a supported format: give txt, jsonl, csv, parquet"):
        tables.Source(__file__, "xml")
    with pytest.raises(FileNotFoundError, match="no such file"):
        tables.Source(str(tmp_path))


def test_a_compression_that_needs_a_package_is_not_read_as_it_is(tmp_path, monkeypatch):
    import fsspec

    from many_texts import tables

    (tmp_path / "a.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.delitem(fsspec.utils.compressions, "zst", raising=False)
    for kind in (None, "txt"):
        with pytest.raises(ValueError, match="a.txt.zst: .*: pip install backports.zstd"):
            tables.Source(str(tmp_path / "a.txt.zst"), kind)


def test_packages_for_urls(monkeypatch):
    import fsspec

    from many_texts import tables

    def without_aiohttp(url):
        raise ImportError('HTTPFileSystem requires "requests" and "aiohttp" to be installed')

    monkeypatch.setattr(fsspec, "url_to_fs", without_aiohttp)
    with pytest.raises(ValueError, match="https://host/a.txt: .*: pip install aiohttp"):
        tables.Source("https://host/a.txt")


@pytest.mark.parametrize("name", ["a.csv", "a.csv?token=x.y", "a.csv.gz?token=x.y", "get?file=a.csv",
                                  "get.php?file=a.csv.gz"])
def test_a_url_with_a_query_on_a_server_without_ranges(name):
    """6 MB, more than the block that fsspec asks for."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    from file_server import FileServer

    from many_texts import tables

    data = b"text\n" + b"To be or not to be\n" * 320_000
    packed = gzip.compress(data, 1)
    with FileServer({"a.csv": data, "a.csv.gz": packed, "get": data, "get.php": packed}) as server:
        server.ranges = False
        source = tables.Source(f"{server.url}/{name}")
        assert list(source.types()) == ["text"]
        assert sum(row.values == {"text": "To be or not to be"} for row in source.rows()) == 320_000


# --- columns ------------------------------------------------------------------------------------


NESTED = json.loads("[" * 600 + "]" * 600)


@pytest.mark.parametrize("values, kind, expected", [
    ([1, None, 2.5], "double", [1, None, 2.5]),
    ([2**53, 0.5], "double", [2**53, 0.5]),
    ([2**53 + 1, 1.5], "string", [str(2**53 + 1), "1.5"]),
    ([-(2**63), 2**63 - 1], "int64", [-(2**63), 2**63 - 1]),
    ([0, 2**64 - 1], "uint64", [0, 2**64 - 1]),
    ([-1, 2**64 - 1], "string", ["-1", str(2**64 - 1)]),
    ([2**70, 1], "string", [str(2**70), "1"]),
    ([True, False], "bool", [True, False]),
    ([True, 1], "string", ["True", "1"]),
    (["1", 1], "string", ["1", "1"]),
    ([None, None], "string", [None, None]),
    ([{}, {}], "string", ["{}", "{}"]),
    ([{}, {"a": 1}], "struct<a: int64>", [{"a": None}, {"a": 1}]),
    ([{"a": {}}, {"a": {}}], "string", ['{"a": {}}', '{"a": {}}']),
    ([{"a": 1}, {"b": "x"}], "struct<a: int64, b: string>", [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
    ([{"a": 1}, [1]], "string", ['{"a": 1}', "[1]"]),
    ([[], [None]], "list<element: string>", [[], [None]]),
    ([[1], [2**53 + 1, 0.5]], "string", ["[1]", f"[{2**53 + 1}, 0.5]"]),
    ([[1, "x"], [2]], "string", ['[1, "x"]', "[2]"]),
    ([NESTED, None], "string", [json.dumps(NESTED), None]),
    ([{str(i): i for i in range(2000)}, None], "string", [json.dumps({str(i): i for i in range(2000)}), None]),
    ([{"\ud800": 1}, {"a": "\udfff"}], "struct<\ufffd: int64, a: string>", [{"\ufffd": 1, "a": None},
                                                                          {"\ufffd": None, "a": "\ufffd"}]),
    ([{"": 1}, {"a.b": 2}], "struct<: int64, a.b: int64>", [{"": 1, "a.b": None}, {"": None, "a.b": 2}]),
])
def test_any_values_of_json_go_into_parquet(tmp_path, values, kind, expected):
    """As the type that holds all of them exactly, else as text."""
    import pyarrow.parquet as pq

    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"v": value, "text": "x"}) for value in values))
    table = pq.read_table(through(tmp_path / "a.jsonl", tmp_path / "out.parquet"))
    assert str(table.schema.field("v").type) == kind and table["v"].to_pylist() == expected


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just("\ud800"),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.dictionaries(texts | st.just("\udc80"), json_values, max_size=4), min_size=1, max_size=4))
@pytest.mark.parametrize("kind", KINDS)
def test_any_json_can_be_written(tmp_path_factory, kind, rows):
    """What the survey has seen does not fail after the work; JSON comes back as JSON, with null for NaN."""
    folder = tmp_path_factory.mktemp("t")
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    out = through(folder / "a.jsonl", folder / f"out{kind}")
    if kind != ".jsonl":
        return
    constants = []
    found = [json.loads(line, parse_constant=constants.append) for line in out.read_text("utf-8").splitlines()]
    whole = lambda text: "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    wanted = [json.loads(whole(json.dumps(row, ensure_ascii=False)), parse_constant=lambda name: None) for row in rows]
    assert found == wanted and not constants


def test_json_that_is_nested_too_deep_is_an_error_of_its_row(tmp_path):
    from many_texts import tables

    deep = '{"text": "x", "a": ' + "[" * 900 + "]" * 900 + "}"
    wide = json.dumps({"text": "x", "a": [[] for _ in range(2000)]})
    (tmp_path / "a.jsonl").write_text(f"{deep}\n{wide}\n")
    first, second = tables.Source(str(tmp_path / "a.jsonl")).rows()
    assert "line 1 is not JSON: " in first.error and second.error is None


def test_a_key_that_is_there_twice_is_an_error_of_its_row(tmp_path):
    from many_texts import tables

    (tmp_path / "a.jsonl").write_text('{"text": "x", "text": "y"}\n{"text": "x", "a": [{"b": 1, "c": 2, "b": 1}]}\n'
                                      '{"text": "x", "a": {"text": 1}}\n')
    first, second, third = tables.Source(str(tmp_path / "a.jsonl")).rows()
    assert first == ({}, "line 1 has the key 'text' twice in one object")
    assert second == ({}, "line 2 has the key 'b' twice in one object")
    assert third == ({"text": "x", "a": {"text": 1}}, None)


def test_not_a_number_is_null_in_jsonl(tmp_path):
    rows = [{"text": "x", "a": float("nan"), "b": [1.5, float("inf")], "c": {"d": {"e": float("nan")}}}]
    assert json.loads(written(tmp_path / "t.jsonl", rows).read_text(), parse_constant=pytest.fail) == {
        "text": "x", "a": None, "b": [1.5, None], "c": {"d": {"e": None}}}


def test_parquet_stays_what_it_is(tmp_path):
    """Values of every type, with nanoseconds and far beyond Python's calendar, come out as they went in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ns, date = pa.timestamp("ns"), datetime.date(2020, 2, 29)
    table = pa.table({
        "text": ["a", "b"],
        "time": pa.array([1_234_567_891, None], pa.time64("ns")),
        "instant": pa.array([1, None], ns),
        "zone": pa.array([1_234_567_891, None], pa.timestamp("ns", "UTC")),
        "far": pa.array([2**55, -(2**55)], pa.timestamp("us")),
        "date": pa.array([date, None]),
        "length": pa.array([1_001, None], pa.duration("ns")),
        "money": pa.array([decimal.Decimal("1.10"), None]),
        "instants": pa.array([[1, None], None], pa.list_(ns)),
        "object": pa.array([{"at": 1, "n": 1}, None], pa.struct([("at", ns), ("n", pa.int8())])),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        "category": pa.array(["a", None]).dictionary_encode(),
        "categories": pa.array([{"c": "a"}, {"c": "b"}], pa.struct([("c", pa.dictionary(pa.int32(), pa.string()))])),
        "bytes": pa.array([b"\xff\x00", None]),
        "large": pa.array(["a", None], pa.large_string()),
        "small": pa.array([1.1, None], pa.float32()),
        "id": pa.array([2**64 - 1, None], pa.uint64()),
        "nothing": pa.nulls(2),
    })
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    before = pq.read_table(tmp_path / "a.parquet")
    after = pq.read_table(through(tmp_path / "a.parquet", tmp_path / "out.parquet"))
    for name in table.column_names:
        assert after[name].equals(before[name]), name
    row = json.loads(through(tmp_path / "a.parquet", tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert row["time"] == "00:00:01.234567891" and row["instant"] == "1970-01-01 00:00:00.000000001"
    assert row["instants"] == ["1970-01-01 00:00:00.000000001", None] and row["length"] == "1001 ns"
    assert row["object"] == {"at": "1970-01-01 00:00:00.000000001", "n": 1} and row["money"] == "1.10"
    assert row["date"] == "2020-02-29" and row["id"] == 2**64 - 1
    assert "00:00:01.234567891" in through(tmp_path / "a.parquet", tmp_path / "out.csv").read_text()


def test_what_is_inside_a_value_is_json_in_csv(tmp_path):
    """The same JSON as in .jsonl; a map has one shape, whether or not times are inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    time = pa.timestamp("ms")
    pq.write_table(pa.table({
        "struct": pa.array([{"a": 1, "b": "é"}, None]),
        "timed": pa.array([{"a": [1_000], "b": None}, None], pa.struct([("a", pa.list_(time)), ("b", time)])),
        "list": pa.array([[1_000, None], None], pa.list_(time)),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "timed map": pa.array([[("k", 1_000)], None], pa.map_(pa.string(), time)),
    }), tmp_path / "a.parquet")
    second = "1970-01-01 00:00:01.000"
    expected = {"struct": {"a": 1, "b": "é"}, "timed": {"a": [second], "b": None}, "list": [second, None],
                "map": [["k", 1]], "timed map": [["k", second]]}
    first, empty = rows_of(through(tmp_path / "a.parquet", tmp_path / "out.csv"))
    assert {name: json.loads(value) for name, value in first.items()} == expected
    assert set(empty.values()) == {""}
    row = json.loads(through(tmp_path / "a.parquet", tmp_path / "out.jsonl").read_text("utf-8").splitlines()[0])
    assert row == expected


def test_extension_types_can_be_written(tmp_path):
    """They stay what they are; inside a list, where pyarrow cannot make them, the column becomes text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not hasattr(pa, "bool8"):
        pytest.skip("pyarrow < 18 has no arrow.bool8")
    flags = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8()))
    ids = pa.array([bytes(16), None, None], pa.uuid())
    table = pa.table({"flag": flags, "id": ids, "flags": pa.ListArray.from_arrays([0, 2, 3, 3], flags)})
    pq.write_table(table, tmp_path / "a.parquet")
    after = pq.read_table(through(tmp_path / "a.parquet", tmp_path / "out.parquet"))
    assert after["flag"].equals(table["flag"]) and after["id"].equals(table["id"])
    assert after["flags"].to_pylist() == ["[true, false]", "[null]", "[]"]
    first, *_ = through(tmp_path / "a.parquet", tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(first) == {"flag": True, "id": "00000000-0000-0000-0000-000000000000", "flags": [True, False]}


# --- what is written appears whole --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "pipe", "hard link", "file"])
def test_the_part_of_an_output_touches_nothing_else(tmp_path, kind):
    precious, partial = tmp_path / "precious", tmp_path / "out.csv.part"
    precious.write_text("precious")
    {"link": partial.symlink_to, "hard link": partial.hardlink_to, "pipe": lambda _: os.mkfifo(partial),
     "file": lambda _: partial.write_text("old")}[kind](precious)
    assert written(tmp_path / "out.csv", [{"text": "x"}]).read_text() == "text\nx\n"
    assert precious.read_text() == "precious" and not os.path.lexists(partial)
