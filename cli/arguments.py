"""A function's command line: its signature makes the options, its docstring the help.

A program is a function, or a dict of functions by the names of its commands. Each parameter is an option (`--top_k 5`,
`--top-k=5`); those that are not keyword-only are also arguments by their place. Annotations say how values are
converted: str stays as typed (`123` and `None` are prompts), int and float must be numbers, a bool needs no value
(`--echo`, `--noecho`, `--echo False`).

argparse does the work. What it would misread is told apart before: a text may begin with a dash ("-like this", "-ing",
"-5") as long as it does not look like an option (`--word`, `-x`). After `--` everything is text, and so is TEXT in
`--prompt=TEXT`. `-` is what is piped into stdin.
"""
import argparse
import functools
import inspect
import os
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable

import cli

Component = Callable[..., object] | dict[str, Callable[..., object]]

COMMON = {  # parameters that mean the same in several programs; a function's docstring goes before
    "text": "the text; without it, that of stdin; an empty one begins a new text",
    "out": "a file for the picture, .png, .pdf or .svg",
    "model_size": "124M (the default), 355M, 774M, 1558M, shakespeare, or the name of any model's folder in models_dir",
    "models_dir": "the folder of models, into which official ones are downloaded; by default models/ beside gpt2.py",
    "texts": "a .txt, .jsonl, .csv or .parquet file, also gzipped; a pattern in quotes; a URL; without it, stdin",
    "column": "the column with the texts; a .txt file has one, text",
    "input_format": "txt, jsonl, csv or parquet, where the name does not say; what is piped into stdin is txt",
    "prefix": "goes before the names of the columns that are added",
    "scheduler": "the address of a running Dask scheduler, as tcp://host:8786, instead of local worker processes; its "
                 "workers have the model in their own models_dir",
    "n_workers": "how many local worker processes; by default one for each core",
    "strict": "end with an error at the first row that cannot be done",
    "overwrite": "replace the output if it exists",
}

OPTION = re.compile(r"--([A-Za-z][\w-]*)(=.*)?|-[A-Za-z](=.*|[-+.]?\d\S*)?", re.S)  # --top-k=5, -n, -n=5, -n5
TRUTH = {"true": True, "True": True, "false": False, "False": False}
KINDS = {int: "a whole number", float: "a number", bool: "True or False"}
METAVARS = {str: "TEXT", int: "N", float: "NUMBER", bool: ""}
MARK = "\0"  # goes before a text, so that argparse takes it for one; no argument of a process can contain it
NO_BREAK = "\N{NO-BREAK SPACE}"


class CommandLineError(ValueError):
    """Something typed on the command line is wrong: exit status 2."""


def bind(component: Component, arguments: list[str], short: dict[str, str] | None = None) -> Callable[[], object]:
    """Find out what a command line calls.

    Args:
        component: function, or dict {command: function}; then the first argument must be a command.
        arguments: list of str, the command line without the program's name.
        short: dict {letter: parameter}, the one-letter options; those of other functions do no harm. A parameter whose
            name is one letter has that letter.

    Returns:
        A callable without parameters: the function with its arguments, or one that prints the help that was asked for.

    Raises:
        CommandLineError: an unknown command or option, an option without its value or given twice, a value that is
            not of its type, an argument too many.
    """
    program, short = f"python {os.path.basename(sys.argv[0])}", short or {}
    asked = {*(arguments[: arguments.index("--")] if "--" in arguments else arguments)}
    if "--version" in asked:
        return functools.partial(print, f"GPT-2 in NumPy {cli.__version__}, Python {sys.version.split()[0]}")
    wants_help = bool({"--help", "-h"} & asked)
    if not isinstance(component, dict):
        return _bind_function(component, arguments, short, program, wants_help)
    is_command = lambda argument: argument.replace("-", "_") in component
    first = arguments[0] if arguments else "--help"
    if first[:1] == "-":  # options may come before the command
        first = next(filter(is_command, arguments), first)
    if is_command(first):
        place, name = arguments.index(first), first.replace("-", "_")
        rest = arguments[:place] + arguments[place + 1 :]
        return _bind_function(component[name], rest, short, f"{program} {name}", wants_help)
    if wants_help or not arguments:
        return functools.partial(print, _list_of_commands(component, program))
    meant = _did_you_mean(first.replace("-", "_"), component)
    raise CommandLineError(f"unknown command {_quoted(first)}{meant}: the commands are {', '.join(component)}; "
                           "--help says what they do")


def _bind_function(function, arguments, short, program, wants_help):
    parameters, kinds = inspect.signature(function).parameters.values(), _types(function)
    parser = _parser(function, kinds, short, program)
    if wants_help:
        return functools.partial(print, parser.format_help().replace(NO_BREAK, " "), end="")
    n = arguments.index("--") if "--" in arguments else len(arguments)
    given, rest = parser.parse_known_args(_prepared(arguments[:n], kinds))
    for argument in rest:
        if argument[0] == "-":
            raise _unknown_option(argument.partition("=")[0], kinds)
    texts = [*(text.removeprefix(MARK) for text in rest), *arguments[n + 1 :]]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    quotes = "; a text of several words goes in quotes"
    if len(texts) > len(names):
        surplus = texts[len(names)]
        if os.path.exists(surplus):
            quotes = '; a pattern of files goes in quotes, as in "part-*.csv"'
        raise CommandLineError(f"{_quoted(surplus)} is one argument too many" +
                               (quotes if names else ": there are only options"))
    named = [f"--{name}={MARK}{text}" for i, (name, text) in enumerate(zip(names, texts))
             if text != "-" or i >= len(rest)]  # for "-", unless after "--", stdin is read
    try:
        parser.parse_args(named, given)
    except CommandLineError as error:
        raise CommandLineError(f"{error}{quotes if named[1:] and ' must be ' in str(error) else ''}") from None
    for p in parameters:
        if p.default is p.empty and p.name not in given:
            raise CommandLineError(f"{p.name} is missing; --help says what it is")
    return functools.partial(function, **vars(given))


def _types(function):
    """{parameter: the type to which its value is converted, which for `int | None` is int}"""
    hints = typing.get_type_hints(function)  # also where `from __future__ import annotations` made them strings
    kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name, str if parameter.default in (None, parameter.empty) else type(parameter.default))
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds[name] = next(kind for kind in (typing.get_args(hint) if union else [hint]) if kind is not type(None))
    return kinds


def _prepared(arguments, kinds):
    """The arguments with texts marked, options spelt with _, and a bool's value in the same argument."""
    prepared, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        match = OPTION.fullmatch(argument)
        if argument[:1] == "-" and len(argument) > 2 and argument[1:].replace("-", "_") in {*kinds, "help"}:
            raise _unknown_option(argument, kinds)
        if match is None:
            argument = MARK + argument
        elif match[1]:
            name, value = match[1].replace("-", "_"), match[2] or ""
            positive = re.sub("^no_?", "", name)
            if name in kinds:
                if kinds[name] is bool and not value:
                    value = "=" + (rest.pop(0) if rest and rest[0] in TRUTH else "True")
                argument = f"--{name}" + (value and f"={MARK}{value[1:]}")
            elif kinds.get(positive) is bool and not value:
                argument = f"--{positive}=False"
        prepared.append(argument)
    return prepared


# --- argparse -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Raise what argparse would print, with the usage, before it exits."""
        message = re.sub(r"^argument (?:-\w/)?--(\w+): ", r"\1 ", message)
        raise CommandLineError(re.sub(r"^(\w+) expected one argument", r"--\1 needs a value", message))


class _Once(argparse.Action):
    """Store a value, unless the option has one."""

    def __call__(self, parser, given, value, option_string=None):
        if hasattr(given, self.dest):
            raise CommandLineError(f"{self.dest} is given twice: {_quoted(getattr(given, self.dest))} and "
                                   f"{_quoted(value)}")
        setattr(given, self.dest, value)


def _parser(function, kinds, short, program):
    """An argument parser with an option for each parameter; it stores what is given and no defaults."""
    paragraphs, descriptions = _docstring(function)
    parameters, width = inspect.signature(function).parameters, _width()
    usage = [p.name.upper() if p.default is p.empty else f"[{p.name.upper()}]" for p in parameters.values()
             if p.kind is p.POSITIONAL_OR_KEYWORD]
    filled = lambda text, indent=0: textwrap.fill(text, width - indent, subsequent_indent=" " * indent)
    dashes = f"After -- everything is text: {program} -- -text" if usage and kinds[next(iter(kinds))] is str else ""
    parser = _Parser(usage=filled(" ".join([program, *usage, "[OPTION]..."]), indent=len("usage: ")),
                     description="\n\n".join(map(filled, paragraphs)), epilog=filled(dashes), add_help=False,
                     formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 30, width),
                     allow_abbrev=False)
    letters = {name: letter for letter, name in short.items()} | {name: name for name in kinds if len(name) == 1}
    for name, kind in kinds.items():
        default = parameters[name].default
        shown = "" if default in ("", None, parameters[name].empty) or default is False else f" (default: {default})"
        text = (COMMON | descriptions).get(name, "").rstrip(".").replace("%", "%%")
        text = re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace(" ", NO_BREAK), text)
        parser.add_argument(*([f"-{letters[name]}"] if name in letters else []), f"--{name}", dest=name, action=_Once,
                            type=_converter(kind, default is None), default=argparse.SUPPRESS,
                            metavar=METAVARS.get(kind, kind.__name__.upper()),
                            help=text + shown.replace(": ", f":{NO_BREAK}"))
    parser.add_argument("-h", "--help", action="help", help="show this help")
    parser.add_argument("--version", action="version", help="show the version")
    return parser


def _converter(kind, may_be_none):
    def convert(text):
        text = text.removeprefix(MARK)
        try:
            return TRUTH[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            if text == "None" and may_be_none:
                return None
            wanted = KINDS.get(kind, f"a {kind.__name__}")
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {_quoted(text)}") from None

    return convert


def _docstring(function):
    """The text before `Args:` as a list of paragraphs, and the descriptions under it as a dict {parameter: text}."""
    head, _, args = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in head.split("\n\n") if paragraph.strip()]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5}.*)*)", args, re.M)
    return paragraphs, {name: " ".join(text.split()) for name, text in entries}


def _list_of_commands(component, program):
    lines, indent = [f"usage: {program} COMMAND [ARGUMENT]... [OPTION]...\n\ncommands:"], max(map(len, component)) + 4
    for name, function in component.items():
        lines.append(textwrap.fill(_docstring(function)[0][0], _width(), initial_indent=f"  {name}".ljust(indent),
                                   subsequent_indent=" " * indent))
    return "\n".join([*lines, "", f"The options of a command: {program} {next(iter(component))} --help"])


def _width():
    return max(40, min(80, shutil.get_terminal_size().columns))


# --- what was meant -----------------------------------------------------------------------------


def _unknown_option(typed, names):
    meant = _did_you_mean(typed.lstrip("-").replace("-", "_"), [*names, "help"], "--")
    return CommandLineError(f"unknown option {_quoted(typed)}" + (meant or
                            "; --help lists them all; a text that begins with a dash goes after --, as in: -- -text"))


def _did_you_mean(typed, names, dashes=""):
    import difflib

    close = [name for name in names if len(typed) > 1 and name.startswith(typed)]
    close = close or difflib.get_close_matches(typed, names, n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(dashes + name for name in close)}?)" if close else ""


def _quoted(value):
    text = str(value)
    return repr(text if len(text) <= 60 else text[:60] + "…")
