"""Commands made from functions: text and options in, tables and a picture out."""
import inspect
import os
import re
import shutil
import sys
import typing
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cli import terminal
from cli.terminal import argument_errors, notice
from inside.pictures import figure_class
from utils import load_encoder_hparams_and_params


class Table(NamedTuple):
    """Rows of str to print in columns: align has "<" or ">" for each; header may be None. If they do not fit into the
    terminal's width they are printed in blocks, each of which repeats the first n_repeated columns."""

    align: str
    header: list[str] | None
    rows: list[list[str]]
    n_repeated: int = 0


def command(function: Callable, table: Callable, plot: Callable, *, read: Callable | None = None) -> Callable:
    """The command that asks `function` and prints its answer.

    Its arguments are those of `read`, those of `function` (without model and hook), the keyword-only ones of `table`,
    then --out, --model_size and --models_dir; its help comes from their docstrings.

    Args:
        function: the question; its first parameter is a text, unless that is the model.
        table: function(result, **options) -> Table or list of Table.
        plot: function(result, figure) that draws the result.
        read: function(text, model, **options) -> the text to ask about; `read_text` if not given.
    """
    asks = list(inspect.signature(function).parameters.values())
    stages = {"read": [], "ask": [p for p in asks if p.name not in ("model", "hook")],
              "print": [p for p in inspect.signature(table).parameters.values() if p.kind is p.KEYWORD_ONLY],
              "finish": list(inspect.signature(_finish).parameters.values())}
    reader = read or read_text
    if asks[0].name != "model":
        first, _, *others = inspect.signature(reader).parameters.values()  # text, model, options
        stages["read"] = [first if read else first.replace(name=asks[0].name), *others]
        stages["ask"] = stages["ask"][1:]
    parameters = [p for stage in stages.values() for p in stage]
    needed = [p.name for p in parameters if p.default is p.empty]

    def run(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        part = lambda stage: {p.name: given[p.name] for p in stages[stage] if p.name in given}
        with argument_errors():
            check_given(needed, given)
            check_out(given.get("out"))
        model = load_encoder_hparams_and_params(given.get("model_size"), given.get("models_dir"))
        texts = []
        if stages["read"]:
            first, *others = (given.get(p.name) for p in stages["read"])
            texts = [reader(first, model, *others)]
        with argument_errors():
            result = function(*texts, model=model, **part("ask"))
            tables = table(result, **part("print"))
        print_tables(tables)
        save(plot, result, given.get("out"))

    documented: dict[str, str] = {}
    for documents in (_finish, table, function, reader):  # the reader's comes last
        documented |= _arguments(documents)
    run.__name__ = run.__qualname__ = function.__name__
    run.__doc__ = "\n".join([_summary(function), "", "Args:", *(f"    {p.name}: {documented[p.name]}"
                                                               for p in parameters)])
    signature = inspect.Signature(sorted(map(_terminal_parameter, parameters), key=lambda p: p.kind))
    run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    setattr(run, "__signature__", signature)  # noqa: B010
    return run


def _finish(*, out: str | None = None, model_size: str | None = None, models_dir: str | None = None):
    """
    Args:
        out: a file for the picture, .png, .pdf or .svg.
        model_size: 124M (the default), 355M, 774M, 1558M, shakespeare, or the name of any model's folder in models_dir.
        models_dir: the folder of models, into which official ones are downloaded; by default models/ beside gpt2.py.
    """


def check_given(needed: list[str], given: dict[str, object]) -> None:
    """ValueError if an argument is missing that the command cannot do without."""
    for name in needed:
        if given.get(name) is None:
            raise ValueError(f"{name} is missing: --help says what it is")


def _terminal_parameter(parameter):
    """A function's parameter as one of a command: what may be text is text, and nothing is required after a text that
    may come from stdin."""
    may_be_text = str in (parameter.annotation, *typing.get_args(parameter.annotation))
    return parameter.replace(annotation=str if may_be_text else parameter.annotation,
                             default=None if parameter.default is parameter.empty else parameter.default)


def _summary(function):
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def _arguments(function):
    """{name: description} of the section Args: of a docstring."""
    section = re.search(r"^Args:\n((?: .*\n?|\n)*)", inspect.getdoc(function) or "", re.M)
    entries = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", section[1] if section else "", re.M)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def read_text(text: str | None = None, model=None) -> str:
    """The text of a command.

    Args:
        text: the text; without it, what is piped into stdin; an empty one begins a new text.
    """
    encoder, hparams, _ = model
    return terminal.read_text(text, max_bytes=hparams["n_ctx"] * encoder.max_token_bytes)


def print_tables(tables: Table | list[Table], width: int | None = None):
    """Print tables, an empty line between them, no wider than `width` columns (the terminal's, if there is one)."""
    width = width or terminal_width()
    for i, table in enumerate([tables] if isinstance(tables, Table) else tables):
        if i:
            print()
        print_table(table, width)


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; without a limit where stdout is a file or a pipe."""
    if "COLUMNS" in os.environ or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return sys.maxsize


def print_table(table: Table, width: int):
    """Print a table no wider than `width` columns; a wide (East Asian) character counts twice."""
    rows = table.rows if table.header is None else [table.header, *table.rows]
    sizes = [max(map(_size, column), default=0) for column in zip(*rows, strict=True)]
    fixed, used = list(range(table.n_repeated)), width + 1
    blocks: list[list[int]] = []
    for i in range(table.n_repeated, len(sizes)):
        if used + 2 + sizes[i] > width and (table.n_repeated or not blocks):
            blocks.append(list(fixed))
            used = sum(sizes[j] + 2 for j in fixed) - 2
        blocks[-1].append(i)
        used += 2 + sizes[i]
    for n, columns in enumerate(blocks):
        if n:
            print()
        for row in rows:
            cells = [_pad(row[i], sizes[i], table.align[i]) for i in columns]
            print(_cut("  ".join(cells).rstrip(), width))


def _size(text):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _pad(cell, size, side):
    space = " " * (size - _size(cell))
    return space + cell if side == ">" else cell + space


def _cut(line, width):
    if _size(line) <= width:
        return line
    while _size(line) >= width:
        line = line[:-1]
    return line + "…"


def check_out(out: str | None, endings: tuple[str, ...] = (".png", ".pdf", ".svg")):
    """Refuse a picture that could not be written before anything is computed for it."""
    if out is None:
        return
    if Path(out).suffix.lower() not in endings:
        raise ValueError(f"--out {out}: the picture's file must end in {', '.join(endings[:-1])} or {endings[-1]}")
    if not Path(out).resolve().parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {Path(out).resolve().parent} does not exist")
    figure_class()


def save(plot: Callable, result, out: str | None):
    """Write what `plot` draws of the result to the file `out`, if there is one. No display is needed."""
    if out is None:
        return
    figure = figure_class()(layout="constrained")
    plot(result, figure)
    figure.savefig(out, dpi=100, bbox_inches="tight")
    notice(f"the picture is in {out}")
