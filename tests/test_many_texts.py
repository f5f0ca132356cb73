"""batch.py: every format in and out, rows that cannot be done, and runs that are killed, starved and continued."""
import contextlib
import csv
import gzip
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, error_line, wait_for

from generation.sampling import seed_of
from lens import score
from many_texts.batches import generate_batch

needed = ("dask", "distributed", "pyarrow", "pandas")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} "
                                                      "(pip install -r many_texts/requirements.txt pandas)")

WORDS = "the king my lord shall not come to thee , O Romeo ! What say you, sir? First Citizen: love night".split(" ")


def make_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(n)]


def table(n=7):
    """Rows with columns of several kinds, and their texts."""
    texts = ["O Romeo, Romeo!", 'He said, "come", and\nwent.', "naïve 東京 🤖", " two  spaces ", "x", "To be", "JULIET"]
    return [{"id": i, "text": text, "stars": i / 4, "note": None if i % 2 else "ü"} for i, text in enumerate(texts[:n])]


def write(path, rows):
    import pandas as pd

    frame = pd.DataFrame(rows)
    kind = "".join(path.suffixes).removesuffix(".gz")
    if kind == ".txt":
        data = "".join(row["text"].replace("\n", " ") + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    elif kind == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif kind == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return path


def read(path):
    import pandas as pd

    if path.suffix == ".jsonl":
        return pd.read_json(path, orient="records", lines=True)
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.fixture(scope="module")
def workers():
    """A scheduler and two worker processes on the loopback interface, started as docs/many-texts.md says."""
    with cluster() as (address, _):
        yield address


@contextlib.contextmanager
def cluster(n_workers=2, cwd=ROOT, protocol="tcp", env=None):
    port = free_port()
    address = f"{protocol}://127.0.0.1:{port}"
    dask, options = [sys.executable, "-m", "dask"], {"stderr": subprocess.DEVNULL, "cwd": cwd, "env": env}
    processes = [subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
                                  **options)]
    worker = [*dask, "worker", address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
    processes += [subprocess.Popen(worker, **options) for _ in range(n_workers)]
    try:
        yield address, processes
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def free_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def batch(run):
    """batch("score", "in.csv", "--out", "out.csv", ...) -> CompletedProcess, with the bundled model."""
    return lambda *arguments, model="shakespeare", **options: run(*map(str, arguments), "--model_size", model,
                                                                  program="batch.py", **options)


def start(*arguments, **options):
    """batch.py as a process of its own, in a group of its own."""
    command = [sys.executable, str(ROOT / "batch.py"), *map(str, arguments), "--model_size", "shakespeare"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, **options)


def n_blocks(out):
    """How many blocks are finished."""
    path = out.with_name(out.name + ".progress")
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def descendants(process):
    import psutil

    return psutil.Process(process.pid).children(recursive=True)


def worker_processes(process):
    return [child for child in descendants(process) if "spawn_main" in " ".join(child.cmdline())]


# --- a run --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_generate_on_a_local_cluster(batch, tmp_path, shakespeare):
    """The one run of the fast tests, on two processes, with rows that cannot be done among the others."""
    rows = [*table(), {"text": ""}, {"text": "word " * 300}, {"text": None}, {"text": 7}, {"id": 1}]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps(row).encode() for row in rows] + [b"{", b"[1]", b'{"text": "caf\xe9"}', b'{"text": "\\ud800"}']
    source.write_bytes(b"\n\n".join(lines))
    result = batch("generate", source, "--out", out, "-n", "9", "--n_workers", "2", "-t", "1", "--seed", "4")
    assert result.returncode == 0 and result.stdout == "", result.stderr
    assert "dashboard at http://127.0.0.1:" in result.stderr and "16 texts" in result.stderr.splitlines()[-1]
    assert "9 rows failed" in result.stderr.splitlines()[-1]
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for place, (row, new) in enumerate(zip(rows[:7], written)):
        ids = shakespeare.generate(shakespeare.encode(row["text"]), 9, stop_id=shakespeare.encoder.eot_token,
                                   temperature=1, seed=seed_of(4, place))
        assert new == row | {"continuation": shakespeare.encoder.decode(ids), "n_tokens": len(ids), "error": None}
    reasons = ["empty", "more than the context", "no value", "a int", "no value", "line 25 is not JSON",
               "line 27 is not a JSON object", "line 29 is not JSON", "lone surrogate"]
    for new, reason in zip(written[7:], reasons, strict=True):
        assert reason in new["error"] and new["continuation"] is None
    assert sorted(tmp_path.iterdir()) == [source, out]


@pytest.mark.slow
@pytest.mark.parametrize("kind_in", [".txt", ".jsonl", ".csv", ".parquet", ".txt.gz", ".jsonl.gz", ".csv.gz"])
@pytest.mark.parametrize("kind_out", [".jsonl", ".csv", ".parquet"])
def test_every_format(batch, tmp_path, shakespeare, workers, kind_in, kind_out):
    source, out = write(tmp_path / f"in{kind_in}", table()), tmp_path / f"out{kind_out}"
    result = batch("score", source, "--out", out, "--tokens", "--words", "--scheduler", workers)
    assert result.returncode == 0, result.stderr
    frame = read(out)
    texts = [row["text"].replace("\n", " ") if "txt" in kind_in else row["text"] for row in table()]
    assert frame["text"].tolist() == texts
    columns = ["text"] if "txt" in kind_in else ["id", "text", "stars", "note"]
    assert frame.columns.tolist() == columns + ["n_tokens", "log_prob", "bits_per_byte", "perplexity", "tokens",
                                                "token_surprisals", "words", "word_surprisals", "error"]
    if "txt" not in kind_in:
        assert frame["stars"].astype(float).tolist() == [row["stars"] for row in table()]
    load = json.loads if kind_out == ".csv" else list
    for text, row in zip(texts, frame.to_dict("records"), strict=True):
        expected = score(text, shakespeare)
        np.testing.assert_allclose([row["log_prob"], row["bits_per_byte"], row["perplexity"]],
                                   [expected.total, expected.bits_per_byte, expected.perplexity], rtol=1e-4)
        assert row["n_tokens"] == len(expected.ids)
        surprisals = -expected.log_probs / np.log(2)
        np.testing.assert_allclose(load(row["token_surprisals"]), surprisals, atol=1e-3)
        assert "".join(load(row["tokens"])).count("\ufffd") or "".join(load(row["tokens"])) == text
        assert load(row["words"]) == text.split()
        words = score(text, shakespeare, words=True).words
        np.testing.assert_allclose(load(row["word_surprisals"]), [word.surprisal for word in words], atol=1e-3)


@pytest.mark.slow
def test_files_of_a_pattern_are_one_table_in_order(batch, tmp_path, workers):
    for name, rows in (("b.csv", table()[:3]), ("a.csv", table()[3:]), ("c.csv", [])):
        write(tmp_path / name, rows or [{"id": 1, "text": "x", "stars": 1, "note": "a"}])
    (tmp_path / "c.csv").write_text("id,text,stars,note\n")
    out = tmp_path / "all.parquet"
    result = batch("generate", tmp_path / "?.csv", "--out", out, "-n", "2", "--prefix", "new_", "--scheduler", workers)
    assert result.returncode == 0, result.stderr
    assert read(out)["id"].tolist() == ["3", "4", "5", "6", "0", "1", "2"]
    assert read(out).columns.tolist()[-3:] == ["new_continuation", "new_n_tokens", "new_error"]


# --- before any work ----------------------------------------------------------------------------


@pytest.mark.parametrize("name, content, arguments, status, message", [
    ("a.csv", "text,stars\nx,1\n", ["--column", "nope"], 2, "no column 'nope' in .*: the columns are text, stars"),
    ("a.csv", "text,error\nx,1\n", [], 2, "has a column 'error' already.*--prefix"),
    ("a.csv", "text,text\nx,1\n", [], 1, "'text' is there twice"),
    ("a.csv", "", [], 1, "a.csv: the file is empty"),
    ("a.csv", 'text\n"x\ny\n', [], 1, "a.csv: line 3: unexpected end of data"),
    ("a.csv.gz", gzip.compress(b"text\nx\n", mtime=0)[:-9], [], 1, "a.csv.gz: Compressed file ended before the end"),
    ("a.parquet", "text", [], 1, "a.parquet: .*not a parquet file"),
    ("a.xlsx", "text", [], 2, "'.xlsx' is not a supported format"),
    ("a", "text", [], 2, "the name has no ending"),
    ("a.txt", "\n", ["--strict"], 1, "text 1: the text is empty"),
    ("a.txt", "x", ["--out", "out.txt"], 2, "'.txt' is not a supported format: it must end in .jsonl, .csv, .parquet"),
    ("a.txt", "x", ["--out", "out.parquet.gz"], 2, "compressed already"),
    ("a.txt", "x", ["--out", "out.csv.bz2"], 2, "'.bz2' is not a supported format"),
    ("a.txt", "x", ["--out", "s3://bucket/out.csv"], 2, "must be a file on this machine"),
    ("a.txt", "x", ["--out", "nowhere/out.csv"], 2, "nowhere does not exist"),
    ("a.txt", "x", ["--out", "there.csv"], 2, "there.csv exists already"),
    ("a.jsonl", "{}", ["--out", "a.jsonl", "--overwrite"], 2, "a.jsonl is an input too"),
    ("a.txt", "x", ["--model_size", "nope"], 1, "there is no model 'nope'"),
    ("a.txt", "x", ["--n_workers", "0"], 2, "n_workers must be"),
    ("a.txt", "x", ["--stride", "0"], 2, "stride must be a whole number, at least 1, not 0"),
])
def test_what_is_wrong_is_said_before_any_work(tmp_path, monkeypatch, name, content, arguments, status, message):
    import batch
    from cli.terminal import run_command_line

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("many_texts.cluster.connected", None)  # nothing is started
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "there.csv").write_text("")
    defaults = {"--out": "out.jsonl", "--model_size": "shakespeare"}
    options = [part for pair in defaults.items() if pair[0] not in arguments for part in pair]
    said = []
    monkeypatch.setattr("cli.terminal.notice", lambda text: said.append(str(text)))
    with pytest.raises(SystemExit) as exit:
        run_command_line(batch.COMMANDS, ["score", name, *options, *arguments])
    assert exit.value.code == status and len(said) == 1, said
    assert re.search(message, said[0]) and "\n" not in said[0], said
    assert not (tmp_path / "out.jsonl").exists() and not list(tmp_path.glob("*.lock"))


def test_journal_keeps_what_is_whole(tmp_path):
    from many_texts.journal import Journal

    path, rows = str(tmp_path / "j"), [{"n_tokens": 2}, {"error": "é\n"}]
    journal = Journal(path, {"a": 1, "drawn_seed": 5})
    for place in (6, 2, 4):
        journal[place] = rows
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):  # wherever a machine may stop
        (tmp_path / "j").write_bytes(whole[:cut])
        journal = Journal(path, {"a": 1, "drawn_seed": 6})
        n = max(sum(end <= cut for end in ends) - 1, 0)
        assert [*journal.blocks] == [6, 2, 4][:n]
        assert journal.head["drawn_seed"] == (5 if cut >= ends[0] else 6)
        assert (journal.n_texts, journal.n_tokens, journal.n_failed) == (2 * n, 2 * n, n)
        assert all(journal[place] == rows and journal.end_of(place) == place + 2 for place in journal.blocks)
        assert journal.end_of(5) == 5
        journal[9] = rows
        assert journal[9] == rows
        journal.close()
    damaged = bytearray(whole)
    damaged[ends[1] + 12] ^= 1
    (tmp_path / "j").write_bytes(damaged)
    journal = Journal(path, {"a": 1})
    assert [*journal.blocks] == [6]
    journal.close()
    with pytest.raises(ValueError, match="unfinished work of another run: a was 1 and is 2"):
        Journal(path, {"a": 2})
    (tmp_path / "j").write_text("something else\n")
    with pytest.raises(ValueError, match="j is not the unfinished work of a run"):
        Journal(path, {"a": 2})
    assert (tmp_path / "j").read_text() == "something else\n"


def test_columns_of_several_types_become_text(tmp_path):
    import pandas as pd

    from many_texts import tables

    rows = [{"a": 1, "b": 1, "c": [1], "d": None, "e": 2**70}, {"a": 0.5, "b": "x", "c": [2, 3], "d": None, "e": 1},
            {"a": None, "c": None, "f": {"g": "\ud800"}}]
    columns = tables.Columns(typed=True)
    rows = [row.values for row in columns.pass_on(map(tables.Row, rows))]
    tables.write(str(tmp_path / "t.parquet"), iter(rows), columns.types())
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert frame["a"].tolist()[:2] == [1, 0.5] and frame["b"].tolist()[:2] == ["1", "x"]
    assert frame["c"][1].tolist() == [2, 3] and frame["e"][0] == str(2**70) and frame["f"][2] == {"g": "\ufffd"}


def test_blocks_follow_the_workers_and_begin_small():
    from many_texts.run import COMMANDS, blocks_of, sizes
    from many_texts.work import Text

    def blocks(n, n_workers, skip=(), n_bytes=1):
        texts = (Text(i, "x" * n_bytes) for i in range(n) if i not in skip)
        made = list(blocks_of(texts, sizes(n - len(skip), n_workers, COMMANDS["generate"])))
        assert all(place == block[0].place for place, block in made)
        assert [text.place for _, block in made for text in block] == [i for i in range(n) if i not in skip]
        return [len(block) for _, block in made]

    assert blocks(256, 4) == [64] * 4
    assert blocks(100, 4) == [25] * 4  # not 64 and 36
    assert blocks(3, 4) == [1] * 3 and blocks(0, 4) == []
    assert blocks(300, 4) == [38] * 7 + [34]
    assert blocks(2000, 2)[:6] == [16, 16, 32, 32, 63, 63]
    assert blocks(10, 1, skip=(3, 4)) == [3, 5]  # a block is a piece of the input
    assert blocks(10, 1, n_bytes=2**15) == [2] * 5 and blocks(3, 1, n_bytes=2**17) == [1] * 3


def test_an_input_that_changes_is_noticed(tmp_path):
    """Also where the changed rows are others than the texts, or the file is longer or shorter."""
    from many_texts import tables
    from many_texts.run import Rows

    path = tmp_path / "in.csv"
    lines = [f"text {i},{i}\n" for i in range(200)]
    write = lambda lines: path.write_text("text,n\n" + "".join(lines))
    write(lines)
    rows = Rows(tables.Source(str(path)), "text")
    assert len(list(rows.first(tables.Columns(typed=False)))) == rows.n == 200
    digest = rows.digest()
    assert [text.text for text, _ in rows] == [f"text {i}" for i in range(200)]
    changed = [*lines[:150], lines[150].replace("150\n", "151\n"), *lines[151:]]
    for other, where in ((lines[::-1], "from row 1 on"), (changed, "from row 129 on"), (lines[:-1], "from row 193 on"),
                         (lines[:128], "there are fewer rows"), ([*lines, "x,1\n"], "from row 193 on")):
        write(other)
        got = []
        with pytest.raises(ValueError, match=f"in.csv was changed while it was in use.*{where}"):
            got += rows  # none of a piece that has changed comes out
        again = Rows(tables.Source(str(path)), "text")
        assert list(again.first(tables.Columns(typed=False))) and again.digest() != digest


def test_a_row_that_is_repaired_is_another_input(tmp_path):
    """Its values are the same, without the field that was too many: the error of before must not be kept."""
    from many_texts import tables
    from many_texts.run import Rows

    digests = set()
    for line in ("x,1,2\n", "x,1\n"):
        (tmp_path / "in.csv").write_text("text,n\n" + line)
        rows = Rows(tables.Source(str(tmp_path / "in.csv")), "text")
        assert [text.error is None for text in rows.first(tables.Columns(typed=False))] == [line == "x,1\n"]
        digests.add(rows.digest())
    assert len(digests) == 2


@pytest.mark.parametrize("suffix", [".progress", ".lock"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "link to nothing"])
def test_files_beside_the_output_are_ones_own(tmp_path, monkeypatch, kind, suffix):
    """Nothing is written through a link, and nothing waits for a named pipe: it is refused before the work."""
    from many_texts.journal import open_own
    from many_texts.run import only_run

    precious, path = tmp_path / "precious", tmp_path / f"out.csv{suffix}"
    precious.write_text("precious")
    {"link": path.symlink_to, "hard link": path.hardlink_to, "pipe": lambda _: os.mkfifo(path),
     "link to nothing": lambda _: path.symlink_to(tmp_path / "nothing")}[kind](precious)
    for opened in (lambda: open_own(str(path)), only_run(str(tmp_path / "out.csv")).__enter__):
        with pytest.raises(OSError, match=f"out.csv{suffix} is not a regular file"):
            opened()
    assert precious.read_text() == "precious" and not (tmp_path / "nothing").exists()
    path.unlink()
    path.write_text("")
    os.close(open_own(str(path)))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OSError, match="belongs to another user"):
        open_own(str(path))


def test_stop_and_samples_are_those_of_gpt2(shakespeare):
    from gpt2 import generate
    from many_texts.work import Text, fingerprint, generate_block

    encoder, hparams, params = shakespeare
    texts, how = ["ROMEO:", "JULIET:\nO", "To be"], {"temperature": 0.9, "top_k": 50, "top_p": None}
    model = ("shakespeare", None, fingerprint("shakespeare", None))
    results = generate_block([Text(place, text) for place, text in enumerate(texts, 5)], model,
                             n_tokens_to_generate=30, n_samples=3, stop="the", seed=7, **how)
    n_stopped = 0
    for place, (text, rows) in enumerate(zip(texts, results, strict=True), 5):
        assert [row["sample"] for row in rows] == [1, 2, 3]
        for i, row in enumerate(rows):
            ids = generate(encoder.encode(text), params, hparams["n_head"], 30, stop_id=encoder.eot_token,
                           seed=seed_of(7 + i, place), **how)
            whole = encoder.decode(ids)
            assert row["continuation"] == whole.partition("the")[0]
            assert encoder.decode(ids[: row["n_tokens"]]).startswith(row["continuation"])
            assert row["n_tokens"] <= 30 and (row["n_tokens"] == len(ids) or "the" in whole)
            n_stopped += row["n_tokens"] < len(ids)
    assert n_stopped  # the work ends with the text


def test_an_option_that_does_not_fit_the_model_ends_the_run(shakespeare):
    """It is no error of each text."""
    from many_texts.work import Text, fingerprint, generate_block

    model = ("shakespeare", None, fingerprint("shakespeare", None))
    with pytest.raises(ValueError, match="n_tokens_to_generate must be a whole number from 1 to 256 .*, not 257"):
        generate_block([Text(0, "a")], model, n_tokens_to_generate=257)


def test_a_text_of_100_mb_is_refused_at_once(shakespeare):
    from many_texts.work import Text, fingerprint, generate_block

    model = ("shakespeare", None, fingerprint("shakespeare", None))
    result, = generate_block([Text(0, "a " * 50_000_000)], model, n_tokens_to_generate=1)
    assert "100,000,000 characters are more than can fit" in result["error"]


def test_the_bar_fits_into_60_columns():
    from tqdm import tqdm

    from many_texts.run import BAR

    line = tqdm.format_meter(999_999, 1_000_000, 86_399, ncols=60, bar_format=BAR, postfix="123,456 tokens/s")
    assert len(line) <= 60 and line.endswith("123,456 tokens/s]") and "999999/1000000 texts" in line


def test_workers_that_die_while_they_start(monkeypatch):
    """They are started again, then the run ends with one line."""
    import distributed

    from many_texts import cluster

    failures = ["Nanny failed to start."] * 2

    def local_cluster(**options):
        assert options["security"].require_encryption
        if failures:
            raise RuntimeError(failures.pop())
        return "cluster"

    monkeypatch.setattr(distributed, "LocalCluster", local_cluster)
    assert cluster.local_cluster(1) == "cluster"
    failures += ["Nanny failed to start."] * 3
    with pytest.raises(ConnectionError, match=r"the worker processes do not start \(3 attempts\): Nanny failed"):
        cluster.local_cluster(1)


@pytest.mark.parametrize("address", ["127.0.0.1:0", None])
def test_a_dashboard_is_announced_where_there_is_one(address):
    import distributed

    from many_texts.cluster import dashboard_of

    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=address, protocol="tcp",
                                  host="127.0.0.1") as cluster, distributed.Client(cluster.scheduler_address) as client:
        assert client.dashboard_link.endswith("/status")
        assert dashboard_of(client) == (client.dashboard_link if address else None)


# --- faults -------------------------------------------------------------------------------------


def interrupted(tmp_path, shakespeare, how, n=700):
    """Run generate on n texts, interrupt it with `how(process)` when some blocks are finished, and run it again."""
    texts, out = make_texts(n), tmp_path / "out.jsonl"
    (tmp_path / "in.txt").write_text("\n".join(texts))
    command = "generate", tmp_path / "in.txt", "--out", out, "-n", "25", "--n_workers", "2"
    process = start(*command)
    wait_for(lambda: n_blocks(out) >= 2 or process.poll() is not None, 60)
    before = how(process)
    _, first = process.communicate(timeout=200)
    assert not before or not out.exists()
    second = b""
    if before:
        process = start(*command)
        _, second = process.communicate(timeout=200)
    assert process.returncode == 0, second
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    encoder, hparams, params = shakespeare
    ids = generate_batch([encoder.encode(text) for text in texts], params, hparams["n_head"], 25,
                         stop_id=encoder.eot_token)
    assert [row["continuation"] for row in rows] == [encoder.decode(new) for new in ids]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]
    return first.decode(), second.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])  # kill, and a terminal that is closed
def test_kill_leaves_nothing_of_what_is_piped_in(tmp_path, number):
    process = start("score", "-", "--out", tmp_path / "out.jsonl", stdin=subprocess.PIPE,
                    env={**os.environ, "TMPDIR": str(tmp_path)},
                    preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # nohup has SIGHUP ignored
    process.stdin.write(b"To be")
    process.stdin.flush()
    wait_for(lambda: list(tmp_path.glob("*/stdin.txt")))
    process.send_signal(number)
    assert process.wait(30) == 130 and not list(tmp_path.iterdir())
    assert process.communicate() == (b"", b"")


def test_a_full_disk_of_temporary_files_is_named(tmp_path, batch):
    result = batch("score", "-", "--out", tmp_path / "out.jsonl", input=100_000 * "x", env={"TMPDIR": str(tmp_path)},
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)))
    assert "/stdin.txt: File too large" in error_line(result) and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tmp_path, shakespeare):
    def kill_workers(process):
        for worker in worker_processes(process):
            worker.kill()
            time.sleep(0.5)

    interrupted(tmp_path, shakespeare, kill_workers)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_goes_on_where_it_was(tmp_path, shakespeare, number):
    def kill_run(process):
        children = descendants(process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as Ctrl-C does
        else:
            process.send_signal(number)
        process.wait(30)
        wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
        assert n_blocks(tmp_path / "out.jsonl") >= 2
        return True

    first, second = interrupted(tmp_path, shakespeare, kill_run)
    assert "were finished before" in second
    assert "Traceback" not in first, first


@pytest.mark.slow
def test_a_full_disk(tmp_path, shakespeare, batch):
    rows = [json.dumps({"text": text, "other": 2000 * "x"}) for text in make_texts(400)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    out = tmp_path / "out.csv"
    command = "score", tmp_path / "in.jsonl", "--out", out, "--n_workers", "1"
    for limit in (40_000, 500_000):  # bytes that a file may have: too few for the journal, then for the output
        full = lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        result = batch(*command, preexec_fn=full)
        assert "File too large" in result.stderr.splitlines()[-1] and result.returncode == 1, result.stderr
        assert not out.exists() and not list(tmp_path.glob("*.part")) and n_blocks(out) >= 1
    result = batch(*command)
    assert result.returncode == 0 and "were finished before" in result.stderr
    assert len(read(out)) == 400 and not list(tmp_path.glob("*.progress"))


@pytest.mark.slow
def test_an_output_that_appears_during_the_run_is_kept(tmp_path, batch):
    (tmp_path / "in.txt").write_text("\n".join(make_texts(700)))
    out = tmp_path / "out.jsonl"
    command = "generate", tmp_path / "in.txt", "--out", out, "-n", "25", "--n_workers", "1"
    process = start(*command)
    wait_for(lambda: n_blocks(out) >= 1, 60)
    out.write_text("precious")
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1 and f"error: {out} appeared during" in errors and out.read_text() == "precious"
    result = batch(*command, "--overwrite")
    assert result.returncode == 0 and "700 were finished before" in result.stderr and len(read(out)) == 700


@pytest.mark.slow
def test_two_runs_and_another_run(tmp_path, batch):
    (tmp_path / "in.txt").write_text("\n".join(make_texts(700)))
    out = tmp_path / "out.jsonl"
    command = "generate", tmp_path / "in.txt", "--out", out, "--n_workers", "1"
    process = start(*command)
    wait_for(lambda: n_blocks(out) >= 1, 60)
    assert "another run is writing" in error_line(batch(*command))
    process.kill()
    process.wait()
    other = batch(*command, "-n", "3")
    assert other.returncode == 1 and "n_tokens_to_generate was 40 and is 3" in other.stderr.splitlines()[-1]
    assert batch(*command, "-n", "3", "--overwrite").returncode == 0
    assert {json.loads(line)["n_tokens"] for line in out.read_text().splitlines()} <= {0, 1, 2, 3}


def deadly(texts):
    """What a worker does in the test below: it dies where memory would run out."""
    if "deadly" in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"n_tokens": len(text)} for text in texts]


@pytest.mark.slow
def test_a_text_that_kills_its_workers_gets_an_error_and_no_other_does():
    import dask
    import distributed  # noqa: F401  (before the setting: it brings the others)

    from many_texts.cluster import connected, finished

    blocks = [(number, ["a", "bb", "deadly" if number == 2 else "ccc"]) for number in range(8)]
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), connected(None, 2) as client:
        rows = {number: (texts, rows) for number, texts, rows in finished(client, deadly, blocks)}
    assert sorted(rows) == list(range(8))
    for number, (texts, new) in rows.items():
        assert [row.get("n_tokens") for row in new] == [len(text) if text != "deadly" else None for text in texts]
        assert [row["error"][:23] for row in new if "error" in row] == ["the worker died, 2 times"[:23]] * (number == 2)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 0.2, 0.5, 1, 2])
def test_ctrl_c_while_workers_start(tmp_path, delay):
    """Nothing but the end of the line, and no process stays."""
    (tmp_path / "in.txt").write_text("\n".join(make_texts(700)))
    process = start("generate", tmp_path / "in.txt", "--out", tmp_path / "out.jsonl", "-n", "25", "--n_workers", "2")
    wait_for(lambda: worker_processes(process), 60)
    time.sleep(delay)
    children = descendants(process)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    lines = [line for line in errors.decode().splitlines() if line.strip() and "texts" not in line]
    assert process.returncode == 130 and output == b"" and lines == []
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    assert not list(tmp_path.glob("*.lock"))


def counting(texts):
    """What a worker does in the test below: it says how far it is."""
    from many_texts import cluster

    report = cluster.reporter()
    for n in range(len(texts) + 1):
        time.sleep(0.6)
        report(n)
    return [{"n_tokens": 1} for _ in texts]


def listening():
    """The addresses on which this process and its children wait for connections."""
    import psutil

    return {connection.laddr for process in (psutil.Process(), *psutil.Process().children(recursive=True))
            for connection in process.net_connections(kind="inet") if connection.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_only_this_process_can_use_its_workers_and_it_sees_how_far_they_are():
    import socket
    import ssl

    import distributed

    from many_texts.cluster import connected, finished

    before = listening()  # what other tests have left
    with connected(None, 1) as client:
        seen = []
        assert len(list(finished(client, counting, [(0, [1, 2, 3]), (3, [4])], seen.append))) == 2
        assert {1, 2} <= set(seen) and max(seen) <= 4
        address = client.scheduler.address
        dashboard = int(re.search(r":(\d+)/", client.dashboard_link)[1])
        for stranger in (address.replace("tls", "tcp"), address):
            with pytest.raises((OSError, TypeError)):
                distributed.Client(stranger, timeout=3)
        with pytest.raises(OSError, match="certificate"):
            distributed.Client(address, timeout=3, security=distributed.Security.temporary())
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        n_refused = 0
        for place in listening() - before:
            if place.port != dashboard:
                assert place.ip == "127.0.0.1"
                with socket.create_connection(place, timeout=2) as plain, pytest.raises(OSError):
                    with context.wrap_socket(plain) as encrypted:  # without a certificate
                        encrypted.sendall(bytes(100))
                        if not encrypted.recv(1):
                            raise ConnectionResetError
                n_refused += 1
        assert n_refused >= 3  # the scheduler, the worker, and what restarts the worker


# --- a scheduler and workers --------------------------------------------------------------------


def commands_of(section):
    """The first block of shell commands in a section of docs/many-texts.md."""
    text = (ROOT / "docs" / "many-texts.md").read_text(encoding="utf-8").partition(f"## {section}\n")[2]
    return re.search(r"```bash\n(.*?)```", text, re.S)[1]


@pytest.mark.slow
def test_certificates_as_the_docs_make_them(tmp_path, batch):
    """With them all three talk to each other; without them batch.py is refused."""
    subprocess.run(["bash", "-euc", commands_of("Who can connect")], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "dask.key").stat().st_mode & 0o77 == 0
    env = {"DASK_CONFIG": str(tmp_path / "dask.yaml")}
    command = "score", "-", "--out", tmp_path / "out.jsonl", "--scheduler"
    with cluster(n_workers=1, protocol="tls", env={**os.environ, **env}) as (address, _):
        result = batch(*command, address, input="To be\n", env=env)
        assert result.returncode == 0 and json.loads((tmp_path / "out.jsonl").read_text())["n_tokens"] == 2
        line = error_line(batch(*command, address, "--overwrite", input="To be\n"))
        assert "docs/many-texts.md says how to set the certificates" in line


@pytest.mark.slow
def test_the_advice_where_workers_are_missing_works(tmp_path):
    """It is given at once, and starts a worker that comes."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    (tmp_path / "in.txt").write_text("To be")
    command = "score", tmp_path / "in.txt", "--out", tmp_path / "out.jsonl", "--scheduler", address
    failed = start(*command)
    failed.wait(60)
    processes = []

    def follow(advice, *more):
        words = re.search(r"python -m (dask .*)", advice)[1].split()
        processes.append(subprocess.Popen([sys.executable, "-m", *words, *more], stderr=subprocess.DEVNULL, cwd=ROOT))

    try:
        follow(failed.communicate()[1].decode(), "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        time.sleep(5)
        process = start(*command)
        advice = process.stderr.readline().decode()
        assert advice.startswith(f"waiting up to 60 s for a worker to come to {address}; start one in a clone")
        follow(advice, "--no-dashboard")
        _, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_score_on_a_scheduler_whose_worker_is_killed(tmp_path, shakespeare):
    texts = make_texts(3000)
    with open(tmp_path / "in.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    out = tmp_path / "out.parquet"
    with cluster() as (address, processes):
        process = start("score", tmp_path / "in.csv", "--out", out, "--scheduler", address)
        wait_for(lambda: n_blocks(out) >= 1 or process.poll() is not None, 60)
        for child in descendants(processes[1]):
            child.kill()  # the worker; what started it starts another one
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    frame = read(out)
    assert frame["text"].tolist() == texts
    for place in range(0, 3000, 100):
        assert frame["log_prob"][place] == pytest.approx(score(texts[place], shakespeare).total, rel=1e-4)


@pytest.mark.slow
def test_a_scheduler_that_is_killed(tmp_path, batch):
    (tmp_path / "in.txt").write_text("\n".join(make_texts(5000)))
    out = tmp_path / "out.jsonl"
    command = "generate", tmp_path / "in.txt", "--out", out, "-n", "2", "--scheduler"
    with cluster() as (address, processes):
        process = start(*command, address)
        wait_for(lambda: n_blocks(out) >= 1 or process.poll() is not None, 60)
        processes[0].kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors.endswith(b"error: the scheduler is gone\n") and b"Traceback" not in errors
    with cluster() as (address, _):
        result = batch(*command, address)
    assert "were finished before" in result.stderr and len(out.read_text().splitlines()) == 5000


@pytest.mark.slow
def test_workers_that_cannot_work(tmp_path, batch):
    (tmp_path / "in.txt").write_text("x")
    command = "score", tmp_path / "in.txt", "--out", tmp_path / "out.jsonl", "--scheduler"
    assert "there is no Dask scheduler at" in error_line(batch(*command, f"tcp://127.0.0.1:{free_port()}"))
    with cluster(n_workers=1) as (address, _):
        result = batch(*command, address, "--models_dir", tmp_path / "none", model="124M")
        *waiting, line = result.stderr.splitlines()
        assert f"does not have the model '124M': {tmp_path / 'none' / '124M' / 'checkpoint'} is missing" in line
        assert result.returncode == 1 and all(notice.startswith("waiting up to 60 s") for notice in waiting)
    with cluster(n_workers=1, cwd=tmp_path) as (address, _):
        assert "start the workers in a clone of this project" in batch(*command, address).stderr.splitlines()[-1]
