"""What the commands of lens.py have in common: the text they ask about, what they refuse, the picture.

A command is a function `show_...` with the options of the terminal as its parameters; its docstring is its help. What
an option means that several commands have (`text`, `out`, `position`, ...) is said once, in `cli.help.COMMON`.
"""
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli import text_in
from cli.arguments import CommandLineError
from cli.tables import print_tables
from cli.terminal import argument_errors, notice
from inside.pictures import figure_class
from inside.texts import rows_of
from many_texts.tables import whole_file
from utils import Model, load_encoder_hparams_and_params

ENDINGS = {"picture": (".png", ".pdf", ".svg"), "page": (".html", ".htm")}


def read_text(text: str | None, model: Model) -> str:
    """The text of a command, or without one (None) that of stdin. Far more than the context holds is not read."""
    encoder, hparams, _ = model
    return text_in.read_text(text, max_bytes=hparams["n_ctx"] * encoder.max_token_bytes)


def given(value: str | None, name: str) -> str:
    """An argument that a command needs, and which no signature can require: it follows a text that may come from stdin.

    Raises CommandLineError if it is None.
    """
    if value is None:
        raise CommandLineError(f"{name} is missing: --help says what it is")
    return text_in.as_typed(value)


def print_answer(ask: Callable, plot: Callable, text: str | None, out: str | None, model_size: str | None,
                 models_dir: str | None, *arguments: Any, **of_table: Any) -> None:
    """Most commands: print the tables of ask(text, model, *arguments), and draw it if there is a file for it."""
    check_out(out)
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = read_text(text, model)
    show(lambda: ask(text, model, *arguments), plot, out, **of_table)


def print_over_texts(ask: Callable, plot: Callable, asked: dict[str, Any], position: int, file: str | None,
                     out: str | None, model_size: str | None, models_dir: str | None, **options: Any) -> None:
    """As `print_answer`, for questions about a text (the first of what is `asked`) or all those of a file, in whose
    columns the rest of it is, too: all but `wrong` is needed."""
    check_out(out)
    first, *others = [name for name in asked if name != "wrong"]
    optional = ["wrong", "position"] if "wrong" in asked else ["position"]
    if file:
        asked = {**asked, "position": position, **rows_of(file, [first, *others], optional, asked, position)}
    else:
        asked = {**asked, "position": position, **{name: given(asked[name], name) for name in others}}
    model = load_encoder_hparams_and_params(model_size, models_dir)
    if not file:
        asked[first] = read_text(asked[first], model)
    show(lambda: ask(**asked, model=model, **options), plot, out)


def check_out(out: str | None, kind: str = "picture") -> None:
    """Refuse a file that could not be written before anything is computed for it.

    Args:
        out: the file, or None.
        kind: what is going to be in it: a picture or a page.

    Raises:
        CommandLineError: the file's name has another ending.
        FileNotFoundError: its folder does not exist.
        ImportError: it is a picture, and matplotlib is not installed.
    """
    if out is None:
        return
    *others, last = ENDINGS[kind]
    if Path(out).suffix.lower() not in ENDINGS[kind]:
        raise CommandLineError(f"--out {out}: the {kind}'s file must end in {', '.join(others)} or {last}")
    if not Path(out).resolve().parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {Path(out).resolve().parent} does not exist")
    if kind == "picture":
        figure_class()


def show(ask: Callable[[], Any], plot: Callable, out: str | None, **of_table: Any) -> None:
    """Write what `plot` draws of the result of ask() to the file `out`, if there is one; then print its tables, which
    ends the program if the reader of stdout has gone away. No display is needed."""
    with argument_errors():
        result = ask()
        tables = result.table(**of_table)
    if out is not None:
        figure, data = figure_class()(layout="constrained"), io.BytesIO()
        plot(result, figure)
        figure.savefig(data, dpi=100, bbox_inches="tight", format=Path(out).suffix[1:].lower())
        with whole_file(out) as file:
            file.write(data.getvalue())
        notice(f"the picture is in {out}")
    print_tables(tables)
