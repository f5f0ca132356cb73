"""The program as people start it: a real process, its stdout, its stderr and its exit status."""
import os
import signal
import subprocess
import sys

import pytest
from file_server import FileServer
from helpers import BUNDLED, ROOT, error_line

from gpt2 import generate


@pytest.fixture
def expected(shakespeare):
    """The text that the bundled model gives for a prompt, through the Python interface."""
    def expected(prompt, n=40, **options):
        encoder, hparams, params = shakespeare
        ids = encoder.encode(prompt) or [encoder.eot_token]
        return encoder.decode(generate(ids, params, hparams["n_head"], n, stop_id=encoder.eot_token, **options))

    return expected


def test_stdout_is_the_continuation_and_nothing_else(run, expected):
    result = run("ROMEO:", *BUNDLED)
    assert result.returncode == 0
    assert result.stdout == expected("ROMEO:")
    assert "40 tokens in" in result.stderr and "tokens/s" in result.stderr


@pytest.mark.parametrize("prompt", ["123", "[1, 2]", "None", "1e5", "it's -- fine", "True", "{'a': 1}", "'quoted'",
                                    '"quoted"', "a,b", "0x10", "안녕 🤖", "two\nlines\n", "-5 degrees"])
def test_a_prompt_is_always_text(run, expected, prompt):
    result = run(prompt, "5", *BUNDLED)
    assert result.returncode == 0, result.stderr
    assert result.stdout == expected(prompt, 5)
    assert run(f"--prompt={prompt}", "--n_tokens_to_generate=5", *BUNDLED).stdout == result.stdout


def test_options(run, expected):
    result = run("JULIET:", *BUNDLED, "--n_tokens_to_generate", "12", "--temperature", "0.9", "--top_k=50", "--top-p",
                 "0.95", "--seed", "3")
    assert result.stdout == expected("JULIET:", 12, temperature=0.9, top_k=50, top_p=0.95, seed=3)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_stdin_is_the_prompt(run, expected, arguments):
    assert run(*arguments, *BUNDLED, input="KING RICHARD\n").stdout == expected("KING RICHARD")


@pytest.mark.parametrize("arguments", [[""], []])
def test_an_empty_prompt_begins_a_new_text(run, expected, arguments):
    assert run(*arguments, *BUNDLED).stdout == expected("")


def test_without_a_model_offline_the_bundled_one_runs_and_says_so(run, expected, tmp_path):
    result = run("ROMEO:", "--models_dir", str(tmp_path))
    assert result.stdout == expected("ROMEO:")
    assert "124M" in result.stderr and "bundled model" in result.stderr and "cannot reach http://127" in result.stderr
    assert "Connection refused" in result.stderr


def test_a_named_model_is_never_replaced(run, tmp_path):
    assert "cannot reach" in error_line(run("ROMEO:", "--models_dir", str(tmp_path), "--model_size", "124M"))


def test_text_is_streamed():
    process = subprocess.Popen([sys.executable, "gpt2.py", "ROMEO:", "200", *BUNDLED], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    with process.stdout:
        first = os.read(process.stdout.fileno(), 100_000)
        rest = process.stdout.read()
    assert process.wait() == 0
    assert 0 < len(first) < len(rest)


def test_tensorflow_is_silent_and_not_imported_for_converted_weights(run):
    result = run("ROMEO:", "2", *BUNDLED, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "numpy" in result.stderr and "tensorflow" not in result.stderr


@pytest.mark.parametrize("arguments, status, message", [
    (["x", "--model_size", "nope"], 1, "there is no model 'nope'"),
    (["x", "--model_size", "../../etc"], 1, "'../../etc' is not a model's name"),
    (["x", "--model_size", ".."], 1, "'..' is not a model's name"),
    (["x", "--model_size", ""], 1, "'' is not a model's name"),
    (["x", "--n_tokens_to_generate", "0"], 1, "n_tokens_to_generate must be a whole number, at least 1, not 0"),
    (["x", "--n_tokens_to_generate", "-4"], 1, "n_tokens_to_generate must be a whole number, at least 1, not -4"),
    (["x", "--n_tokens_to_generate", "many"], 1, "n_tokens_to_generate must be a whole number, at least 1, not 'many'"),
    (["x", "--n_tokens_to_generate", "1.5"], 1, "n_tokens_to_generate must be a whole number, at least 1, not 1.5"),
    (["x", "--n_tokens_to_generate", "256"], 1, "1 tokens and 256 new ones make 257, more than the context of 256"),
    (["x " * 300, "1"], 1, "more than the context of 256"),
    (["x", "--temperature", "-1"], 1, "temperature must be a number, 0 (greedy) or more, not -1"),
    (["x", "--temperature", "nan"], 1, "temperature must be a number, 0 (greedy) or more, not 'nan'"),
    (["x", "--temperature", "1e999"], 1, "temperature must be a number, 0 (greedy) or more, not inf"),
    (["x", "--top_k", "0"], 1, "top_k must be a whole number, at least 1, not 0"),
    (["x", "--top_k", "1025", "--temperature", "1"], 1, "at most the vocabulary's 1024, not 1025"),
    (["x", "--top_p", "0"], 1, "top_p must be a number above 0 and at most 1, not 0"),
    (["x", "--top_p", "1.01"], 1, "top_p must be a number above 0 and at most 1, not 1.01"),
    (["x", "--seed", "one"], 1, "seed must be a whole number, 0 or more, not 'one'"),
    (["x", "--temprature", "1"], 2, "unknown option '--temprature' (did you mean 'temperature'?)"),
    (["x", "-k", "1"], 2, "unknown option '-k'"),
    (["x", "--seed"], 2, "--seed needs a value"),
    (["--not a flag"], 2, "a text that begins with a dash is given as --prompt=TEXT"),
    (["two", "words"], 1, "n_tokens_to_generate must be a whole number, at least 1, not 'words'"),
    ([*"123456789"], 2, "9 arguments are too many"),
])
def test_bad_command_lines(run, arguments, status, message):
    named = [] if "--model_size" in arguments or len(arguments) == 9 else BUNDLED
    assert message in error_line(run(*arguments, *named), status)


def test_a_prompt_that_is_not_utf8(run):
    result = run(*BUNDLED, input=b"caf\xe9", text=False)
    result.stdout, result.stderr = result.stdout.decode(), result.stderr.decode()
    assert "stdin is not UTF-8 text: byte 0xE9 at 3" in error_line(result)
    assert "lone surrogate, U+DCE9, at character 3" in error_line(run(b"caf\xe9", *BUNDLED))


def test_help_is_shown_and_nothing_generated(run):
    for arguments in (["--help"], ["x", "--help"], ["-h"]):
        result = run(*arguments, env={"PAGER": "cat"})
        assert result.returncode == 0 and result.stdout == "" and "n_tokens_to_generate" in result.stderr


def test_a_closed_pipe_ends_quietly():
    result = subprocess.run(f'"{sys.executable}" gpt2.py ROMEO: 200 {" ".join(BUNDLED)} | head -c 10', shell=True,
                            cwd=ROOT, capture_output=True, timeout=100)
    assert len(result.stdout) == 10 and result.stderr == b""


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("redirection, status, stderr", [
    (">&-", 1, "error: stdout is closed: there is nowhere to write to\n"),
    ("2>&-", 0, ""),
    ("<&-", 0, None),
    ("> /dev/full", 1, "error: [Errno 28] No space left on device\n"),
])
def test_closed_streams(redirection, status, stderr):
    result = subprocess.run(f'"{sys.executable}" gpt2.py ROMEO: 3 {" ".join(BUNDLED)} {redirection}', shell=True,
                            cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == status
    assert stderr is None or result.stderr == stderr


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_quietly(tmp_path):
    with FileServer({"124M/checkpoint": b"x" * 10**7}) as server:
        server.delay = 0.05
        # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
        program = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import gpt2, utils; "
                   "utils.run_command_line(gpt2.main)")
        process = subprocess.Popen([sys.executable, "-c", program, "ROMEO:", "--models_dir", str(tmp_path)], cwd=ROOT,
                                   env={**os.environ, "GPT2_BASE_URL": server.url}, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        os.read(process.stderr.fileno(), 1)  # the first of the progress bar
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_a_terminal_that_cannot_show_a_character(run):
    result = run("안녕", "3", *BUNDLED, env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
