"""The arguments of a command line: options, texts that begin with a dash, conversions, errors, help."""
from __future__ import annotations

import io
import re
import shlex
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cli
from cli.arguments import CommandLineError, bind

SHORT = {"n": "n_tokens", "t": "temperature", "o": "out"}


def program(prompt: str | None = None, n_tokens: int = 40, *, temperature: float = 0, top_k: int | None = None,
            seed: int | None = None, out: Path | None = None, echo: bool = False, each: bool | None = None):
    """Continue a text.

    A second paragraph, which is long enough to need more than one of the lines that eighty
    columns have.

    Args:
        prompt: the text to continue; without it, this: what is piped into stdin, which takes more words to
            describe than fit on one line.
        n_tokens: how many.
        temperature: 0 takes the most likely.
        out: a file.

    Raises:
        ValueError: never.
    """
    return locals()


def tokens(text: str = None, k=1, out: str = None):
    """The pieces of a text."""
    return {"command": "tokens", **locals()}


def next_tokens(text: str = None, n_tokens: int = 10, *, temperature: float = 1, echo: bool = False):
    """What follows."""
    return {"command": "next_tokens", **locals()}


COMMANDS = {"tokens": tokens, "next_tokens": next_tokens}


def called(arguments, component=program):
    """What a command line passes to the function, without what it leaves at None or False."""
    arguments = shlex.split(arguments) if isinstance(arguments, str) else arguments
    values = bind(component, arguments, SHORT)()
    return {name: value for name, value in values.items() if value is not None and value is not False}


def refused(arguments, component=program):
    with pytest.raises(CommandLineError) as error:
        called(arguments, component)
    return str(error.value)


def help_of(arguments, component=program):
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        assert bind(component, shlex.split(arguments), SHORT)() is None
    assert stderr.getvalue() == ""
    return stdout.getvalue()


DEFAULTS = {"n_tokens": 40, "temperature": 0}


@pytest.mark.parametrize("arguments, values", [
    ("", {}),
    ("x", {"prompt": "x"}),
    ("x 5", {"prompt": "x", "n_tokens": 5}),
    ("x -n 5 -t 0.5", {"prompt": "x", "n_tokens": 5, "temperature": 0.5}),
    ("-n5 -t.5 x", {"prompt": "x", "n_tokens": 5, "temperature": 0.5}),
    ("-n=5 x -t=1e-3", {"prompt": "x", "n_tokens": 5, "temperature": 0.001}),
    ("--n_tokens 5", {"n_tokens": 5}),
    ("--n-tokens=5", {"n_tokens": 5}),
    ("--top-k 3 --seed=7", {"top_k": 3, "seed": 7}),
    ("--seed -3", {"seed": -3}),  # whether that is in its range is for the function to say
    ("--top_k None x", {"prompt": "x"}),
    ("--out a/b.png", {"out": Path("a/b.png")}),
    ("--temperature 1" + 400 * "0", {"temperature": float("inf")}),
    ("--echo", {"echo": True}),
    ("--echo x", {"prompt": "x", "echo": True}),
    ("--echo True x", {"prompt": "x", "echo": True}),
    ("--echo=false x", {"prompt": "x"}),
    ("--noecho x", {"prompt": "x"}),
    ("x --no-echo", {"prompt": "x"}),
    ("--each", {"each": True}),
])
def test_values(arguments, values):
    assert called(arguments) == DEFAULTS | values


@pytest.mark.parametrize("text", ["123", "1e5", "[1, 2]", "{'a': 1}", "None", "True", "a=b", "", "'quoted'", "a,b",
                                  "two\nlines", "안녕 🤖", "caf\udce9"])
def test_a_text_stays_as_it_was_typed(text):
    for arguments in ([text], ["--prompt", text], [f"--prompt={text}"], ["--", text]):
        assert called(arguments) == DEFAULTS | {"prompt": text}


@pytest.mark.parametrize("text", ["-like this", "--like this", "-5 degrees", "-5", "-.5", "- item", "---", "--=x",
                                  "-dash", "-ing", "-dash-", "-Hello!", "--Hello!", "-é", "-\n", "--\n",
                                  "-n is a letter", "-well-known", "--seed 7"])
def test_a_text_may_begin_with_a_dash(text):
    for arguments in ([text], ["--prompt", text], [f"--prompt={text}"], ["--", text]):
        assert called(arguments) == DEFAULTS | {"prompt": text}
    assert called([text, "5"]) == DEFAULTS | {"prompt": text, "n_tokens": 5}


@pytest.mark.parametrize("text", ["--dash", "--dash=x y", "-x", "-x=1", "-seed", "-promt", "-help", "-", "--", "--seed",
                                  "-n5", "--help", "--noecho"])
def test_every_text_is_taken_after_two_dashes_or_an_equals_sign(text):
    for arguments in ([f"--prompt={text}"], ["--", text]):
        assert called(arguments) == DEFAULTS | {"prompt": text}


def test_a_single_dash_is_stdin():
    assert called("- 5") == DEFAULTS | {"n_tokens": 5}
    assert called("-") == DEFAULTS


@pytest.mark.parametrize("arguments, message", [
    ("--dash 5", "unknown option '--dash'; --help lists them all; a text that begins with a dash goes after --"),
    ("--promt=the cat", "unknown option '--promt' (did you mean --prompt?)"),
    ("x --temp 1", "unknown option '--temp' (did you mean --temperature?)"),
    ("x --n 1", "unknown option '--n'"),
    ("x -k 1", "unknown option '-k'"),
    ("x -seed 1", "unknown option '-seed' (did you mean --seed?)"),
    ("x -temperature 1", "(did you mean --temperature?)"),
    ("-help", "(did you mean --help?)"),
    ("x --no-prompt", "unknown option '--no-prompt'"),
    ("x --noecho=True", "unknown option '--noecho'"),
    ("x --seed", "--seed needs a value: a whole number"),
    ("x -n", "--n_tokens needs a value: a whole number"),
    ("--prompt --seed 1", "--prompt needs a value"),
    ("--prompt -n 1", "--prompt needs a value"),
    ("--prompt -- x", "--prompt needs a value"),
    ("x 5 --n_tokens 7", "n_tokens is given twice: '7' and '5'"),
    ("x --prompt y", "prompt is given twice: 'y' and 'x'"),
    ("--seed 1 --seed=2", "seed is given twice: '1' and '2'"),
    ("--echo --noecho", "echo is given twice"),
    ("two words", "n_tokens must be a whole number, not 'words'; a text of several words goes in quotes"),
    ("not all --n_tokens 5", "n_tokens is given twice: '5' and 'all'; a text of several words goes in quotes"),
    ("x 5 6", "unexpected argument '6'; a text of several words goes in quotes"),
    ("x many", "n_tokens must be a whole number, not 'many'"),
    ("-n 1.5", "n_tokens must be a whole number, not '1.5'"),
    ("-n None", "n_tokens must be a whole number, not 'None'"),
    ("-n 1" + 5000 * "0", "n_tokens must be a whole number, not '1000"),
    ("-t hot", "temperature must be a number, not 'hot'"),
    ("--echo=maybe", "echo must be True or False, not 'maybe'"),
])
def test_what_is_wrong_is_said_before_anything_runs(arguments, message):
    assert message in refused(arguments)
    assert len(refused(arguments)) < 250 and "\n" not in refused(arguments)


def test_what_fire_calls_on_new_pythons_warns_nobody(monkeypatch, recwarn):
    def deprecated(function):
        warnings.warn("'asyncio.iscoroutinefunction' is deprecated", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr("asyncio.iscoroutinefunction", deprecated)
    assert called("x") == DEFAULTS | {"prompt": "x"} and not recwarn.list


def test_required_parameters():
    def copy(source: str, target: str):
        return locals()

    assert called("a b", copy) == {"source": "a", "target": "b"}
    assert called("--target b a", copy) == {"source": "a", "target": "b"}
    assert refused("a", copy) == "target is missing; --help says what it is"
    assert refused("x", lambda *, n=1: None) == "unexpected argument 'x': this command takes only options"
    assert refused("a b", lambda source, *, out: None) == "unexpected argument 'b' (did you mean --out b?)"


@pytest.mark.parametrize("arguments, values", [
    ("tokens abc", {"command": "tokens", "text": "abc", "k": 1}),
    ("next-tokens abc", {"command": "next_tokens", "text": "abc", "n_tokens": 10, "temperature": 1}),
    ("--out o.png tokens abc", {"command": "tokens", "text": "abc", "k": 1, "out": "o.png"}),
    ("-k 3 tokens abc", {"command": "tokens", "text": "abc", "k": 3}),  # a parameter's name may be one letter
    ("--k=3 tokens abc", {"command": "tokens", "text": "abc", "k": 3}),
    ("--echo next_tokens tokens", {"command": "next_tokens", "text": "tokens", "n_tokens": 10, "temperature": 1,
                                   "echo": True}),
    ("-- tokens abc", {"command": "tokens", "text": "abc", "k": 1}),
    ("tokens -- tokens", {"command": "tokens", "text": "tokens", "k": 1}),
    ("tokens -ing", {"command": "tokens", "text": "-ing", "k": 1}),
])
def test_commands(arguments, values):
    assert called(arguments, COMMANDS) == values


@pytest.mark.parametrize("arguments, message", [
    ("tokns abc", "unknown command 'tokns' (did you mean tokens?): the commands are tokens, next_tokens"),
    ("abc", "unknown command 'abc': the commands are tokens, next_tokens; --help says what they do"),
    ("--out x.png", "unknown command '--out': the commands are tokens, next_tokens"),
    ("tokens abc --temperature 1", "unknown option '--temperature'"),
    ("--temperature 1 tokens abc", "unknown option '--temperature'"),
    ("--outt x tokens", "unknown option '--outt' (did you mean --out?)"),
    ("-5 abc", "unknown command '-5'"),
])
def test_wrong_commands(arguments, message):
    assert message in refused(arguments, COMMANDS)


def test_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["some/where/gpt2.py"])
    text = help_of("--help")
    for arguments in ("-h", "x 5 --help", "--unknown --help", "--seed --help"):
        assert help_of(arguments) == text
    assert text.startswith("usage: python gpt2.py [PROMPT] [N_TOKENS] [OPTION]...\n\nContinue a text.\n\nA second")
    assert re.search(r"^  --prompt TEXT +the text to continue; without it, this: what is$", text, re.M)
    assert re.search(r"^  -n(?: N)?, --n_tokens N +how many \(default: 40\)$", text, re.M)
    assert re.search(r"^  -t(?: NUMBER)?, --temperature NUMBER\s+0 takes the most likely \(default: 0\)$", text, re.M)
    assert re.search(r"^  --echo ?$", text, re.M)
    assert re.search(r"^  -h, --help +show this help$", text, re.M)
    assert "Raises" not in text and "never" not in text
    assert max(map(len, text.splitlines())) <= 80
    for option in re.findall(r"(--?\w+) (?:TEXT|NUMBER|N)", text.partition("options:")[2]):
        assert called([option, "1"])  # what help offers works


@pytest.mark.parametrize("width", range(40, 81))
def test_help_breaks_no_line_within_quotes(monkeypatch, width):
    def function(text: str, answer: str):
        """Ask.

        Args:
            answer: the token that is watched: its text, as " C" with its space, or its id, as "#417", 50% of it.
        """

    monkeypatch.setenv("COLUMNS", str(width))
    text = help_of("--help", function)
    assert '" C"' in text and "50% of" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width


def test_help_of_commands(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["lens.py"])
    text = help_of("--help", COMMANDS)
    assert help_of("", COMMANDS) == help_of("--out x --help", COMMANDS) == text
    assert "  tokens       The pieces of a text.\n  next_tokens  What follows.\n" in text
    text = help_of("tokens --help", COMMANDS)
    assert help_of("--help tokens", COMMANDS) == help_of("--out x.png tokens -h", COMMANDS) == text
    assert text.startswith("usage: python lens.py tokens [TEXT] [K] [OUT] [OPTION]...\n\nThe pieces of a text.\n")
    assert re.search(r"^  -k(?: N)?, --k N +\(default: 1\)$", text, re.M)
    assert re.search(r"^  -o(?: FILE)?, --out FILE +a file for the picture, ", text, re.M)  # as in all commands


@pytest.mark.parametrize("component", [program, COMMANDS])
def test_version(component):
    for arguments in ("--version", "--version x", "tokens --version"):
        assert help_of(arguments, component).startswith(f"GPT-2 in NumPy {cli.__version__}, Python 3.")
    assert called("-- --version") == DEFAULTS | {"prompt": "--version"}


some_arguments = st.lists(st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=6),
    st.text("-=nx 5\n", max_size=5),
    st.sampled_from(["--prompt", "--n_tokens", "-n", "-n5", "--seed=3", "-t", "--echo", "--noecho", "True", "--", "-",
                     "--help", "-h", "--temp", "7", "--prompt=", "--out", "--verbose", "--interactive", "--trace",
                     "--completion", "--separator", "-i", "-v", "tokens", "next-tokens", "next_tokens", "--text=x"])),
    max_size=6)


@settings(max_examples=150, deadline=None, database=None)
@given(some_arguments, st.sampled_from([program, COMMANDS]))
@example(["--", "--", "--interactive"], program)
@example(["x", "--", "--trace"], program)
def test_any_arguments(arguments, component):
    """The function is called with what was typed, or help is printed, or the error is one line; no more is printed."""
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            call = bind(component, list(arguments), SHORT)
            output = stdout.getvalue() + stderr.getvalue()
            result = call()
        except CommandLineError as error:
            output, result = stdout.getvalue() + stderr.getvalue(), None
            assert 0 < len(str(error)) < 300 and "\n" not in str(error)
        else:
            if result is None:
                assert stdout.getvalue().startswith("usage: ") and {"--help", "-h"} & {*arguments} or not arguments
    assert output == ""
    for name in ("prompt", "text"):
        if result and result.get(name) is not None:
            assert result[name] in arguments or f"--{name}={result[name]}" in arguments


@settings(max_examples=50, deadline=None, database=None)
@given((st.text(max_size=20) | st.text("-ab =\n", max_size=8)).filter(lambda text: text not in ("-h", "--help")))
def test_any_text(text):
    assert called(["--", text]) == called([f"--prompt={text}"]) == DEFAULTS | {"prompt": text}
    try:
        values = called([text])
    except CommandLineError:  # it looks like an option
        assert re.match("-[A-Za-z]|--[A-Za-z]", text)
    else:
        if not re.match("-[nt]|--|-$", text):
            assert values == DEFAULTS | {"prompt": text}
