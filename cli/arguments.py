"""A function's command line: its signature makes the options, its docstring the help.

A program is a function, or a dict of functions by the names of its commands. Each parameter is an option (`--top_k 5`,
`--top-k=5`); those that are not keyword-only are also arguments by their place. Annotations say how values are
converted: str stays as typed (`123` and `None` are prompts), int and float must be numbers, a bool needs no value
(`--echo`, `--noecho`, `--echo False`).

Fire converts the values and binds them to the function. What it would misread is sorted out first, and all options are
known before anything runs: a text may begin with a dash ("-like this", "-ing", "-5") as long as it does not look like
an option (`--word`, `-x`). After `--` everything is text, and so is TEXT in `--prompt=TEXT`. `-` stands for stdin.
"""
import functools
import inspect
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable

import cli

Function = Callable[..., object]
Component = Function | dict[str, Function]

OPTION = re.compile(r"--([A-Za-z][\w-]*)(=.*)?|-([A-Za-z])(=.*|[-+.]?\d\S*)?", re.S)  # --top-k=5, -n, -n=5, -n5
TRUTH = {"true": True, "True": True, "false": False, "False": False}
KINDS = {int: "a whole number", float: "a number", bool: "True or False"}


class CommandLineError(ValueError):
    """Something typed on the command line is wrong: exit status 2."""


def bind(component: Component, arguments: list[str], short: dict[str, str] | None = None) -> Callable[[], object]:
    """Find out what a command line calls.

    Args:
        component: function, or dict {command: function}; then the first argument must be a command.
        arguments: list of str, the command line without the program's name.
        short: dict {letter: parameter}, the one-letter options; those of other functions are ignored. A parameter whose
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
    first = arguments[0] if arguments else "--help"
    commands = [argument for argument in arguments if argument.replace("-", "_") in component]
    if first in commands or commands and first[:1] == "-":  # options may come before the command
        place, name = arguments.index(commands[0]), commands[0].replace("-", "_")
        rest = arguments[:place] + arguments[place + 1 :]
        return _bind_function(component[name], rest, short, f"{program} {name}", wants_help)
    if wants_help or not arguments:
        from cli.help import list_of_commands

        return functools.partial(print, list_of_commands(component, program))
    meant = _did_you_mean(first.replace("-", "_"), component)
    raise CommandLineError(f"unknown command {_quoted(first)}{meant}: the commands are {', '.join(component)}; "
                           "--help says what they do")


def _bind_function(function: Function, arguments: list[str], short: dict[str, str], program: str, wants_help: bool
                   ) -> Callable[[], object]:
    parameters, kinds = inspect.signature(function).parameters.values(), _types(function)
    letters = {letter: name for letter, name in short.items() if name in kinds} | {n: n for n in kinds if len(n) == 1}
    if wants_help:
        from cli.help import help_of

        return functools.partial(print, help_of(function, kinds, letters, program), end="")
    n = arguments.index("--") if "--" in arguments else len(arguments)
    given, texts = _separated(arguments[:n], kinds, letters)
    n_marked, texts = len(texts), [*texts, *arguments[n + 1 :]]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = [p.name for p in parameters if p.default is p.empty]
    quotes = "; a text of several words goes in quotes"
    if len(texts) > len(names):
        surplus = texts[len(names)]
        if meant := [name for name in required if name not in (*given, *names)]:
            quotes = f" (did you mean --{meant[0]} {surplus}?)"
        elif os.path.exists(surplus):
            quotes = '; a pattern of files goes in quotes, as in "part-*.csv"'
        raise CommandLineError(f"unexpected argument {_quoted(surplus)}" +
                               (quotes if names else ": this command takes only options"))
    try:
        for i, (name, text) in enumerate(zip(names, texts)):
            if text != "-" or i >= n_marked:  # for "-", unless after "--", stdin is read
                _add(given, name, text)
        for name in required:
            if name not in given:
                raise CommandLineError(f"{name} is missing; --help says what it is")
        return _bound_by_fire(function, kinds, given)
    except CommandLineError as error:
        several = texts[1:] and re.search(" must be | is given twice", str(error))
        raise CommandLineError(f"{error}{quotes if several else ''}") from None


def _bound_by_fire(function: Function, kinds: dict[str, type], given: dict[str, str]) -> Callable[[], object]:
    """The function with the arguments that Fire reads from {name: text}, as a callable without parameters."""
    import fire

    calls: list[Callable[[], object]] = []

    @functools.wraps(function)  # from which Fire has the signature
    def collect(*args: object, **kwargs: object) -> None:
        calls.append(functools.partial(function, *args, **kwargs))

    parameters = inspect.signature(function).parameters
    converters = {name: _converter(name, kind, parameters[name].default is None) for name, kind in kinds.items()}
    fire.decorators.SetParseFns(**converters)(collect)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Fire calls, on Python 3.14
        fire.Fire(collect, command=[f"--{name}={text}" for name, text in given.items()], serialize=lambda result: None)
    return calls[0]


def _types(function: Function) -> dict[str, type]:
    """{parameter: the type to which its value is converted, which for `int | None` is int}"""
    hints = typing.get_type_hints(function)  # also where `from __future__ import annotations` made them strings
    kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name, str if parameter.default in (None, parameter.empty) else type(parameter.default))
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds[name] = next(kind for kind in (typing.get_args(hint) if union else [hint]) if kind is not type(None))
    return kinds


def _separated(arguments: list[str], kinds: dict[str, type], letters: dict[str, str]
               ) -> tuple[dict[str, str], list[str]]:
    """The options that are given, a dict {name: text}, and the other arguments, a list."""
    given: dict[str, str] = {}
    texts: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        match = OPTION.fullmatch(argument)
        if match is None:
            if argument[:1] == "-" and argument[1:].replace("-", "_") in {*kinds, "help"}:
                raise _unknown_option(argument, kinds)
            texts.append(argument)
            continue
        name = match[1].replace("-", "_") if match[1] else letters.get(match[3])
        value = match[2] or match[4]
        value = value and value.removeprefix("=")
        if name not in kinds:
            positive = re.sub("^no_?", "", name or "")  # --noecho, --no-echo
            if value is not None or kinds.get(positive) is not bool:
                raise _unknown_option(argument.partition("=")[0], kinds)
            name, value = positive, "False"
        elif value is None and kinds[name] is bool:
            value = rest.pop(0) if rest and rest[0] in TRUTH else "True"
        elif value is None:
            if not rest or OPTION.fullmatch(rest[0]):
                raise CommandLineError(f"--{name} needs a value: {KINDS.get(kinds[name], 'a text')}")
            value = rest.pop(0)
        _add(given, name, value)
    return given, texts


def _add(given: dict[str, str], name: str, text: str) -> None:
    if name in given:
        raise CommandLineError(f"{name} is given twice: {_quoted(given[name])} and {_quoted(text)}")
    given[name] = text


def _converter(name: str, kind: type, may_be_none: bool) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return TRUTH[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            if text == "None" and may_be_none:
                return None
            raise CommandLineError(f"{name} must be {KINDS.get(kind, f'a {kind.__name__}')}, not {_quoted(text)}"
                                   ) from None

    return convert


# --- what was meant -----------------------------------------------------------------------------


def _unknown_option(typed: str, names: Iterable[str]) -> CommandLineError:
    meant = _did_you_mean(typed.lstrip("-").replace("-", "_"), [*names, "help"], "--")
    return CommandLineError(f"unknown option {_quoted(typed)}" + (meant or
                            "; --help lists them all; a text that begins with a dash goes after --, as in: -- -text"))


def _did_you_mean(typed: str, names: Iterable[str], dashes: str = "") -> str:
    import difflib

    close = [name for name in names if len(typed) > 1 and name.startswith(typed)]
    close = close or difflib.get_close_matches(typed, names, n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(dashes + name for name in close)}?)" if close else ""


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else text[:60] + "…")
