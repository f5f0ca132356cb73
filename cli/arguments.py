"""The arguments of a command line: which of them are options, which are text, what they call.

A program is a function, or a dict of functions by the names of its commands. Their signatures and docstrings are all
that the command line and its `--help` are made from. Each parameter is an option (`--top_k 5`, `--top-k=5`); those that
are not keyword-only are also arguments by their place. Values are converted by annotation: str stays as typed (`123`
and `None` are prompts), int and float must be numbers, a bool needs no value (`--echo`, `--noecho`, `--echo False`).

What begins with a dash is an option if there is one of that name. Otherwise `--word`, `-x` and a `-word` that is close
to an option's name are refused as mistyped options, and all the rest is text: "-like this", "-ing", "-5". After `--`
everything is text, and so is TEXT in `--prompt=TEXT`. `-` is what is piped into stdin.

All this is settled before Fire sees the arguments. Fire gets each with its name, as --top_k=5, converts it and binds it
to its parameter. On its own it would take "-like this" for an option, call the function before it finds an argument
that it does not know, and guess types: 123, [1, 2] and None would not arrive as text.
"""
import contextlib
import functools
import inspect
import os
import re
import stat
import sys
import textwrap
import types
import typing
from collections.abc import Callable

Component = Callable[..., object] | dict[str, Callable[..., object]]

COMMON = {  # parameters that mean the same in several programs; a function's docstring goes before
    "text": "the text; without it, what is piped into stdin; an empty one begins a new text",
    "out": "a file for the picture, .png, .pdf or .svg",
    "model_size": "124M (the default), 355M, 774M, 1558M, shakespeare, or the name of any model's folder in models_dir",
    "models_dir": "the folder of models, into which official ones are downloaded; by default models/ beside gpt2.py",
}

TRUTH = {"true": True, "True": True, "false": False, "False": False}


class CommandLineError(ValueError):
    """Something typed on the command line is wrong: exit status 2."""


def bind(component: Component, arguments: list[str], short: dict[str, str] | None = None) -> Callable[[], object]:
    """Find out what a command line calls.

    Args:
        component: function, or dict {command: function}.
        arguments: list of str, the command line without the program's name.
        short: dict {letter: parameter}, the one-letter options; those of other functions do no harm. A parameter whose
            name is one letter has that letter.

    Returns:
        A callable without parameters: the function with its arguments, or one that prints the help that was asked for.

    Raises:
        CommandLineError: an unknown command or option, an option without its value or given twice, a value that is
            not of its type, an argument too many.
    """
    if isinstance(component, dict):
        return _bind_command(component, arguments, short or {})
    return _bind_function(component, arguments, short or {}, _program())


def _bind_command(commands, arguments, short):
    wants_help, place = _wants_help(arguments), _place_of_command(arguments, commands, short)
    if place is None:
        if wants_help or not arguments:
            return functools.partial(print, _commands_help(commands))
        raise CommandLineError(f"which command? {', '.join(commands)}; --help says what they do")
    name = arguments[place].replace("-", "_")
    if name not in commands:
        raise CommandLineError(f"unknown command {_quoted(arguments[place])}{_did_you_mean(_close(name, commands))}: "
                               f"the commands are {', '.join(commands)}; --help says what they do")
    return _bind_function(commands[name], arguments[:place] + arguments[place + 1 :], short, f"{_program()} {name}")


def _bind_function(function, arguments, short, program):
    options = _options(function, short)
    if _wants_help(arguments):
        return functools.partial(print, _function_help(function, options, program))
    return _call(function, options, _named(arguments, options))


def _wants_help(arguments):
    return bool({"--help", "-h"} & {*_before_dashes(arguments)})


def _before_dashes(arguments):
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _call(function, options, named):
    """The function with the arguments that Fire reads from a list of --name=value, as a callable without parameters."""
    import fire

    calls = []

    @functools.wraps(function)  # from which Fire has the signature
    def collect(*args, **kwargs):
        calls.append(functools.partial(function, *args, **kwargs))

    fire.decorators.SetParseFns(**{name: option.convert for name, option in options.items()})(collect)
    fire.Fire(collect, command=named, serialize=lambda result: None)  # what a function returns is not printed
    return calls[0]


# --- options ------------------------------------------------------------------------------------


class _Option:
    """A parameter of a function, as an option of the command line."""

    def __init__(self, parameter, annotation, letter, description):
        self.name, self.letter, self.description = parameter.name, letter, description
        self.required = parameter.default is parameter.empty
        self.default = None if self.required else parameter.default
        self.by_place = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        kinds = typing.get_args(annotation) if union else (annotation,)
        self.may_be_none = type(None) in kinds
        self.type = next(kind for kind in kinds if kind is not type(None))

    def __str__(self):
        return f"--{self.name}"

    @property
    def metavar(self):
        """What stands for a value in the help."""
        return {str: "TEXT", int: "N", float: "NUMBER", bool: ""}.get(self.type, self.type.__name__.upper())

    def convert(self, text):
        """The value that was typed, as the parameter's type."""
        if self.type is str:
            return text
        if text == "None" and self.may_be_none:
            return None
        if self.type is bool and text in TRUTH:
            return TRUTH[text]
        if self.type is not bool:
            with contextlib.suppress(ValueError):
                return self.type(text)
        wanted = {int: "a whole number", float: "a number", bool: "True or False"}.get(self.type, self.metavar)
        raise CommandLineError(f"{self.name} must be {wanted}, not {_quoted(text)}")


def _options(function, short):
    """The options of a function: dict {name: _Option}, in the order of its parameters."""
    annotations = typing.get_type_hints(function)  # also where `from __future__ import annotations` made them strings
    letters = {name: letter for letter, name in short.items()}
    descriptions = COMMON | _docstring(function)[1]
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        has_default = parameter.default not in (None, parameter.empty)
        annotation = annotations.get(name, type(parameter.default) if has_default else str)
        letter = name if len(name) == 1 else letters.get(name)
        options[name] = _Option(parameter, annotation, letter, descriptions.get(name, ""))
    return options


def _find(argument, options):
    """(option, value) of an argument that is an option; the value is None if it is not in the same argument, and the
    option is None if the argument is none."""
    if match := re.fullmatch(r"--([A-Za-z][\w-]*)(?:=(.*))?", argument, re.S):
        name, value = match[1].replace("-", "_"), match[2]
        if name in options:
            return options[name], value
        positive = re.sub("^no_?", "", name)  # --noecho, --no-echo
        if value is None and positive != name and positive in options and options[positive].type is bool:
            return options[positive], "False"
    elif match := re.fullmatch(r"-([A-Za-z])(?:=(.*)|([-+.]?\d\S*))?", argument, re.S):  # -n, -n=5, -n5
        for option in options.values():
            if option.letter == match[1]:
                return option, match[2] if match[3] is None else match[3]
    return None, None


def _is_mistyped(argument, options):
    """Whether an argument that is not an option was probably meant to be one."""
    match = re.fullmatch(r"(--?)([A-Za-z][\w-]*)(=.*)?", argument, re.S | re.A)
    return match is not None and (match[1] == "--" or len(match[2]) == 1 or bool(_close(match[2], [*options, "help"])))


def _place_of_command(arguments, commands, short):
    """The index of the first argument that is neither an option nor the value of one; None if there is none.

    Raises CommandLineError for an option before it that no command has, unless help is asked for.
    """
    options: dict[str, _Option] = {}
    for function in commands.values():
        options |= _options(function, short)
    wants_help, skip = _wants_help(arguments), False
    arguments = _before_dashes(arguments)
    for i, argument in enumerate(arguments):
        option, value = _find(argument, options)
        if skip:
            skip = False
        elif option is not None:
            skip = value is None and (option.type is not bool or bool(TRUTH.keys() & arguments[i + 1 : i + 2]))
        elif not _is_mistyped(argument, options):
            return i
        elif not wants_help:
            raise _unknown(argument.partition("=")[0], options)
    return None


def _named(arguments, options):
    """The arguments, each with the name of its option: list of --name=value. Raises as `bind`."""
    values, texts = _separate(arguments, options)
    by_place = [option for option in options.values() if option.by_place]
    if len(texts) > len(by_place):
        raise CommandLineError(f"{_quoted(texts[len(by_place)][0])} is one argument too many" +
                               ("; a text of several words goes in quotes" if by_place else ": there are only options"))
    if len(texts) == 1:
        _check_stdin(texts[0][0], by_place, values)
    for i, (option, (text, literal)) in enumerate(zip(by_place, texts)):
        if text == "-" and option.type is str and not literal:
            continue  # without a text, stdin is read
        _add(values, option, text, text)
        try:
            option.convert(text)  # Fire does it again; that text was not meant for this option is known only here
        except CommandLineError as error:
            raise CommandLineError(f"{error}; a text of several words goes in quotes" if i else str(error)) from None
    for option in options.values():
        if option.required and option.name not in values:
            raise CommandLineError(f"{option.name} is missing; --help says what it is")
    return [f"--{name}={value}" for name, (value, _) in values.items()]


def _separate(arguments, options):
    """The options that are given, a dict {name: (value, as typed)}, and the other arguments, a list of (text, literal);
    `literal` is False where a text of "-" means stdin."""
    values: dict[str, tuple[str, str]] = {}
    texts: list[tuple[str, bool]] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return values, texts + [(text, True) for text in rest]
        option, value = _find(argument, options)
        if option is None:
            if _is_mistyped(argument, options):
                raise _unknown(argument.partition("=")[0], options)
            texts.append((argument, False))
            continue
        typed = argument
        if value is None and option.type is bool:
            value = rest.pop(0) if rest and rest[0] in TRUTH else "True"
        elif value is None:
            if not rest or rest[0] == "--" or _find(rest[0], options)[0]:
                raise CommandLineError(f"{argument} needs a value, as in {option}={option.metavar}")
            value = rest.pop(0)
            typed += " " + value
        _add(values, option, value, typed)
    return values, texts


def _add(values, option, value, typed):
    if option.name in values:
        raise CommandLineError(f"{option.name} is given twice: {_quoted(values[option.name][1])} and {_quoted(typed)}")
    values[option.name] = value, typed


def _check_stdin(text, by_place, values):
    """Refuse `echo text | program 60`: is 60 the text, or how many tokens should follow that of stdin?"""
    if len(by_place) > 1 and by_place[1].type is int and text.isdecimal() and by_place[1].name not in values \
            and stdin_has_text(seconds=0.1):
        first, second = by_place[:2]
        raise CommandLineError(f"is {text} the {first.name} or the {second.name}? There is a text in stdin too: write "
                               f"{first}={text} or {second}={text}")


def stdin_has_text(seconds: float = 0.0) -> bool:
    """Whether something is piped into stdin, or redirected to it, that nobody has begun to read.

    Args:
        seconds: how long to wait for the first byte from a pipe.
    """
    try:
        status = os.fstat(0)
        if stat.S_ISREG(status.st_mode):
            return status.st_size > 0 and os.lseek(0, 0, os.SEEK_CUR) == 0
        if stat.S_ISFIFO(status.st_mode) and os.name == "posix":
            import select

            select.select([0], [], [], seconds)
            return unread_bytes(0) > 0
        return False
    except OSError:  # it is closed
        return False


def unread_bytes(fd: int) -> int:
    """How many bytes there are in a pipe; 0 where the system cannot tell."""
    try:
        import fcntl
        import termios

        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    except (ImportError, OSError):  # Windows has no fcntl
        return 0


def _unknown(typed, options):
    meant = _did_you_mean([f"--{name}" for name in _close(typed.lstrip("-"), [*options, "help"])])
    hint = "; a text that begins with a dash goes after --, as in: -- -text"
    if meant and typed.startswith("--"):
        hint = ""
    return CommandLineError(f"unknown option {_quoted(typed)}{meant or '; --help lists them all'}{hint}")


def _close(name, names):
    """Those of `names` that were probably meant by `name`: the ones that begin with it, or similar ones."""
    import difflib

    name = name.replace("-", "_")
    begin = [other for other in names if len(name) > 1 and other.startswith(name)]
    return begin or difflib.get_close_matches(name, names, n=2, cutoff=0.7)


def _did_you_mean(names):
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def _quoted(text, most=60):
    return repr(text if len(text) <= most else text[:most] + "…")


# --- help ---------------------------------------------------------------------------------------


def _program():
    return f"python {os.path.basename(sys.argv[0])}"


def _docstring(function):
    """The text before `Args:` as a list of paragraphs, and the descriptions under it as a dict {parameter: text}."""
    head, _, args = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in head.split("\n\n") if paragraph.strip()]
    descriptions, name = {}, None
    for line in args.splitlines():
        if line and not line.startswith(" "):
            break  # Returns:, Raises:
        if match := re.fullmatch(r" {4}(\w+): (.*)", line):
            name, descriptions[match[1]] = match[1], match[2]
        elif name:
            descriptions[name] = f"{descriptions[name]} {line.strip()}".strip()
    return paragraphs, descriptions


def _function_help(function, options, program):
    by_place = [option for option in options.values() if option.by_place]
    usage = [option.name.upper() if option.required else f"[{option.name.upper()}]" for option in by_place]
    paragraphs = ["Usage: " + " ".join([program, *usage, "[OPTION]..."]), *_docstring(function)[0]]
    rows = []
    for option in options.values():
        letter = f"-{option.letter}," if option.letter else ""
        default = f" (default:\N{NO-BREAK SPACE}{option.default})"
        default = "" if option.default is None or option.default is False else default
        rows.append((f"{letter:4}{option} {option.metavar}".rstrip(), option.description.rstrip(".") + default))
    rows.append(("-h, --help", "show this help"))
    lines = [*map(_filled, paragraphs), "\n".join(["Options:", *_table(rows)])]
    if by_place and by_place[0].type is str:
        lines.append(f"If {by_place[0].name.upper()} begins with a dash and could be an option, put -- before it:\n"
                     f"  {program} -- -text")
    return "\n\n".join(lines)


def _commands_help(component):
    rows = [(name, "".join(_docstring(function)[0][:1])) for name, function in component.items()]
    return "\n\n".join([_filled(f"Usage: {_program()} COMMAND [ARGUMENT]... [OPTION]..."),
                        "\n".join(["Commands:", *_table(rows)]),
                        _filled(f"Help on one of them: {_program()} {rows[0][0]} --help")])


def _filled(text):
    return textwrap.fill(text, _width(), subsequent_indent="    " if text.startswith("Usage:") else "")


def _width():
    import shutil

    return max(40, min(80, shutil.get_terminal_size().columns))


def _table(rows):
    """Lines of two columns; where the first is too wide, the second begins on the next line."""
    indent = min(max(len(left) for left, _ in rows) + 4, 34)
    lines = []
    for left, right in rows:
        first, *others = textwrap.wrap(right.strip(), _width() - indent) or [""]
        fits = len(left) + 4 <= indent
        lines += [f"  {left:{indent - 2}}{first}".rstrip()] if fits else [f"  {left}", " " * indent + first]
        lines += [" " * indent + line for line in others]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
