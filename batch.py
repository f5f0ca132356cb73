"""Many texts at once, from a file to a file: continue them or score them, on all cores or on a cluster.

    python batch.py generate prompts.txt --out continuations.jsonl --n_tokens_to_generate 40
    python batch.py score reviews.csv --column text --out scores.parquet

In: .txt (a text a line), .jsonl, .csv, .parquet, also gzipped; a pattern in quotes, "part-*.csv"; a URL that fsspec
opens; or - for what is piped into stdin. Out: .jsonl, .csv (also .jsonl.gz, .csv.gz) or .parquet, the same rows in the
same order, with columns added. A row that fails has the reason in its column `error`. A run that is interrupted
continues when the same command is run again.

The work is done by Dask's worker processes, one a core, or by those of a running scheduler (docs/many-texts.md).
Starting them takes some seconds: for a handful of texts `gpt2.py` and `lens.py` are done before. Install what it
needs with: pip install -r many_texts/requirements.txt
"""
if __name__ == "__main__":
    from cli.startup import guard_imports

    guard_imports()  # Ctrl-C or a missing package in the imports below: one line, not a traceback

import os
import signal
from collections.abc import Callable

from cli.continuations import check_options as check_sampling
from cli.terminal import argument_errors, run_command_line
from cli.text_in import unescape
from generation.checks import check_whole
from many_texts.run import Options, run
from many_texts.surprisal import check_options


def generate(texts: str | None = None, *, out: str, n_tokens_to_generate: int = 40, temperature: float = 0,
             top_k: int | None = None, top_p: float | None = None, seed: int | None = None, n_samples: int = 1,
             stop: str | None = None, model_size: str = "124M", models_dir: str | None = None, column: str = "text",
             input_format: str | None = None, prefix: str = "", scheduler: str | None = None,
             n_workers: int | None = None, strict: bool = False, overwrite: bool = False) -> None:
    """Continue each text of a file.

    Adds the columns continuation, n_tokens (as many as were generated) and error. Fewer than about 50 texts are
    faster without a cluster, with many_texts.batches.generate_batch.

    Args:
        out: the .jsonl, .csv or .parquet file to write, also .jsonl.gz or .csv.gz.
        seed: a whole number that gives the same texts each time, however many workers there are; needs a temperature.
        n_samples: how many continuations of each text, a row for each, numbered from 1 in the column sample; with
            --seed S they use seeds S, S + 1, ...; needs a temperature.
    """
    check_sampling(temperature, top_k, top_p, seed, n_tokens_to_generate, n_samples, stop)
    options = Options(texts, out, column, input_format, model_size, models_dir, scheduler, n_workers, prefix, strict,
                      overwrite)
    run("generate", options, n_tokens_to_generate=n_tokens_to_generate, temperature=temperature, top_k=top_k,
        top_p=top_p, seed=seed, n_samples=n_samples, stop=stop and unescape(stop))


def score(texts: str | None = None, *, out: str, tokens: bool = False, words: bool = False, per: str = "text",
          correction: str = "whitespace", split_punctuation: bool = False, entropy: bool = False,
          context: str | None = None, bos: bool = True, base: str | None = None, stride: int | None = None,
          model_size: str = "124M", models_dir: str | None = None, column: str = "text",
          input_format: str | None = None, prefix: str = "", scheduler: str | None = None,
          n_workers: int | None = None, strict: bool = False, overwrite: bool = False) -> None:
    """Score each text of a file: how likely is it?

    Adds the columns n_tokens, log_prob (the natural logarithm of the text's probability), bits_per_byte, perplexity and
    error. Fewer than about 50 texts are faster without a cluster, with lens.score.

    Args:
        out: the .jsonl, .csv or .parquet file to write, also .jsonl.gz or .csv.gz.
        tokens: add the columns tokens and token_surprisals, lists of each token and its surprisal in bits.
        words: add the columns words and word_surprisals, lists of each word, as white space delimits them, and its
            surprisal in bits; the white space before a word belongs to it.
        per: text, a row for each text; or word, a row for each word, without the text but with all other columns, and
            with text (which text, from 0), index (which word, from 0), word, surprisal, n_tokens and characters.
        entropy: add the entropy of what each token, or the first of each word, was chosen from.
        context: a column with a text that is read before each text and not scored.
        bos: put <|endoftext|> before each text; with --bos False the first token is not scored.
        base: 2 or e, that of all logarithms; without it log_prob is a natural one, all else is in bits.
        stride: a text longer than the context is read in windows this many tokens apart; by default half a context.
    """
    with argument_errors():
        check_options(correction, base, per)
        if stride is not None:
            check_whole("stride", stride, 1)
        if per == "word" and tokens:
            raise ValueError("a row for each word (--per word) has no place for the lists of tokens (--tokens)")
        if entropy and not (tokens or words or per == "word"):
            raise ValueError("the entropy is that of tokens or words: add --tokens, --words or --per word")
    options = Options(texts, out, column, input_format, model_size, models_dir, scheduler, n_workers, prefix, strict,
                      overwrite, context)
    run("score", options, stride=stride, tokens=tokens, words=words, per=per, correction=correction,
        split_punctuation=split_punctuation, entropy=entropy, bos=bos, base=base)


COMMANDS: dict[str, Callable] = {"generate": generate, "score": score}

if __name__ == "__main__":
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: no copy of the texts stays in /tmp
    try:
        run_command_line(COMMANDS, short={"n": "n_tokens_to_generate", "t": "temperature", "m": "model_size",
                                          "o": "out"})
    except SystemExit as end:  # everything is written and closed
        os._exit(int(end.code or 0))  # Python would wait for workers that are still starting, and tidy up for 0.3 s
