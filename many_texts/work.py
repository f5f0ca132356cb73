"""What a worker does: texts in, the new columns of their rows out."""
import functools
import hashlib
import itertools
import math
import signal
import socket
from typing import Any, NamedTuple

import regex

from generation.checks import check_generation
from generation.sampling import Sampling
from many_texts.batches import generate_batch, log_probs
from many_texts.cluster import reporter
from many_texts.journal import Result
from model_files import hugging_face
from model_files import tf_checkpoint as checkpoint
from utils import find_model, load_encoder_hparams_and_params, missing_files


class Text(NamedTuple):
    """A row's text, or why it has none."""

    place: int  # in the whole input, from 0
    text: str | None
    error: str | None = None


def dask_setup(worker) -> None:
    """Dask calls this in each local worker process as it starts. Ctrl-C reaches all processes of a terminal; it is for
    the program alone, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def fingerprint(model_size: str, models_dir: str | None) -> str:
    """16 hex digits that differ where the model does. FileNotFoundError where this machine does not have it.

    Workers do not download: many would do so at once. The index of a checkpoint holds a checksum of every tensor;
    safetensors files have none and are read as a whole.
    """
    folder = find_model(model_size, models_dir).absolute()
    missing = missing_files(folder)
    if missing:
        raise FileNotFoundError(f"{socket.gethostname()} does not have the model {model_size!r}: {missing[0]} is "
                                "missing. Copy the model there, or say with --models_dir where the workers have it")
    if hugging_face.is_folder_of(folder):
        files = hugging_face.files(folder)
    else:
        index = checkpoint.index_file(checkpoint.latest_checkpoint(folder))
        files = [index, *(folder / name for name in ("hparams.json", "encoder.json", "vocab.bpe"))]
    return hashlib.sha256(b"".join(sha256(path, path.stat().st_mtime_ns) for path in files)).hexdigest()[:16]


@functools.lru_cache
def sha256(path, mtime_ns):
    """The SHA-256 of a file of gigabytes, once as long as it stays as it is."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.digest()


@functools.lru_cache(maxsize=1)
def load(model_size, models_dir, model_fingerprint):
    if fingerprint(model_size, models_dir) != model_fingerprint:
        raise ValueError(f"the model {model_size!r} on {socket.gethostname()} is not the one that the other workers "
                         f"have: {find_model(model_size, models_dir).absolute()}")
    return load_encoder_hparams_and_params(model_size, models_dir)


def generate_block(texts: list[Text], model: tuple, *, n_tokens_to_generate: int, n_samples: int = 1,
                   stop: str | None = None, seed: int | None = None, **sampling) -> list[Result]:
    """The columns that `batch.py generate` adds to each row: continuation and n_tokens, or error.

    Several samples of a text are several rows, with their number in the column sample.
    """
    encoder, hparams, params = load(*model)
    ends, report, n_new = (stop or "").encode("utf-8"), reporter(), 0

    def encoded(text):
        if len(text) > hparams["n_ctx"] * encoder.max_token_bytes:  # the tokenizer would take minutes for 100 MB
            raise ValueError(f"{len(text):,} characters are more than can fit into the context of {hparams['n_ctx']} "
                             "tokens (n_ctx): shorten the prompt")
        ids = encoder.encode(text)
        check_generation(ids, params, n_tokens_to_generate, None, Sampling())
        return ids

    def is_done(ids):
        nonlocal n_new
        n_new += 1
        report(n_new / n_tokens_to_generate / n_samples)
        return bool(ends) and ends in b"".join(map(encoder.token_bytes, ids[-len(ends) :]))

    rows, good = prepared(texts, encoded)
    samples: list[list[dict[str, Any]]] = [[] for _ in good]
    for sample in range(n_samples):
        new_ids = generate_batch([ids for _, ids in good], params, hparams["n_head"], n_tokens_to_generate,
                                 stop_id=encoder.eot_token, places=[texts[i].place for i, _ in good], is_done=is_done,
                                 seed=None if seed is None else seed + sample, **sampling)
        for made, ids in zip(samples, new_ids):
            continuation = encoder.decode(ids)
            if stop:
                continuation = continuation.partition(stop)[0]
            made.append({"continuation": continuation, "n_tokens": len(ids)})
    for (i, _), made in zip(good, samples):
        rows[i] = made[0] if n_samples == 1 else [{"sample": j, **new} for j, new in enumerate(made, 1)]
    return rows


def score_block(texts: list[Text], model: tuple, *, stride: int | None, tokens: bool,
                words: bool) -> list[dict[str, Any]]:
    """The columns that `batch.py score` adds to each row: n_tokens, log_prob and so on, or error."""
    encoder, hparams, params = load(*model)
    rows, good = prepared(texts, encoder.encode)
    first_id, = encoder.new_text()
    for (i, ids), log_p in zip(good, log_probs([ids for _, ids in good], params, hparams["n_head"], first_id, stride)):
        pieces, bits = [encoder.token_bytes(j) for j in ids], (-log_p / math.log(2)).tolist()
        total = float(log_p.sum())
        rows[i] = {"n_tokens": len(ids), "log_prob": total,
                   "bits_per_byte": -total / math.log(2) / sum(map(len, pieces)),
                   "perplexity": math.exp(min(-total / len(ids), 700))}  # exp(710) is not a float any more
        if tokens:
            rows[i] |= {"tokens": [piece.decode("utf-8", errors="replace") for piece in pieces],
                        "token_surprisals": bits}
        if words:
            rows[i] |= dict(zip(("words", "word_surprisals"), word_surprisals(texts[i].text, pieces, bits)))
    return rows


def prepared(texts, encode):
    """(rows, good): {"error": ...} for each text that cannot be done, else None; [(index, ids)] of the others."""
    rows: list[Any] = [None] * len(texts)
    good = []
    for i, (_, text, error) in enumerate(texts):
        try:
            if error is not None:
                raise ValueError(error)
            good.append((i, encode(text)))
        except ValueError as reason:
            rows[i] = {"error": str(reason)}
    return rows, good


def word_surprisals(text: str, pieces: list[bytes], bits: list[float]) -> tuple[list[str], list[float]]:
    """The words of a text and the surprisal of each: the sum over its tokens.

    A word is what white space delimits. The space before a word belongs to it, as in GPT-2's tokens; white space at the
    end of the text belongs to no word. No token reaches from one word into the next.
    """
    words, ends = [], []
    at = n_bytes = 0
    for match in regex.finditer(r"\S+", text):
        n_bytes += len(text[at : match.end()].encode("utf-8"))
        at = match.end()
        words.append(match[0])
        ends.append(n_bytes)  # where the word ends, in bytes
    sums = [0.0] * len(words)
    word = 0
    for end, surprisal in zip(itertools.accumulate(map(len, pieces)), bits):
        while word < len(words) and end > ends[word]:
            word += 1
        if word < len(words):
            sums[word] += surprisal
    return words, sums
