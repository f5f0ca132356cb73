"""lens.py as people start it: each command as a process, its table and its picture."""
import csv
import inspect
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import BUNDLED, MODELS, ROOT, TEXT, error_line, read_png

import batch
import gpt2
import lens
from cli.tables import Table, print_table
from cli.terminal import run_command_line
from many_texts.tables import whole_file
from utils import load_encoder_hparams_and_params

PAIR = ["First Murderer. Second Murderer. First", "First Senator. Second Senator. First", " M", " S"]
COMMANDS = {
    "next_tokens": ([TEXT, "--k", "3"], ["·C", "417", "70.8", "█"], 3 + 1),
    "score": ([TEXT], ["log-probability", "bits per byte", "perplexity", "itizen"], 1 + 21 + 1 + 6),
    "attention": ([TEXT, "--layer", "1", "--head", "5", "--k", "2"], ["layer 1, head 5 looks at", "2 itizen"], 1 + 21),
    "logit_lens": ([TEXT], ["layer 5", "·C 71%"], 1 + 21),
    "attribution": ([TEXT, " C", " S"], [f"part{'':15}adds to the logit of ·C minus ·S\n",
                                         f"blocks.1.attn_out{'+0.622':>34}\n", f"sum{'+1.211':>48}\n"], 1 + 15 + 1),
    "saliency": ([TEXT, " C", " S"], ["token   saliency for the logit of ·C minus ·S\n", "+0.", "itizen"], 1 + 21),
    "ablation": ([TEXT, "--answer", " C", "--by", "mean"], ["whole model", "·C 71%", "change of log-probability",
                                                               "head 5", "layer 5  "], 3 + 1 + 6),
    "patching": ([*PAIR, "--at", "z"], ["clean text", "head  layer 0", "layer 5"], 4 + 1 + 6),
    "attribution_patching": ([*PAIR, "--at", "z"], ["corrupted text", "logit of ·M minus ·S", "layer 5"], 4 + 1 + 6),
    "path_patching": ([*PAIR, "--receiver", "blocks.3.attn.v.2"], ["head  layer 0", "layer 5"], 4 + 1 + 6),
    "induction": (["--n", "20"], ["layer  head  induction  previous token"], 1 + 36),
    "detect_heads": ([TEXT, "previous"], ["layer  head  previous"], 1 + 10),
    "circuits": (["--k", "3"], ["queries", "1.2 → 2.3", "OV"], 1 + 3 + 1 + 1 + 3),
    "tokens": ([TEXT], ["itizen", "891"], 1 + 21),
    "neighbours": (["king - he + she", "--k=4"], ["·queen", "832"], 1 + 4),
    "parameters": ([], ["blocks.0-5.mlp.c_fc", "2,915,328"], 1 + 9 + 1),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_pictures(run, lens_py, command, tmp_path):
    arguments, shown, n_lines = COMMANDS[command]
    arguments = [command, *arguments, *BUNDLED, "--out", str(tmp_path / "it.png")]
    if command in ("attention", "ablation"):  # as a process: the pictures need no display
        result = run(*arguments, program="lens.py", env={"DISPLAY": "", "MPLBACKEND": "TkAgg"})
    else:
        result = lens_py(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == n_lines, result.stdout
    for text in shown:
        assert text in result.stdout
    assert result.stderr == f"the picture is in {tmp_path / 'it.png'}\n"
    width, height, n_values = read_png((tmp_path / "it.png").read_bytes())
    assert 300 < width < 2000 and 100 < height < 2000 and n_values > 20


def test_commands_take_text_that_looks_like_a_number_and_stdin(run, lens_py):
    for text in ("123", "[1, 2]", "-5"):
        result = lens_py("tokens", text, *BUNDLED)
        pieces = [line.split()[1] for line in result.stdout.splitlines()[1:]]
        assert "".join(pieces).replace("·", " ") == text, result.stderr
    assert run("tokens", *BUNDLED, program="lens.py", input="123\n").stdout == lens_py("tokens", "123", *BUNDLED).stdout


@pytest.mark.slow
def test_score_of_a_file_longer_than_the_context(run, tmp_path, shakespeare):
    text = "".join(f"ROMEO:\nIt is the {n}th night.\n\n" for n in range(40)) + "안녕"
    path = tmp_path / "123"
    path.write_bytes(text.encode())
    result = run("score", "--file", str(path), "--stride", "200", *BUNDLED, program="lens.py")
    expected = lens.score(text, shakespeare, stride=200)
    assert len(expected.ids) > 256
    rows = dict(line.rsplit(None, 1) for line in result.stdout.splitlines())
    assert rows == {"tokens": f"{len(expected.ids):,}", "bytes": f"{len(text.encode()):,}",
                    "total log-probability": f"{expected.total:,.3f}", "perplexity": f"{expected.perplexity:,.3f}",
                    "total in bits": f"{-expected.total / math.log(2):,.3f}",
                    "bits per byte": f"{expected.bits_per_byte:.4f}"}
    assert "--each True" in result.stderr


ROWS = ["First Citizen. Second Citizen. First", " C"], ["First Senator. Second Senator. First", " S"]


def write_rows(path, header, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.mark.slow
def test_questions_about_the_rows_of_a_file(lens_py, tmp_path, shakespeare):
    file = write_rows(tmp_path / "rows.csv", ["text", "answer"], ROWS)
    shown = lens_py("ablation", "--file", file, *BUNDLED).stdout
    mean = lens.ablation([text for text, _ in ROWS], shakespeare, [answer for _, answer in ROWS])
    assert "the answer in 1 of 2 texts" in shown
    assert f"{mean.change[1, 5]:+.2f} ±{mean.standard_error[1, 5]:.2f}" in shown
    shown = lens_py("attribution", "--file", file, *BUNDLED).stdout
    assert re.search(r"embed +[+-]\d\.\d+ ±\d\.\d+", shown)
    shown = lens_py("attribution", "--file", file, "--wrong", " M", *BUNDLED).stdout  # the same for all rows
    mean = lens.attribution([text for text, _ in ROWS], shakespeare, [answer for _, answer in ROWS], " M")
    assert f" {mean.values[0]:+.3f} ±" in shown.splitlines()[1]
    earlier = write_rows(tmp_path / "earlier.csv", ["position", "answer", "text"], [(1, a, t) for t, a in ROWS])
    at_the_end, at_position_1 = (lens_py("ablation", "--file", name, *BUNDLED).stdout for name in (file, earlier))
    assert at_the_end != at_position_1 != ""
    file = write_rows(tmp_path / "pairs.csv", ["clean", "corrupted", "answer", "wrong"], [PAIR, PAIR])
    for command in ("patching", "attribution_patching", "path_patching"):
        one, several = (lens_py(command, *options, *BUNDLED).stdout for options in (PAIR, ["--file", file]))
        numbers = re.findall(r"\d\.\d\d", one)
        assert re.findall(r"(\d\.\d\d) ±0.00", several) == numbers[2:]  # twice the same: no error


@pytest.mark.parametrize("header, rows, arguments, status, message", [
    (["text", "token"], ROWS, [], 1, "has no column answer: its columns are text, token, and text, answer are needed"),
    (["text", "answer"], [], [], 1, "has no rows"),
    (["text", "answer"], [["x", ""]], [], 1, "the answer of row 1 is empty"),
    (["text", "answer", "position"], [["x", " C", "end"]], [], 1, "position must be a whole number"),
    (["text", "answer"], ROWS, ["a text"], 2, "text comes from a column of --file"),
    (["text", "answer"], [["x", "sister"]], [], 2, "answer must be one token"),
    (["text", "answer"], [*ROWS, ["O Romeo", " and", " thou"]], [], 1, "line 4 has 3 fields where the header has 2"),
    (["text", "answer", "wrong"], [["x", " C", " S"], ["y", " C"]], [], 1, "line 3 has 2 fields where the header has"),
    (["text", "answer", "text"], [["x", " C", "y"]], [], 1, "the column 'text' is there twice"),
    (["text", "answer", "position"], [["x", " C", 0]], ["--position", "0"], 2, "position comes from a column of --f"),
])
def test_a_bad_file_of_rows_is_one_line(lens_py, tmp_path, header, rows, arguments, status, message):
    file = write_rows(tmp_path / "rows.csv", header, rows)
    result = lens_py("ablation", *arguments, "--file", file, *BUNDLED)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (status, "", 1)
    assert message in result.stderr and result.stderr.startswith("error: ")


def test_a_pattern_of_ones_own_from_a_file(lens_py, tmp_path, shakespeare):
    pattern = np.tril(np.random.default_rng(0).random((3, 3)))
    expected = lens.detect_heads("O Romeo", shakespeare, pattern).scores.max()
    np.savetxt(tmp_path / "own.csv", pattern, delimiter=",")
    np.save(tmp_path / "own.npy", pattern)
    for name in ("own.csv", "own.npy"):
        shown = lens_py("detect_heads", "O Romeo", str(tmp_path / name), *BUNDLED).stdout
        assert shown.splitlines()[1].split()[-1] == f"{expected:.3f}"
        (tmp_path / name).write_bytes(b"")
        assert f"{name} is empty" in error_line(lens_py("detect_heads", "O Romeo", str(tmp_path / name), *BUNDLED), 2)


def test_the_answers_id_works_and_a_likelier_spelling_is_named(lens_py):
    by_text, by_id = (lens_py("ablation", TEXT, answer, *BUNDLED) for answer in (" C", "#417"))
    assert by_text.stdout == by_id.stdout and by_text.stderr == by_id.stderr == ""
    result = lens_py("ablation", TEXT, "C", *BUNDLED)
    assert result.returncode == 0 and "' C', with a space before it, one of 7" in result.stderr
    for command in ("ablation", "attribution", "saliency", "patching", "attribution_patching", "path_patching"):
        assert '"#417"' in lens_py(command, "--help").stdout and " 417" not in lens_py(command, "--help").stdout


@pytest.mark.parametrize("arguments, status, message", [
    (["next_token", "x"], 2, "unknown command 'next_token' (did you mean next_tokens?)"),
    (["tokens", "x", "--layer", "1"], 2, "unknown option '--layer'"),
    (["attention", "x", "--layer", "9"], 2, "layer must be a whole number from 0 to 5 (the last layer), not 9"),
    (["tokens", "x", "--out", "a.txt"], 2, "--out a.txt: the picture's file must end in .png, .pdf or .svg"),
    (["tokens", "x", "--out", "none/a.png"], 1, "--out none/a.png: the folder"),
    (["score", "x", "--file", "y"], 2, "score a text or a file, not both: got 'x' and --file y"),
    (["score", "--file", "nowhere.txt"], 1, "nowhere.txt"),
    (["neighbours", "sister"], 2, "its pieces are ·s is ter"),
    (["ablation", "x"], 2, "answer is missing"),
    (["ablation", "--file", "none.csv"], 1, "none.csv: No such file or directory"),
    (["detect_heads", "x", "none.csv"], 1, "none.csv: there is no such file"),
    (["detect_heads", "x x", "duplicate", "--k", "0"], 2, "k must be a whole number, at least 1, not 0"),
    (["detect_heads", "x", "foo"], 2, "previous, first, or a .csv or .npy file, not 'foo'"),
    (["attribution", "x", "sister"], 2, "answer must be one token, but 'sister' is 3: s is ter"),
    (["patching", "The king", "The mighty king", " of"], 2, "clean: The ·king corrupted: The ·might y ·king"),
])
def test_bad_commands_are_one_line(lens_py, arguments, status, message):
    result = lens_py(*arguments, *BUNDLED)
    assert result.returncode == status and result.stdout == ""
    assert message in result.stderr and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX can")
@pytest.mark.parametrize("command, name", [(["tokens"], "a.png"), (["page", "--overwrite"], "a.html")])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(lens_py, tmp_path, command, name):
    import resource

    path, limits = tmp_path / name, resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1]))
    try:
        result = lens_py(*command, "x", *BUNDLED, "--out", str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.returncode == 1 and result.stderr.startswith("error: ")
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(os.name != "posix", reason="makes a symbolic link")
def test_what_is_written_does_not_go_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("old")
    (tmp_path / f"a.png.{os.getpid()}.part").symlink_to(tmp_path / "precious")
    with whole_file(tmp_path / "a.png") as file:
        file.write(b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"precious": "old", "a.png": "new"}


def test_a_picture_is_written_even_if_nobody_reads_the_table(lens_py, tmp_path, monkeypatch):
    def pipe_is_closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("cli.tables.print_table", pipe_is_closed)
    assert lens_py("tokens", "x", *BUNDLED, "--out", str(tmp_path / "a.png")).returncode == 141
    assert read_png((tmp_path / "a.png").read_bytes())


@pytest.mark.slow
def test_commands_without_matplotlib(run, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('hidden')")
    env = {"PYTHONPATH": str(tmp_path)}
    assert "891" in run("tokens", TEXT, *BUNDLED, program="lens.py", env=env).stdout
    result = run("tokens", TEXT, *BUNDLED, "--out", "x.png", program="lens.py", env=env)
    assert result.returncode == 1 and result.stdout == "" and "pip install matplotlib" in result.stderr


@pytest.mark.slow
def test_without_a_model_offline_the_bundled_one_answers(run, tmp_path):
    result = run("parameters", "--models_dir", str(tmp_path), program="lens.py")
    assert "2,915,328" in result.stdout and "bundled model" in result.stderr
    assert lens.parameters(load_encoder_hparams_and_params("shakespeare", MODELS)).total == 2_915_328


def test_help_names_every_command_and_every_option(run):
    listed = run(program="lens.py").stdout
    assert listed == run("--help", program="lens.py").stdout
    assert [line.split()[0] for line in listed.splitlines() if line[:2] == "  " and line[2] != " "] == [*lens.COMMANDS]
    shown = run("attribution", "--help", program="lens.py").stdout
    for option in ("--text", "--answer", "--wrong", "--heads", "--out", "--model_size", "--models_dir"):
        assert option in shown
    assert "--hook" not in shown and "--model " not in shown


@pytest.mark.parametrize("program, command, function", [
    ("gpt2.py", [], gpt2.main), *(("lens.py", [name], function) for name, function in lens.COMMANDS.items()),
    *(("batch.py", [name], function) for name, function in batch.COMMANDS.items())])
def test_help_describes_every_option(monkeypatch, capsys, program, command, function):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run_command_line(function if not command else {command[0]: function}, [*command, "--help"])
    shown = capsys.readouterr().out
    rows = dict(re.findall(r"^  (?:-\w(?: \S+)?, )?(--\w+)(?: [A-Z]\S*)?(?:\n|  )\s*(\S.*)$", shown, re.M))
    assert {f"--{name}" for name in inspect.signature(function).parameters} | {"--help", "--version"} == {*rows}
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.slow
def test_short_options(run, tmp_path):
    result = run("attention", "O Romeo", "-l", "2", "-k", "1", "-m", "shakespeare", "-o", str(tmp_path / "a.svg"),
                 program="lens.py")
    assert result.returncode == 0 and (tmp_path / "a.svg").read_bytes().startswith(b"<?xml"), result.stderr


# --- tables ---


def wide_table(n_columns, n_repeated):
    rows = [[f"{i}", *(f"cell {i}.{j}" for j in range(n_columns))] for i in range(3)]
    return Table(">" + "<" * n_columns, ["", *(f"column {j}" for j in range(n_columns))], rows, n_repeated)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_wide_table_is_printed_in_blocks(capsys, width):
    print_table(wide_table(12, 1), width)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    blocks = printed.split("\n\n")
    assert len(blocks) > 1 and all(len(block.splitlines()) == 4 for block in blocks)
    assert all(block.splitlines()[2].startswith("1  cell 1.") for block in blocks)
    cells = [f"cell {i}.{j}" for i in range(3) for j in range(12)]
    assert sorted(re.findall(r"cell \d+\.\d+", printed)) == sorted(cells)  # each once


def test_a_table_that_fits_is_printed_in_one_piece(capsys):
    print_table(wide_table(12, 1), 200)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_cell_that_is_wider_than_the_terminal_is_cut(capsys):
    print_table(Table("<<", None, [["안" * 30, "end"], ["x", "y"]]), 20)
    assert capsys.readouterr().out.splitlines() == ["안" * 9 + "…", "x" + " " * 18 + "…"]


@pytest.mark.parametrize("command", [["attention", TEXT, "--layer", "1"], ["logit_lens", TEXT, "--k", "2"],
                                     ["next_tokens", TEXT], ["parameters"]])
def test_tables_fit_the_terminal(lens_py, monkeypatch, command):
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = lens_py(*command, *BUNDLED).stdout  # not a terminal: as wide as the table is
    monkeypatch.setenv("COLUMNS", "40")
    narrow = lens_py(*command, *BUNDLED).stdout
    assert max(map(len, narrow.splitlines())) <= 40 < max(map(len, wide.splitlines()))
    if command[0] in ("attention", "logit_lens"):
        assert set(wide.split()) == set(narrow.split())  # nothing is left out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.slow
def test_tables_fit_a_real_terminal():
    import fcntl
    import os
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    subprocess.run([sys.executable, "lens.py", "logit_lens", "O Romeo", *BUNDLED], stdout=theirs, cwd=ROOT, env=env,
                   stdin=subprocess.DEVNULL, check=True, timeout=100)
    os.close(theirs)
    lines = os.read(ours, 10**5).decode().splitlines()
    os.close(ours)
    assert max(map(len, lines)) <= 50 and "" in lines  # in blocks
