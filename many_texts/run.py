"""A run of batch.py from end to end: read, work, keep what is finished, write."""
import contextlib
import functools
import hashlib
import importlib.util
import itertools
import math
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cli.terminal import CommandLineError, argument_errors, notice
from generation.checks import check_whole
from many_texts import tables, work
from many_texts.journal import Journal, check_own, rows_of
from many_texts.work import Text
from utils import load_encoder_hparams_and_params


class Options(NamedTuple):
    """What `batch.py generate` and `batch.py score` have in common; their help says what each is."""

    texts: str | None
    out: str
    column: str
    input_format: str | None
    model_size: str
    models_dir: str | None
    scheduler: str | None
    n_workers: int | None
    prefix: str
    strict: bool
    overwrite: bool
    context: str | None = None  # the column with what is read before each text


class Command(NamedTuple):
    """What a command does: a function of `work`, the columns that it adds, and how large a block is at most."""

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
ENTROPIES = {"tokens": {"token_entropies": "list of float64"}, "words": {"word_entropies": "list of float64"}}
PER_WORD = {"text": "int64", "index": "int64", "word": "string", "surprisal": "float64", "n_tokens": "int64",
            "characters": "int64"}
N_ROUNDS = 8  # a run with so many blocks for each worker begins with smaller ones


def run(name: str, options: Options, **how) -> None:
    """Run a command of batch.py.

    Args:
        name: "generate" or "score".
        options: what both have in common.
        how: the arguments of `work.generate_block` or `work.score_block`.

    Raises:
        CommandLineError, OSError, ValueError, ImportError: what is wrong, for one line on stderr.
    """
    check_packages()
    command, out = COMMANDS[name], options.out
    added = added_columns(command, **how)
    dropped = {options.column, options.context} if how.get("per") == "word" else set()
    with contextlib.ExitStack() as stack:
        with argument_errors():
            source = stack.enter_context(open_source(options.texts, options.input_format))
            check_out(out, source, options.overwrite)
            if options.n_workers is not None:
                check_whole("n_workers", options.n_workers, 1, 1024, "processes on one machine")
        stack.enter_context(only_run(out))
        rows = Rows(source, options.column, options.context)
        types = survey(rows, options, added, dropped)
        if options.scheduler is None:  # downloads and converts it where that has to be done
            load_encoder_hparams_and_params(options.model_size, options.models_dir)
        from many_texts import cluster

        start = time.perf_counter()
        client = stack.enter_context(cluster.connected(options.scheduler, options.n_workers))
        fingerprint = cluster.on_all(client, work.fingerprint, options.model_size, options.models_dir)
        identity = {"command": name, "texts": rows.n, "contents of the texts": rows.digest(), "column": options.column,
                    "context": options.context, "model": fingerprint, **how}
        with contextlib.closing(open_journal(out, identity, options.overwrite)) as journal, kept(journal):
            if how.get("temperature") and how["seed"] is None:
                how["seed"] = journal.head["drawn_seed"]
                notice(f"no --seed was given: this run uses {how['seed']}")
            function = functools.partial(command.function, model=(options.model_size, options.models_dir, fingerprint),
                                         **how)
            n_workers = sum(client.nthreads().values())
            dashboard = cluster.dashboard_of(client)
            notice(f"{counted(rows.n, 'text')} on {counted(n_workers, 'worker')}"
                   + (f", dashboard at {dashboard}" if dashboard else "")
                   + (f"; {journal.n_texts:,} were finished before" if journal.n_texts else ""))
            blocks = blocks_of(unfinished(rows, journal), sizes(rows.n - journal.n_texts, n_workers, command))
            work_through(client, function, blocks, journal, rows.n, options.strict)
            if os.path.exists(out) and not options.overwrite:
                raise ValueError(f"{out} appeared during the run: move it away and run the same command again, or add "
                                 "--overwrite")
            tables.write(out, joined(rows, journal, added, options.prefix, dropped), types)
        Path(journal.path).unlink(missing_ok=True)
        seconds = time.perf_counter() - start
        notice(f"{counted(rows.n, 'text')}, {counted(journal.n_tokens, 'token')} in {seconds:.1f} s, "
               f"{counted(journal.n_failed, 'row')} failed"
               + (f"; the column {options.prefix}error says why" if journal.n_failed else ""))


def added_columns(command, *, n_samples=1, per="text", entropy=False, **how):
    """The columns that a command adds: dict {name: type}."""
    if per == "word":
        return PER_WORD | ({"entropy": "float64"} if entropy else {}) | {"error": "string"}
    added = ({"sample": "int64"} if n_samples > 1 else {}) | command.added
    for option in LISTS:
        if how.get(option):
            added |= LISTS[option] | (ENTROPIES[option] if entropy else {})
    return added | {"error": "string"}


def counted(n, what):
    return f"{n:,} {what}{'s' * (n != 1)}"


# --- before any work ----------------------------------------------------------------------------


def check_packages():
    for package in ("dask", "distributed", "pyarrow", "cryptography"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"the package {package} is not installed: pip install -r many_texts/requirements.txt")


@contextlib.contextmanager
def open_source(name: str | None, kind: str | None) -> Iterator[tables.Source]:
    """The `tables.Source` of a name; what is piped into stdin, for "-" or None, is kept in a file meanwhile."""
    if name not in (None, "-"):
        yield tables.Source(name, kind)
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise CommandLineError("texts is missing: give a file, or pipe texts into stdin")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "stdin." + (kind or "txt"))
        tables.check_kind(kind or "txt")
        try:
            with open(path, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            error.filename = path  # a full disk has no name otherwise
            raise
        yield tables.Source(path, kind)


def check_out(out, source, overwrite):
    if "://" in out:
        raise CommandLineError(f"{out}: the output must be a file on this machine; copy it from there")
    if tables.format_of(out, tables.OUT_FORMATS, compressions=(".gz",)) == ".parquet" and tables.is_gzip(out):
        raise CommandLineError(f"{out}: .parquet is compressed already; give a name without the last ending")
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

    path = out + ".lock"
    for own in (path, out + ".progress"):
        if os.path.lexists(own):
            check_own(own)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(f"another run is writing {out}: wait for it, or give another name") from None
    try:
        Path(out + ".part").unlink(missing_ok=True)  # of a killed run; if it cannot be removed, that is known now
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        lock.release()


class Rows:
    """The rows of a source, read several times: ValueError if they are not the same each time.

    Attributes:
        n: how many there are; known when they have been read once.
    """

    def __init__(self, source: tables.Source, column: str, context: str | None = None):
        self.source, self.column, self.context = source, column, context
        self.n = 0
        self.digests: list[bytes] = []  # one for every 64 rows or 64 KB of texts

    def first(self, columns: tables.Columns) -> Iterator[Text]:
        """All texts, the first time; `columns` sees the rows."""
        for piece in self._pieces(columns.pass_on):
            self.n += len(piece)
            self.digests.append(digest_of(piece))
            yield from (text for text, _ in piece)

    def __iter__(self) -> Iterator[tuple[Text, tables.Row]]:
        """All texts, each with its row."""
        for piece, digest in itertools.zip_longest(self._pieces(), self.digests):
            if piece is None or digest_of(piece) != digest:
                where = f", from row {piece[0][0].place + 1:,} on" if piece else ": there are fewer rows"
                raise ValueError(f"{self.source.name} was changed while it was in use{where}; put the old file back, "
                                 "or begin anew with --overwrite")
            yield from piece

    def digest(self) -> str:
        """16 hex digits that differ where the rows do."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()[:16]

    def _pieces(self, through=iter):
        piece: list[tuple[Text, tables.Row]] = []
        n_bytes = 0
        for place, row in enumerate(through(self.source.rows())):
            text = Text(place, *tables.text_of(row, self.column))
            if self.context is not None and row.values.get(self.context) not in (None, ""):
                context, error = tables.text_of(row, self.context)
                text = text._replace(context=context, error=text.error or error)
            piece.append((text, row))
            n_bytes += text.size
            if len(piece) == 64 or n_bytes > 2**16:
                yield piece
                piece, n_bytes = [], 0
        if piece:
            yield piece


def digest_of(piece):
    rows = "".join(repr(row) for _, row in piece)
    return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).digest()[:16]


def survey(rows, options, added, dropped):
    """Read the whole input once, so that what is wrong with it is known before the work begins.

    Returns:
        dict {column of the output: pyarrow type}.
    """
    known, where = rows.source.types(), "stdin" if options.texts in (None, "-") else options.texts
    parquet = options.out.lower().endswith(".parquet")
    columns = tables.Columns(typed=parquet and rows.source.kind == ".jsonl")
    for text in rows.first(columns):
        if options.strict:
            refuse(text.place, text.error)
    types = columns.types() | known
    for option, name in (("column", options.column), ("context", options.context)):
        if name is not None and name not in types and (types or rows.n):
            raise CommandLineError(f"there is no column {name!r} in {where}: the columns are "
                                   f"{', '.join(types) or 'none'}; give one with --{option}")
    types = {name: kind for name, kind in types.items() if name not in dropped}
    clash = [name for name in added if options.prefix + name in types]
    if clash:
        raise CommandLineError(f"{where} has a column {options.prefix + clash[0]!r} already, which this would "
                               "add: with --prefix new_ the names of all added columns begin with new_")
    return types | {options.prefix + name: tables.arrow_type(kind) for name, kind in added.items()}


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


def unfinished(rows, journal) -> Iterator[Text]:
    """The texts that are not in the journal."""
    end = 0
    for text, _ in rows:
        end = max(end, journal.end_of(text.place))
        if text.place >= end:
            yield text


def sizes(n_texts: int, n_workers: int, command: Command) -> Iterator[tuple[int, int]]:
    """How many texts and bytes each block has at most.

    Each worker gets the same number of texts. In a long run its first block is a quarter as large, and the second half
    as large, so that something is finished soon.
    """
    n_rounds = max(1, math.ceil(n_texts / (n_workers * command.n_texts)))
    size = max(1, math.ceil(n_texts / (n_workers * n_rounds)))
    for part in (4, 2) if n_rounds >= N_ROUNDS else ():
        yield from itertools.repeat((math.ceil(size / part), command.n_bytes // part), n_workers)
    yield from itertools.repeat((size, command.n_bytes))


def blocks_of(texts: Iterable[Text], sizes: Iterator[tuple[int, int]]) -> Iterator[tuple[int, list[Text]]]:
    """Texts in blocks of neighbours: (place of the first, texts)."""
    block: list[Text] = []
    n_bytes, (max_texts, max_bytes) = 0, next(sizes)
    for text in texts:
        if block and (len(block) == max_texts or n_bytes + text.size > max_bytes or text.place > block[-1].place + 1):
            yield block[0].place, block
            block, n_bytes, (max_texts, max_bytes) = [], 0, next(sizes)
        block.append(text)
        n_bytes += text.size
    if block:
        yield block[0].place, block


@contextlib.contextmanager
def kept(journal):
    """When something ends the run: say what is kept, or keep no file."""
    try:
        yield
    except BaseException:
        if journal.n_texts:
            notice(f"\n{counted(journal.n_texts, 'text')} finished and kept in {journal.path}: run the same command "
                   "again to continue")
        else:
            with contextlib.suppress(OSError):  # Windows does not remove a file that is open
                os.unlink(journal.path)
        raise


BAR = "|{bar}| {n_fmt}/{total_fmt} texts [{elapsed}<{remaining}{postfix}]"  # fits into 60 columns


def work_through(client, function, blocks, journal, n_texts, strict):
    """Keep the results as they come, and show how far it is, texts within the blocks under way, too."""
    from tqdm import tqdm

    from many_texts import cluster

    interval = 0.5 if sys.stderr.isatty() else 30
    with tqdm(total=n_texts, initial=journal.n_texts, smoothing=0, mininterval=interval, dynamic_ncols=True,
              bar_format=BAR) as bar:
        n_before, start = journal.n_tokens, time.perf_counter()
        results_of = cluster.finished(client, function, blocks, lambda n: bar.update(journal.n_texts + n - bar.n))
        for place, texts, results in results_of:
            journal[place] = results
            speed = (journal.n_tokens - n_before) / (time.perf_counter() - start)
            bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
            bar.update(max(0, journal.n_texts - bar.n))
            for text, result in zip(texts, results) if strict else []:
                for row in rows_of(result):
                    refuse(text.place, row.get("error"))


def refuse(place, error):
    if error is not None:
        raise ValueError(f"text {place + 1:,}: {error} (--strict)")


def joined(rows, journal, added, prefix, dropped=()):
    """The rows of the output: those of the input, each with its new columns and without those that are dropped."""
    results: Iterator[Any] = iter(())
    for text, row in rows:
        if text.place in journal.blocks:
            results = iter(journal[text.place])
        old = {name: value for name, value in row.values.items() if name not in dropped}
        for new in rows_of(next(results)):
            yield old | {prefix + name: new.get(name) for name in added}
