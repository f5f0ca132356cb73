"""What a worker does: texts in, the new columns of their rows out."""
import functools
import hashlib
import math
import signal
import socket
from typing import Any, NamedTuple

from generation.checks import check_generation, check_whole
from generation.sampling import Sampling
from many_texts.batches import generate_batch
from many_texts.cluster import reporter
from many_texts.journal import Result
from many_texts.surprisal import check_scored, encode_after, score_texts, units
from model_files import folders
from model_files import tf_checkpoint as checkpoint
from model_files.download import digest
from utils import find_model, load_encoder_hparams_and_params, missing_files


class Text(NamedTuple):
    """A row's text, or why it has none."""

    place: int  # in the whole input, from 0
    text: str | None
    error: str | None = None
    context: str | None = None  # what is read before the text and not scored

    @property
    def size(self) -> int:
        """How many characters there are to read."""
        return len(self.text or "") + len(self.context or "")


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
    if folders.is_hugging_face(folder):
        from model_files import hugging_face

        files = hugging_face.files(folder)
    else:
        index = checkpoint.index_file(checkpoint.latest_checkpoint(folder))
        files = [index, *(folder / name for name in ("hparams.json", "encoder.json", "vocab.bpe"))]
    return hashlib.sha256(b"".join(sha256(path, path.stat().st_mtime_ns) for path in files)).hexdigest()[:16]


@functools.lru_cache
def sha256(path, mtime_ns):
    """The SHA-256 of a file of gigabytes, once as long as it stays as it is."""
    return digest(path)


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
    check_whole("n_tokens_to_generate", n_tokens_to_generate, 1, hparams["n_ctx"], "the context, n_ctx")
    ends, report, n_new = (stop or "").encode("utf-8"), reporter(), 0

    def encoded(row):
        text = row.text
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


def score_block(texts: list[Text], model: tuple, *, stride: int | None, tokens: bool, words: bool, per: str,
                correction: str, split_punctuation: bool, entropy: bool, bos: bool, base: str | None) -> list[Result]:
    """The columns that `batch.py score` adds to each row: n_tokens, log_prob and so on, or error.

    With per="word" each word of a text is a row.
    """
    encoder, hparams, params = load(*model)
    log_unit, bit = units(base)

    def encoded(text):
        ids, n_context = encode_after(text.context or "", text.text, encoder)
        check_scored(len(ids) - n_context, n_context, bos)
        return ids, n_context

    def in_base(bits):
        """Bits in the base; None, as JSON has it, where they are NaN: not scored, or not asked for."""
        return None if math.isnan(bits) else float(bits) * bit

    rows, good = prepared(texts, encoded)
    scores = score_texts([ids for _, (ids, _) in good], encoder, params, hparams["n_head"],
                         n_context=[n for _, (_, n) in good], stride=stride, bos=bos, words=words or per == "word",
                         correction=correction, split_punctuation=split_punctuation, entropy=entropy, report=reporter())
    for (i, _), one in zip(good, scores):
        if per == "word":
            rows[i] = [{"text": texts[i].place, "index": index, "word": word.word, "surprisal": in_base(word.surprisal),
                        "n_tokens": word.n_tokens, "characters": len(word.word), "entropy": in_base(word.entropy)}
                       for index, word in enumerate(one.words)] or {"error": "the text has no words"}
            continue
        row: dict[str, Any] = {"n_tokens": len(one.ids), "log_prob": one.total / log_unit,
                               "bits_per_byte": one.bits_per_byte, "perplexity": one.perplexity}
        if tokens:
            row["tokens"] = [encoder.token_bytes(j).decode("utf-8", errors="replace") for j in one.ids]
            row["token_surprisals"] = [in_base(-log_p / math.log(2)) for log_p in one.log_probs]
            row["token_entropies"] = [*map(in_base, one.entropies)]
        if words:
            row["words"] = [word.word for word in one.words]
            row["word_surprisals"] = [in_base(word.surprisal) for word in one.words]
            row["word_entropies"] = [in_base(word.entropy) for word in one.words]
        rows[i] = row
    if per == "word":
        rows = [row if isinstance(row, list) else {"text": text.place, **row} for text, row in zip(texts, rows)]
    return rows


def prepared(texts, encode):
    """(rows, good): {"error": ...} for each text that cannot be done, else None; [(index, encode(text))] of the
    others."""
    rows: list[Any] = [None] * len(texts)
    good = []
    for i, text in enumerate(texts):
        try:
            if text.error is not None:
                raise ValueError(text.error)
            good.append((i, encode(text)))
        except ValueError as reason:
            rows[i] = {"error": str(reason)}
    return rows, good
