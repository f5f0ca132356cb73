"""A run of batch.py from end to end: read, work, keep what is finished, write."""
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from cli.terminal import CommandLineError, argument_errors, notice
from generation.checks import check_whole
from many_texts import tables, work
from many_texts.journal import Journal
from many_texts.work import Text
from utils import load_encoder_hparams_and_params


class Options(NamedTuple):
    """What `batch.py generate` and `batch.py score` have in common; their help says what each is."""

    texts: str
    out: str
    column: str
    model_size: str
    models_dir: str | None
    scheduler: str | None
    n_workers: int | None
    prefix: str
    strict: bool
    overwrite: bool


class Command(NamedTuple):
    """What a command does: a function of `work`, the columns that it adds, and how many texts make a block."""

    function: Any
    added: dict[str, str]  # name -> type, as pyarrow.type_for_alias knows it, or "list of ..."
    n_texts: int
    n_bytes: int


# A block takes some seconds with the 124M: long enough that Dask's share of a millisecond does not count, short enough
# that little is lost with a worker, and that no worker is left alone with the last one for long.
COMMANDS = {
    "generate": Command(work.generate_block, {"continuation": "string", "n_tokens": "int64"}, 64, 2**16),
    "score": Command(work.score_block, {"n_tokens": "int64", "log_prob": "float64", "bits_per_byte": "float64",
                                        "perplexity": "float64"}, 256, 2**15),
}
LISTS = {"tokens": {"tokens": "list of string", "token_surprisals": "list of float64"},
         "words": {"words": "list of string", "word_surprisals": "list of float64"}}


def run(name: str, options: Options, **how) -> None:
    """Run a command of batch.py.

    Args:
        name: "generate" or "score".
        options: what both have in common.
        how: the arguments of `work.generate_block` or `work.score_block`.

    Raises:
        CommandLineError, OSError, ValueError, ImportError: what is wrong, for one line on stderr.
    """
    command, out = COMMANDS[name], options.out
    added = command.added | {key: kind for option in LISTS if how.get(option) for key, kind in LISTS[option].items()}
    added |= {"error": "string"}
    check_packages()
    with argument_errors():
        source = tables.Source(options.texts)
        check_out(out, source, options.overwrite)
        if options.n_workers is not None:
            check_whole("n_workers", options.n_workers, 1, 1024, "processes on one machine")
    with only_run(out):
        blocks = functools.partial(blocks_of, source, options.column, command)
        types, n_texts, texts_digest = survey(source, blocks, options, added)
        if options.scheduler is None:  # downloads and converts it where that has to be done
            load_encoder_hparams_and_params(options.model_size, options.models_dir)
        from many_texts import cluster

        start = time.perf_counter()
        with cluster.connected(options.scheduler, options.n_workers) as client:
            fingerprint = cluster.on_all(client, work.fingerprint, options.model_size, options.models_dir)
            identity = {"command": name, "texts": n_texts, "contents of the texts": texts_digest,
                        "column": options.column, "model": fingerprint, **how, "block": command[2:]}
            with contextlib.closing(open_journal(out, identity, options.overwrite)) as journal:
                if how.get("temperature") and how["seed"] is None:
                    how["seed"] = journal.head["drawn_seed"]
                    notice(f"without --seed, it is {how['seed']} this time")
                function = functools.partial(command.function, model=(options.model_size, options.models_dir,
                                                                      fingerprint), **how)
                notice(f"{counted(n_texts, 'text')} on {counted(sum(client.nthreads().values()), 'worker')}, dashboard "
                       f"at {client.dashboard_link}"
                       + (f"; {journal.n_texts:,} were finished before" if len(journal) else ""))
                todo = ((number, texts) for number, (texts, _) in enumerate(blocks()) if number not in journal)
                with kept(journal):
                    work_through(cluster.finished(client, function, todo), journal, n_texts, options.strict)
                    tables.write(out, joined(blocks(), journal, added, options.prefix), types)
        os.unlink(journal.path)
    notice(f"{counted(n_texts, 'text')}, {counted(journal.n_tokens, 'token')} in {time.perf_counter() - start:.1f} s, "
           f"{counted(journal.n_failed, 'row')} failed"
           + (f"; the column {options.prefix}error says why" if journal.n_failed else ""))


def counted(n, what):
    return f"{n:,} {what}{'s' * (n != 1)}"


# --- before any work ----------------------------------------------------------------------------


def check_packages():
    for package in ("dask", "distributed", "pyarrow"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"the package {package} is not installed: pip install -r many_texts/requirements.txt")


def check_out(out, source, overwrite):
    tables.format_of(out, tables.OUT_FORMATS)
    if "://" in out:
        raise CommandLineError(f"{out}: the output must be a file on this machine; copy it from there")
    if os.path.splitext(out)[1].lower() not in tables.OUT_FORMATS:
        raise CommandLineError(f"{out}: the output is not compressed; give a name without the last ending")
    folder = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise CommandLineError(f"{out}: the folder {folder} does not exist")
    if os.path.isdir(out):
        raise CommandLineError(f"{out} is a folder: give a file")
    if os.path.exists(out):
        if any(os.path.exists(path) and os.path.samefile(path, out) for path in source.paths):
            raise CommandLineError(f"{out} is an input too: write to another file")
        if not overwrite:
            raise CommandLineError(f"{out} exists already: give another name, or --overwrite to replace it")


@contextlib.contextmanager
def only_run(out):
    """A lock on the output among runs; OSError where another run has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(out + ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(f"another run is writing {out}: wait for it, or give another name") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(out + ".lock")
        lock.release()


def survey(source, blocks, options, added):
    """Read the whole input once, so that what is wrong with it is known before the work begins.

    Returns:
        (types, n_texts, digest): dict {column of the output: pyarrow type, or None if that does not matter}, the number
        of rows, a hash of their texts.
    """
    parquet = options.out.lower().endswith(".parquet")
    columns, n_texts, digest = tables.Columns(typed=parquet), 0, hashlib.sha256()
    for texts, _ in blocks(through=columns.pass_on):
        n_texts += len(texts)
        digest.update(json.dumps([text[1:] for text in texts]).encode())
        for place, _, error in texts if options.strict else []:
            refuse(place, error)
    types = source.types() | {name: kind for name, kind in columns.types.items() if name not in source.types()}
    if options.column not in types and (types or n_texts):
        raise CommandLineError(f"there is no column {options.column!r} in {options.texts}: the columns are "
                               f"{', '.join(types) or 'none'}; give one with --column")
    clash = [name for name in added if options.prefix + name in types]
    if clash:
        raise CommandLineError(f"{options.texts} has a column {options.prefix + clash[0]!r} already, which this would "
                               "add: with --prefix new_ the names of all added columns begin with new_")
    for name, kind in added.items():
        types[options.prefix + name] = tables.arrow_type(kind) if parquet else None
    return types, n_texts, digest.hexdigest()[:16]


def blocks_of(source, column, command, through=iter) -> Iterator[tuple[list[Text], list[tables.Row]]]:
    """The input in blocks: (texts, rows), the same number of each. They depend on nothing but the input."""
    texts: list[Text] = []
    rows: list[tables.Row] = []
    n_bytes = 0
    for place, row in enumerate(through(source.rows())):
        text = Text(place, *tables.text_of(row, column))
        size = len(text.text or "")
        if texts and (len(texts) == command.n_texts or n_bytes + size > command.n_bytes):
            yield texts, rows
            texts, rows, n_bytes = [], [], 0
        texts.append(text)
        rows.append(row)
        n_bytes += size
    if texts:
        yield texts, rows


# --- while it works -----------------------------------------------------------------------------


def open_journal(out, identity, overwrite):
    """The journal of this run, with what an earlier one of the same kind has finished."""
    path, head = out + ".progress", identity | {"drawn_seed": secrets.randbits(32)}
    try:
        return Journal(path, head)
    except ValueError:
        if not overwrite:
            raise
        os.unlink(path)
        return Journal(path, head)


@contextlib.contextmanager
def kept(journal):
    """Say what is kept when something ends the run."""
    try:
        yield
    except BaseException:
        notice(f"\n{journal.n_texts:,} texts are finished and kept in {journal.path}: the same command goes on from "
               "there")
        raise


def work_through(results, journal, n_texts, strict):
    """Keep the results as they come, and show how far it is."""
    from tqdm import tqdm

    interval = 0.5 if sys.stderr.isatty() else 30
    with tqdm(total=n_texts, initial=journal.n_texts, unit=" texts", smoothing=0, mininterval=interval) as bar:
        n_before, start = journal.n_tokens, time.perf_counter()
        for number, texts, rows in results:
            journal[number] = rows
            speed = (journal.n_tokens - n_before) / (time.perf_counter() - start)
            bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
            bar.update(len(rows))
            for text, row in zip(texts, rows) if strict else []:
                refuse(text.place, row.get("error"))


def refuse(place, error):
    if error is not None:
        raise ValueError(f"text {place + 1:,}: {error} (--strict)")


def joined(blocks, journal, added, prefix):
    """The rows of the output: those of the input, each with its new columns."""
    for number, (_, rows) in enumerate(blocks):
        for row, new in zip(rows, journal[number], strict=True):
            yield row.values | {prefix + name: new.get(name) for name in added}
