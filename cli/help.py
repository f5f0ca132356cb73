"""The help of a command line, made from a function's signature and docstring and laid out by argparse."""
import functools
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable

COMMON = {  # parameters that mean the same in several commands; a function's docstring takes precedence
    "text": 'the text; "" begins a new text; without one, stdin is read, or you are asked for it',
    "clean": "the first text; without one, stdin is read, or you are asked for it",
    "corrupted": "the second text; it must have the same number of tokens",
    "answer": "the clean text's answer, one token: its text, with its space if it has one, or its id, as \"#417\"; the "
              "metric is its logit at the end of the text",
    "wrong": "the corrupted text's answer: the metric is then the answer's logit minus this one's",
    "file": "a CSV file with the columns clean, corrupted and answer (and wrong, position): the mean over its rows",
    "position": "the token after which the answer comes, from 0; -1 is the last one",
    "out": "a file for the picture, .png, .pdf or .svg",
    "model_size": "124M (the default), 355M, 774M, 1558M, shakespeare, a folder in models_dir, a path such as ./mine, "
                  "or owner/name on the Hugging Face Hub",
    "models_dir": "the folder of models; official ones are downloaded to it; by default models/ beside gpt2.py",
    "n_tokens_to_generate": "how many tokens at most; fewer if the model ends the text",
    "temperature": "0 takes the most likely token each time; about 0.7 to 1 varies the text",
    "top_k": "choose among the k most likely tokens only; needs a temperature",
    "top_p": "choose among the fewest tokens that together have this probability; needs a temperature",
    "stop": "end before this text; \\n is a newline, \\t a tab",
    "correction": "what begins a word, for its probability: whitespace; space, the space alone, as published; none, "
                  "for the sum over its tokens",
    "split_punctuation": "tokens of punctuation are words of their own",
    "texts": "a .txt, .jsonl, .csv or .parquet file, also gzipped; a pattern in quotes; a URL; without it, stdin",
    "column": "the column with the texts; a .txt file has one, text",
    "input_format": "txt, jsonl, csv or parquet, where the name does not say; what is piped into stdin is txt",
    "prefix": "goes before the names of the columns that are added",
    "scheduler": "the address of a running Dask scheduler, as tcp://host:8786, instead of local worker processes; its "
                 "workers have the model in their own models_dir",
    "n_workers": "how many local worker processes; by default one for each core",
    "strict": "end with an error at the first row that fails",
    "overwrite": "replace the output if it exists",
}

METAVARS: dict[object, str] = {str: "TEXT", int: "N", float: "NUMBER", bool: "True|False", "out": "FILE",
                               "file": "FILE", "texts": "FILE", "models_dir": "FOLDER", "model_size": "MODEL",
                               "scheduler": "ADDRESS", "column": "NAME"}
NO_BREAK = "\N{NO-BREAK SPACE}"


def help_of(function: Callable[..., object], kinds: dict[str, type], letters: dict[str, str], program: str) -> str:
    """The help of a function, in argparse's layout."""
    import argparse

    paragraphs, descriptions = _docstring(function)
    parameters, width = inspect.signature(function).parameters, _width()
    usage = [p.name.upper() if p.default is p.empty else f"[{p.name.upper()}]" for p in parameters.values()
             if p.kind is p.POSITIONAL_OR_KEYWORD]
    filled = functools.partial(textwrap.fill, width=width)
    dashes = f"After -- everything is text: {program} -- -text" if usage and kinds[next(iter(kinds))] is str else ""
    parser = argparse.ArgumentParser(
        usage=filled(" ".join(["usage:", program, *usage, "[OPTION]..."]), subsequent_indent=" " * 7)[7:],
        description="\n\n".join(map(filled, paragraphs)), epilog=filled(dashes), add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 30, width))
    letter_of = {name: f"-{letter}" for letter, name in letters.items()}
    for name, kind in kinds.items():
        default = parameters[name].default
        text = (COMMON | descriptions).get(name, "").rstrip(".").replace("%", "%%")
        unsaid = default not in ("", None, parameters[name].empty) and default is not False and "default" not in text
        shown = f" (default:{NO_BREAK}{default})" if unsaid else ""
        text = re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace(" ", NO_BREAK), text)
        parser.add_argument(*filter(None, [letter_of.get(name), f"--{name}"]), dest=name,
                            metavar=METAVARS.get(name, METAVARS.get(kind, "VALUE")) if default is not False else "",
                            help=text + shown)
    parser.add_argument("-h", "--help", action="help", help="show this help")
    parser.add_argument("--version", action="version", help="show the version")
    return parser.format_help().replace(NO_BREAK, " ")


def _docstring(function: Callable[..., object]) -> tuple[list[str], dict[str, str]]:
    """The text before `Args:` as a list of paragraphs, and the descriptions under it as a dict {parameter: text}."""
    head, _, args = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in head.split("\n\n") if paragraph.strip()]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5}.*)*)", args, re.M)
    return paragraphs, {name: " ".join(text.split()) for name, text in entries}


def list_of_commands(commands: dict[str, Callable[..., object]], program: str) -> str:
    """The help of a program: its commands, each with the first sentence of its docstring."""
    lines, indent = [f"usage: {program} COMMAND [ARGUMENT]... [OPTION]...\n\ncommands:"], max(map(len, commands)) + 4
    for name, function in commands.items():
        lines.append(textwrap.fill(_docstring(function)[0][0], _width(), initial_indent=f"  {name}".ljust(indent),
                                   subsequent_indent=" " * indent))
    return "\n".join([*lines, "", f"The options of a command: {program} {next(iter(commands))} --help"])


def _width() -> int:
    return max(40, min(80, shutil.get_terminal_size().columns))
