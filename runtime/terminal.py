"""The command line: arguments in, text and one-line errors out."""
import difflib
import inspect
import os
import re
import sys


def notice(text):
    """Say something to the person at the terminal: on stderr, stdout being for results alone."""
    print(text, file=sys.stderr, flush=True)


def run_command_line(component, arguments=None):
    """Run a function, or one of a dict of functions by its name, on the command line's arguments with Fire.

    Fire guesses types: 123, [1, 2] and None would not arrive as text. Parameters that are annotated as str do here. An
    unknown option is refused before anything runs; every error of the user is one line on stderr and exit status 1 (2
    where the command line itself is wrong); Ctrl-C and a closed pipe end quietly, with the shell's 130 and 141.
    """
    if sys.stderr is None:  # closed by the caller: what would be said goes nowhere
        sys.stderr = open(os.devnull, "w")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed: there is nowhere to write to")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
            sys.stderr.reconfigure(errors="backslashreplace")
        _run_with_fire(component, arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        status = 141
    except CommandLineError as error:
        notice(f"error: {error}")
        status = 2
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        notice("error: " + " ".join(str(error).split() or ["out of memory"]))
        status = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # Python would try once more at exit, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


class CommandLineError(ValueError):
    """The command line has an option, a command or an argument that is not known."""


def _run_with_fire(component, arguments):
    import fire

    arguments = [argument for argument in arguments if argument != "-"]  # a file of that name is stdin, the default
    for function in component.values() if isinstance(component, dict) else [component]:
        text = [p.name for p in inspect.signature(function).parameters.values() if p.annotation is str]
        fire.decorators.SetParseFns(**dict.fromkeys(text, str))(function)
    rest, function = arguments, component
    if isinstance(component, dict):
        if not arguments:
            raise CommandLineError(f"which command? {', '.join(component)}; --help says more")
        if not arguments[0].startswith("-"):
            rest, function = arguments[1:], component.get(arguments[0])
            if function is None:
                raise CommandLineError(f"unknown command {arguments[0]!r}{_meant(arguments[0], component)}: "
                                       f"the commands are {', '.join(component)}")
    if "--help" in rest or "-h" in rest:
        arguments = arguments[: len(arguments) - len(rest)] + ["--help"]
    else:
        _check_arguments(rest, list(inspect.signature(function).parameters))
    fire.Fire(component, command=arguments, serialize=lambda result: None)


def _check_arguments(arguments, known):
    """Refuse what Fire would only complain of after the function has run, and at length."""
    n_values, i = 0, 0
    while i < len(arguments):
        argument = arguments[i]
        name = argument.lstrip("-").partition("=")[0].replace("-", "_")
        if argument.startswith("--") or re.fullmatch(r"-[a-zA-Z](=.*)?", argument, re.S):
            if not argument.startswith("--") or name not in known:
                raise CommandLineError(f"unknown option {argument!r}{_meant(name, known)}: the options are "
                                       f"{', '.join('--' + name for name in known)}; a text that begins with a dash "
                                       f"is given as --{known[0]}=TEXT")
            if "=" not in argument:
                i += 1
                if i == len(arguments) or arguments[i].startswith("--"):
                    raise CommandLineError(f"{argument} needs a value, as in {argument}=VALUE")
        else:
            n_values += 1
        i += 1
    if n_values > len(known):
        raise CommandLineError(f"{n_values} arguments are too many: a text of several words goes in quotes")


def _meant(name, known):
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_stdin():
    """The text piped into stdin, without the newline that `echo` puts at its end; ValueError where it is not UTF-8."""
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"stdin is not UTF-8 text: byte 0x{data[error.start]:02X} at {error.start}; convert it first, "
                         "for instance with iconv") from None
    return text.removesuffix("\n").removesuffix("\r")
