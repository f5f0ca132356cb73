"""The documentation: its Python runs, its transcripts are what the programs print, its links lead somewhere."""
import contextlib
import io
import re
import shlex

import pytest
from helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(language):
    """Each block of a language: its text, and the text of a plain block that follows at once, or None."""
    params = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        found = list(BLOCK.finditer(text))
        for block, following in zip(found, [*found[1:], None]):
            shown = None
            if following and following[1] == "" and not text[block.end() : following.start()].strip():
                shown = following[2]
            if block[1] == language:
                line = text[: block.start()].count("\n") + 1
                params.append(pytest.param(block[2], shown, id=f"{path.name}:{line}"))
    return params


@pytest.mark.parametrize("source, shown", blocks("python"))
def test_python_runs_and_prints_what_is_shown(source, shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "README", "exec"), {"__name__": "readme"})
    if shown is not None:
        assert printed.getvalue() == shown
    for expected in re.findall(r"^print\(.*\)  # (.*)$", source, re.M):
        assert expected in printed.getvalue().splitlines()


def transcripts():
    return [pytest.param(command, printed, id=f"{block.id}-{command[:30]}") for block in blocks("")
            for command, printed in re.findall(r"^\$ python (.*)\n((?:(?!\$ ).*\n)*)", block.values[0], re.M)]


def without_times(text):
    return re.sub(r"\d+(\.\d+)? (s\b|tokens/s)", r"# \2", text)


@pytest.mark.parametrize("command, printed", transcripts())
def test_transcripts_are_what_is_printed(run, command, printed):
    program, *arguments = shlex.split(command)
    result = run(*arguments, program=program)
    stdout = result.stdout if result.stdout.endswith("\n") else result.stdout + "\n"  # as on a terminal
    assert without_times(stdout + result.stderr) == without_times(printed)


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "models" / "shakespeare" / "README.md"],
                         ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
