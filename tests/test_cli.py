"""gpt2.py as people start it: a real process, its stdout, its stderr, its exit status, the screen, the keyboard."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from file_server import FileServer
from helpers import BUNDLED, MODELS, ROOT, error_line

import gpt2
from cli.terminal import run_command_line
from gpt2 import generate

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and terminals")
COMMAND = f'"{sys.executable}" gpt2.py'
SHAKESPEARE = " ".join(BUNDLED)


@pytest.fixture
def expected(shakespeare):
    """The text that the bundled model gives for a prompt, through the Python interface."""
    def expected(prompt, n=40, **options):
        encoder, hparams, params = shakespeare
        ids = encoder.encode(prompt) or [encoder.eot_token]
        return encoder.decode(generate(ids, params, hparams["n_head"], n, stop_id=encoder.eot_token, **options))

    return expected


@pytest.fixture
def main(capsys):
    """Run gpt2.py's command in this process: main("prompt", "-n5") -> (exit status, stdout, stderr)."""
    def main(*arguments):
        named = any(argument.startswith(("-m", "--model_size")) for argument in arguments)
        with pytest.raises(SystemExit) as end:
            run_command_line(gpt2.main, [*([] if named else BUNDLED), *arguments],
                             {"n": "n_tokens_to_generate", "t": "temperature", "m": "model_size"})
        return end.value.code, *capsys.readouterr()

    return main


# --- what it prints -----------------------------------------------------------------------------


def test_stdout_is_the_continuation_and_nothing_else(run, expected):
    result = run("ROMEO:", *BUNDLED)
    assert result.returncode == 0
    assert result.stdout == expected("ROMEO:")
    assert re.fullmatch(r"40 tokens in \d+\.\d\d s \(\d+\.\d tokens/s\), the first after \d+\.\d\d s\n", result.stderr)


@pytest.mark.parametrize("prompt", ["123", "[1, 2]", "None", "1e5", "it's -- fine", "True", "{'a': 1}", "a,b", "0x10",
                                    "안녕 🤖", "two\nlines\n", "-5 degrees", "-like this", "--like this", "-dash"])
def test_a_prompt_is_always_text(main, expected, prompt):
    text = expected(prompt, 5)
    for arguments in ((prompt, "5"), (f"--prompt={prompt}", "-n5"), ("-n5", "--", prompt)):
        assert main(*arguments)[:2] == (0, text)


@pytest.mark.parametrize("prompt", ["[1, 2]", "-like this", "안녕 🤖"])
def test_a_prompt_of_a_process_is_always_text(run, expected, prompt):
    result = run(prompt, "5", *BUNDLED)
    assert (result.stdout, result.returncode) == (expected(prompt, 5), 0), result.stderr


def test_options(run, main, expected):
    text = expected("JULIET:", 12, temperature=0.9, top_k=50, top_p=0.95, seed=3)
    result = run("JULIET:", *BUNDLED, "--n_tokens_to_generate", "12", "--temperature", "0.9", "--top_k=50", "--top-p",
                 "0.95", "--seed", "3")
    assert result.stdout == text
    assert main("JULIET:", "-n12", "-t.9", "--top_k=50", "--top-p=0.95", "--seed=3", "-m", "shakespeare")[1] == text


@pytest.mark.parametrize("arguments", [["-n9"], ["-", "9"]])
def test_stdin_is_the_prompt(run, expected, arguments):
    for typed in ("KING RICHARD\n", "\ufeffKING RICHARD\r\n"):  # PowerShell sends a byte-order mark
        assert run(*arguments, *BUNDLED, input=typed).stdout == expected("KING RICHARD", 9)


@pytest.mark.parametrize("arguments", [[""], []])
def test_an_empty_prompt_begins_a_new_text(run, expected, arguments):
    assert run(*arguments, "-n9", *BUNDLED).stdout == expected("", 9)


def test_several_samples(main, expected):
    status, stdout, stderr = main("ROMEO:", "-n8", "-t1", "--seed", "5", "--n_samples", "3", "--echo")
    texts = ["ROMEO:" + expected("ROMEO:", 8, temperature=1, seed=seed) for seed in (5, 6, 7)]
    assert len(set(texts)) == 3
    line = "=" * 30
    assert status == 0 and stdout == "".join(f"{text}\n" for text in texts)
    assert re.fullmatch("".join(f"{line} SAMPLE {i} {line}\n" for i in (1, 2, 3)) + "24 tokens in .*\n", stderr)


def test_samples_as_json(main, expected):
    status, stdout, stderr = main("ROMEO:", "-n8", "-t1", "--seed", "5", "--n_samples", "2", "--json", "--stop", "th")
    assert [json.loads(line) for line in stdout.splitlines()] == [
        {"prompt": "ROMEO:", "seed": seed,
         "continuation": expected("ROMEO:", 8, temperature=1, seed=seed).partition("th")[0]} for seed in (5, 6)]
    assert status == 0 and re.fullmatch("[0-9]+ tokens in .*\n", stderr)
    assert json.loads(main("ROMEO:", "-n8", "--json")[1]) == {"prompt": "ROMEO:", "continuation": expected("ROMEO:", 8)}


def test_samples_without_a_seed_differ(main):
    stdout = main("ROMEO:", "-n8", "-t1", "--n_samples", "3", "--json")[1]
    assert len({*stdout.splitlines()}) == 3


def test_echo(main, expected):
    assert main("ROMEO:", "-n5", "--echo")[1] == "ROMEO:" + expected("ROMEO:", 5)
    assert main("ROMEO:", "-n5", "--noecho")[1] == expected("ROMEO:", 5)


@pytest.mark.parametrize("stop", ["\n", r"\n", r"\n\n", "thee", "ll thee, I", "not there"])
def test_stop(main, expected, stop):
    text = expected("ROMEO:", 22)
    before = text.partition(stop.replace(r"\n", "\n"))[0]
    status, stdout, stderr = main("ROMEO:", "22", "--stop", stop)
    assert (status, stdout) == (0, before)
    assert (before == text) == (stop == "not there") == stderr.startswith("22 tokens")


def test_text_is_streamed():
    process = subprocess.Popen([sys.executable, "gpt2.py", "ROMEO:", "80", *BUNDLED], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    with process.stdout:
        first = os.read(process.stdout.fileno(), 100_000)
        rest = process.stdout.read()
    assert process.wait() == 0
    assert 0 < len(first) < len(rest)


def test_help(run):
    result = run("--help", env={"PAGER": "false", "COLUMNS": "80"})
    assert result.returncode == 0 and result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert run("x", "-h", env={"COLUMNS": "80"}).stdout == result.stdout
    described = dict(re.findall(r"^ {2}-(\w)(?: [A-Z]+)?, --(\w+)", result.stdout, re.M))
    assert {described[letter] for letter in "ntm"} == {"n_tokens_to_generate", "temperature", "model_size"}
    names = re.findall(r"--(\w+)\s", result.stdout)
    assert {*names} >= {*gpt2.main.__annotations__} - {"return"}


# --- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, status, message", [
    (["x", "--model_size", "nope"], 1, "there is no model 'nope'"),
    (["x", "--model_size", "../../no-such-place"], 1, "there is no folder '../../no-such-place'"),
    (["x", "--model_size", ".."], 1, "checkpoint is missing: a model is a folder with"),
    (["x", "--model_size", ""], 1, "'' is not a model's name"),
    (["x", "-n", "0"], 2, "n_tokens_to_generate must be a whole number, at least 1, not 0"),
    (["x", "-n", "-4"], 2, "n_tokens_to_generate must be a whole number, at least 1, not -4"),
    (["x", "-n", "256"], 2, "1 tokens and 256 new ones make 257, more than the context of 256"),
    (["x", "-n", "1" + 400 * "0"], 2, "n_tokens_to_generate must be a whole number from 1 to 256"),
    (["x " * 300, "1"], 2, "more than the context of 256"),
    (["x" * 10_000], 2, "the text is longer than 3,328 bytes"),
    ([b"caf\xe9".decode(errors="surrogateescape")], 2, "lone surrogate, U+DCE9, at character 3"),
    (["x", "-t", "-1"], 2, "temperature must be a finite number, 0 (greedy) or more, not -1"),
    (["x", "-t", "nan"], 2, "temperature must be a finite number, 0 (greedy) or more, not nan"),
    (["x", "-t", "1" + 400 * "0"], 2, "temperature must be a finite number, 0 (greedy) or more, not inf"),
    (["x", "-t1", "--top_k", "0"], 2, "top_k must be a whole number, at least 1, not 0"),
    (["x", "-t1", "--top_k", "1025"], 2, "top_k must be a whole number from 1 to 1024"),
    (["x", "-t1", "--top_p", "0"], 2, "top_p must be a number above 0 and at most 1, not 0"),
    (["x", "-t1", "--top_p", "1.01"], 2, "top_p must be a number above 0 and at most 1, not 1.01"),
    (["x", "-t1", "--seed", "-1"], 2, "seed must be a whole number, at least 0, not -1"),
    (["x", "-t1", "--n_samples", "0"], 2, "n_samples must be a whole number, at least 1, not 0"),
    (["x", "--seed", "1"], 2, "seed = 1 makes no difference at temperature 0"),
    (["x", "--top_k", "1"], 2, "top_k = 1 makes no difference"),
    (["x", "--top_p", "1", "-t0"], 2, "top_p = 1.0 makes no difference"),
    (["x", "--n_samples", "2"], 2, "n_samples = 2 makes no difference"),
    (["x", "--stop", ""], 2, "stop is empty"),
    (["x", "--json", "--echo"], 2, "echo makes no difference with json"),
    (["x", "--model", "124M"], 2, "unknown option '--model' (did you mean --model_size or --models_dir?)"),
    (["x", "--nsamples", "1"], 2, "unknown option '--nsamples' (did you mean --n_samples?)"),
])
def test_bad_command_lines(main, arguments, status, message):
    code, stdout, stderr = main(*arguments)
    assert message in stderr and stderr.startswith("error: ") and stderr.count("\n") == 1
    assert (code, stdout) == (status, "")


def test_a_bad_command_line_of_a_process(run):
    assert "unknown option '--temp' (did you mean --temperature?)" in error_line(run("x", "--temp", "1"), 2)
    assert "lone surrogate, U+DCE9, at character 3" in error_line(run(b"caf\xe9", *BUNDLED), 2)


def test_options_are_refused_before_a_download(main, monkeypatch, tmp_path):
    monkeypatch.setenv("GPT2_BASE_URL", "http://127.0.0.1:9/models")
    for arguments in (["-n0"], ["-t1", "--top_p=2"], ["--seed=1"], ["--stop="]):
        status, _, stderr = main("x", *arguments, "--models_dir", str(tmp_path), "-m124M")
        assert status == 2 and "cannot reach" not in stderr
    assert not any(tmp_path.iterdir())


def test_stdin_that_is_not_utf8(run):
    result = run(*BUNDLED, input=b"caf\xe9", text=False)
    result.stdout, result.stderr = result.stdout.decode(), result.stderr.decode()
    assert "stdin is not UTF-8 text: byte 0xE9 at 3" in error_line(result)


@posix
def test_of_an_endless_stdin_only_the_beginning_is_read(run):
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        result = run(*BUNDLED, stdin=endless.stdout)
        endless.kill()
    assert "the text is longer than 3,328 bytes" in error_line(result, 2)


def test_a_number_is_the_prompt_and_what_becomes_of_stdin_is_said(run, expected):
    result = run("60", *BUNDLED, input="KING RICHARD")
    assert result.stdout == expected("60")
    assert result.stderr.startswith("stdin is not read: '60' was taken as the text; if it is an option's value, name")
    assert run("-n5", *BUNDLED, input="KING RICHARD").stdout == expected("KING RICHARD", 5)


def test_a_prompt_arrives_as_it_was_typed_whatever_the_locale(run, expected):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run("안녕 É", "3", "--stop", "é", "--echo", *BUNDLED, env=locale)
    assert (result.stdout, result.returncode) == ("안녕 É" + expected("안녕 É", 3).partition("é")[0], 0), result.stderr


@posix
@pytest.mark.slow
def test_a_loop_over_lines(expected, tmp_path):
    (tmp_path / "prompts").write_text("ROMEO:\n60\nJULIET:\n")
    loop = f'while read -r prompt; do {COMMAND} "$prompt" -n3 {SHAKESPEARE}; done < {tmp_path}/prompts'
    result = subprocess.run(loop, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.stdout == expected("ROMEO:", 3) + expected("60", 3) + expected("JULIET:", 3)
    assert result.stderr.count("\n") == 3


# --- models -------------------------------------------------------------------------------------


def test_without_a_model_offline_the_bundled_one_runs_and_says_so(run, expected, tmp_path):
    result = run("ROMEO:", "-n9", "--models_dir", str(tmp_path))
    assert result.stdout == expected("ROMEO:", 9)
    assert "124M" in result.stderr and "bundled model" in result.stderr and "cannot reach http://127" in result.stderr
    assert "Connection refused" in result.stderr


def test_a_named_model_is_never_replaced(run, tmp_path):
    assert "cannot reach" in error_line(run("ROMEO:", "--models_dir", str(tmp_path), "--model_size", "124M"))


def test_tensorflow_is_silent_and_not_imported_for_converted_weights(run):
    result = run("ROMEO:", "2", *BUNDLED, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "numpy" in result.stderr and "tensorflow" not in result.stderr


def test_list_models(run, tmp_path):
    shutil.copytree(MODELS / "shakespeare", tmp_path / "mine", ignore=shutil.ignore_patterns("params-*"))
    result = run("--list_models", "--models_dir", str(tmp_path), cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "mine\nshakespeare\n", "")
    assert "shakespeare" in run("--list_models", cwd=tmp_path).stdout.split()


# --- when it cannot run to its end --------------------------------------------------------------


@pytest.mark.parametrize("package", ["numpy", "fire", "requests"])
def test_a_missing_package_is_one_line(run, tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}', name={package!r})")
    result = run("x", "--model_size", "124M", "--models_dir", str(tmp_path), env={"PYTHONPATH": str(tmp_path)})
    assert error_line(result) == f"error: the package {package} is not installed: pip install -r requirements.txt\n"


def test_a_package_that_fails_to_import_is_one_line(run, tmp_path):
    (tmp_path / "numpy.py").write_text("raise ImportError('libgfortran.so.5:\\n\\ncannot open shared object file')")
    message = error_line(run("x", *BUNDLED, env={"PYTHONPATH": str(tmp_path)}))
    assert message == ("error: a package cannot be imported (libgfortran.so.5: cannot open shared object file): "
                       "pip install -r requirements.txt\n")


def test_a_closed_pipe_ends_quietly():
    result = subprocess.run(f"{COMMAND} ROMEO: 200 {SHAKESPEARE} | head -c 10", shell=True, cwd=ROOT,
                            capture_output=True, timeout=100)
    assert len(result.stdout) == 10 and result.stderr == b""


@posix
@pytest.mark.parametrize("redirection, status, stderr", [
    (">&-", 1, "error: stdout is closed: there is nowhere to write to\n"),
    ("2>&-", 0, ""),
    ("<&-", 0, None),
    ("> /dev/full", 1, "error: the output cannot be written: No space left on device\n"),
])
@pytest.mark.slow
def test_closed_streams(redirection, status, stderr):
    result = subprocess.run(f"{COMMAND} ROMEO: 3 {SHAKESPEARE} {redirection}", shell=True, cwd=ROOT,
                            capture_output=True, text=True, timeout=100)
    assert result.returncode == status
    assert stderr is None or result.stderr == stderr


@pytest.mark.slow
def test_a_terminal_that_cannot_show_a_character(run, expected):
    result = run("안녕", "3", "--echo", *BUNDLED, env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stdout) == (0, "??" + expected("안녕", 3).encode("ascii", "replace").decode())


def interruptible():
    """Run in a child before its program: what a shell starts in the background ignores SIGINT, and children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@posix
@pytest.mark.parametrize("module", ["numpy", "cli.text_in", "utils"])
def test_ctrl_c_during_the_imports_ends_quietly(tmp_path, module):
    """A stand-in for each module presses Ctrl-C while it is being imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n")
    process = subprocess.run([sys.executable, "gpt2.py", "ROMEO:", *BUNDLED], cwd=ROOT, preexec_fn=interruptible,
                             capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (process.returncode, process.stdout, process.stderr) == (130, b"", b"")


@posix
@pytest.mark.parametrize("program, status", [
    ("run_command_line(wait, [])", 130),
    ("from cli import text_in\n"
     "lines = iter(['a text', None])\n"
     "text_in._at_keyboard, text_in.ask, text_in.notice = lambda: True, lambda prompt: next(lines), lambda text: None\n"
     "run_command_line(lambda: text_in.for_each_prompt(lambda text: wait(), None), [])", 0)])
def test_ctrl_c_where_python_ignores_it_comes_again(program, status):
    """Python prints and forgets what is raised in a callback of the garbage collector. Here Ctrl-C comes in one."""
    script = ("import gc, signal, time\n"
              "from cli.startup import guard_imports\n"
              "guard_imports()\n"
              "from cli.terminal import run_command_line\n"
              "def press(phase, info):\n"
              "    gc.callbacks.clear()\n"
              "    signal.raise_signal(signal.SIGINT)\n"
              "def wait():\n"
              "    gc.callbacks.append(press)\n"
              "    gc.collect()\n"
              "    time.sleep(30)\n"
              + program)
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, preexec_fn=interruptible, capture_output=True,
                             timeout=20)
    assert (process.returncode, process.stdout, process.stderr) == (status, b"", b"")


@posix
@pytest.mark.slow
def test_ctrl_c_during_a_download_ends_quietly(tmp_path):
    with FileServer({"124M/checkpoint": b"x" * 10**7}) as server:
        server.delay = 0.05
        process = subprocess.Popen([sys.executable, "gpt2.py", "ROMEO:", "--models_dir", str(tmp_path)], cwd=ROOT,
                                   env={**os.environ, "GPT2_BASE_URL": server.url}, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, preexec_fn=interruptible)
        os.read(process.stderr.fileno(), 1)  # the first of the progress bar
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_importing_gpt2_leaves_signals_and_the_hook_alone(run):
    program = ("import signal, sys; before = signal.getsignal(signal.SIGINT), sys.excepthook; import gpt2, utils, "
               "cli.terminal; assert before == (signal.getsignal(signal.SIGINT), sys.excepthook)")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


# --- the screen ---------------------------------------------------------------------------------


def screen(command):
    """What a terminal of 80 columns shows of a shell's command."""
    import fcntl
    import pty
    import select
    import struct
    import termios

    terminal, other_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    name = os.ttyname(other_end)  # the first terminal that the leader of a session opens is the one that controls it
    process = subprocess.Popen(["sh", "-c", f"exec <{name} >{name} 2>&1; {command}"], cwd=ROOT, start_new_session=True,
                               env={**os.environ, "GPT2_BASE_URL": "http://127.0.0.1:9/models"})
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            shown += os.read(terminal, 10_000)
        elif process.poll() is not None:
            break
    process.wait(10)
    os.close(terminal)
    os.close(other_end)
    return shown.decode().replace("\r\n", "\n")


CLOSING = r"3 tokens in [^\n]*\n"


@posix
@pytest.mark.parametrize("redirection, shown", [
    ("", rf"TEXT\n{CLOSING}\$"),
    ("2>/dev/null", r"TEXT\n\$"),
    (">/dev/null", rf"{CLOSING}\$"),
    ("2>&1 | cat", rf"TEXT\n{CLOSING}\$"),
])
@pytest.mark.slow
def test_the_screen(expected, redirection, shown):
    text = expected("JULIET:", 3)
    assert not text.endswith("\n")
    shown = shown.replace("TEXT", re.escape(text))
    assert re.fullmatch(shown, screen(f"{COMMAND} JULIET: 3 {SHAKESPEARE} {redirection}; printf '$'"))


@posix
def test_the_screen_with_tee(expected, tmp_path):
    shown = screen(f"{COMMAND} JULIET: 3 {SHAKESPEARE} | tee '{tmp_path}/copy'; printf '$'")
    assert (tmp_path / "copy").read_text() == expected("JULIET:", 3)
    assert "3 tokens in " in shown


# --- at the keyboard ----------------------------------------------------------------------------


@pytest.fixture
def keyboard():
    """keyboard("gpt2.py", "-n5", ...) -> the program in a terminal of its own, as pexpect has it."""
    pexpect = pytest.importorskip("pexpect")
    programs = []

    def start(*arguments, **env):
        env = {**os.environ, "TERM": "dumb", "INPUTRC": os.devnull, **env}
        programs.append(pexpect.spawn(sys.executable, [*arguments, *BUNDLED], cwd=ROOT, env=env, encoding="utf-8",
                                      timeout=30, dimensions=(24, 200)))
        return programs[-1]

    yield start
    for program in programs:
        program.close(force=True)


def exit_status(program):
    program.expect(sys.modules["pexpect"].EOF)
    program.close()
    return program.exitstatus


@posix
def test_at_the_keyboard_it_asks_for_one_prompt_after_the_other(keyboard, expected):
    program = keyboard("gpt2.py", "-n5")
    for prompt in ("ROMEO:", "안녕", ""):
        program.expect_exact("> ")
        program.sendline(prompt)
        program.expect_exact(prompt + "\r\n")
        program.expect(r"5 tokens in [^\n]*\n")
        assert program.before == (expected(prompt, 5).rstrip("\n") + "\n").replace("\n", "\r\n")
    program.expect_exact("> ")
    program.sendline("x " * 300)
    program.expect("error: [^\n]*more than the context of 256")
    program.expect_exact("> ")
    program.send("\x1b[A\x1b[A")  # twice up: the prompt before
    program.expect_exact("안녕")
    program.sendcontrol("u")
    program.sendcontrol("d")
    assert exit_status(program) == 0
    assert program.before.endswith("\r\n")  # the shell's prompt begins a line


@posix
def test_ctrl_c_ends_a_continuation_and_not_the_program(keyboard, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(  # each pass takes long enough to be interrupted
        "import sys, time\n"
        "def trace(frame, event, argument):\n"
        "    if frame.f_code.co_name == 'gelu': time.sleep(0.005)\n"
        "sys.setprofile(trace)\n")
    program = keyboard("gpt2.py", "-n200", "--temperature", "1", PYTHONPATH=str(tmp_path))
    program.expect_exact("> ")
    program.sendline("ROMEO:")
    program.expect_exact("ROMEO:\r\n")
    program.expect("[A-Za-z]")
    program.sendintr()
    program.expect_exact("> ")
    assert "tokens in" not in program.before and "Traceback" not in program.before
    program.send("half a line")
    program.expect_exact("half a line")
    time.sleep(0.2)  # Python 3.10 may lose a Ctrl-C that comes in the same moment as a key
    program.sendintr()
    program.expect_exact("> ")
    program.sendeof()
    assert exit_status(program) == 0


@posix
def test_without_a_screen_it_asks_on_stderr(expected, tmp_path):
    script = f"{COMMAND} -n3 {SHAKESPEARE} > '{tmp_path}/text'"
    pexpect = pytest.importorskip("pexpect")
    program = pexpect.spawn("sh", ["-c", script], cwd=ROOT, encoding="utf-8", timeout=30)
    program.expect_exact("> ")
    program.sendline("JULIET:")
    program.expect("3 tokens in")
    program.expect_exact("> ")
    program.sendeof()
    assert exit_status(program) == 0
    assert (tmp_path / "text").read_text() == expected("JULIET:", 3)


@posix
@pytest.mark.slow
def test_lens_asks_for_its_text_once(keyboard, tmp_path):
    program = keyboard("lens.py", "tokens")
    program.expect_exact("text: ")
    program.sendline("O Romeo")
    program.expect_exact("·Rome")
    assert exit_status(program) == 0
    (tmp_path / "readline.py").write_text("raise ImportError")  # as on Windows
    program = keyboard("lens.py", "tokens", PYTHONPATH=str(tmp_path))
    program.expect_exact("text: ")
    program.sendeof()
    assert exit_status(program) == 0 and "endoftext" not in program.before
