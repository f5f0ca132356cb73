"""Can I see it all on one page, and touch it?"""
import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cli.terminal import argument_errors, notice
from generation.checks import check_whole
from gpt2 import gpt2
from inside.command import check_out, read_text
from inside.interventions import compose, record, sweep, zero
from inside.logit_lens import logit_lens
from inside.model import check_model, model_name
from inside.score import score
from inside.tokens import pieces_of, quote, tokens
from utils import load_encoder_hparams_and_params

TEMPLATE = Path(__file__).with_name("page.html")
TEMPERATURES = [round(0.1 + 0.05 * i, 2) for i in range(39)]  # the stops of the slider, 0.1 to 2
MOST_WEIGHTS = 2_000_000  # attention weights in a page: it stays below about 6 MB, which a phone still opens


@dataclass(frozen=True)
class Page:
    """A page about a text: its title, and its HTML (str). A notebook shows it inline."""

    title: str
    html: str = field(repr=False)

    def save(self, path: str | Path):
        """Write the page to a file, which any browser opens from disk."""
        Path(path).write_text(self.html, encoding="utf-8", newline="\n")

    def _repr_html_(self):
        # A frame keeps the page's style and the notebook's apart; the sandbox keeps its script away from the notebook.
        return (f'<iframe title="{html.escape(self.title)}" sandbox="allow-scripts" srcdoc="{html.escape(self.html)}" '
                'style="width: 100%; height: 800px; border: 1px solid #8888"></iframe>')


def page(text: str | Sequence[int], model, k: int = 10, hook=None) -> Page:
    """A page to explore a text: attention of every head, surprisal, logit lens, next token at any temperature and
    without any head.

    It is one file that needs no network. All its numbers are those of `attention`, `score`, `logit_lens` and
    `next_tokens`, rounded: attention to 0.1%, the logit lens to 0.01%, logits to 6 decimals. Each head is taken out
    once (`zero`), so the page takes about as long as n_layer * n_head / 2 passes over the text.

    Args:
        text, model: as in `tokens`.
        k: how many tokens to list as the likeliest, 1 to 50.
        hook: as in `gpt2.gpt2`, in all passes.

    Returns:
        Page.

    Raises:
        TypeError, ValueError: an argument is not as described, the text is too long for a page, or the model's numbers
            are not finite.

    >>> page("The king and the queen", model)
    Page(title='shakespeare: “The king and the queen”')
    """
    encoder, hparams, params = check_model(model)
    check_whole("k", k, 1, min(50, hparams["n_vocab"]), "more would make the page too large")
    array, pieces = tokens(text, model)
    ids = array.tolist()
    _check_length(len(ids), hparams)
    seen = record(["blocks.*.attn.pattern", "logits"])
    gpt2(ids, **params, n_head=hparams["n_head"], n_logits=1, hook=compose(hook, seen))
    lens = logit_lens(ids, model, k, hook)
    next_token, shown = _next_token(seen["logits"][-1], _without_each_head(ids, model, hook), k)
    shown = sorted(shown | {*ids, *lens.ids.ravel().tolist()})
    title = f"{model_name(model)}: {quote(ids, encoder)}"
    return Page(title, _fill(title, {
        "model": model_name(model),
        "text": quote(ids, encoder),
        "n_layer": hparams["n_layer"],
        "n_head": hparams["n_head"],
        "n_vocab": hparams["n_vocab"],
        "k": k,
        "tokens": pieces,
        "ids": ids,
        "surprisal": _rounded(-score(ids, model, hook=hook).log_probs / math.log(2), 3),
        "attention": [_lower_triangles(seen[f"blocks.{i}.attn.pattern"]) for i in range(hparams["n_layer"])],
        "lens": {"ids": lens.ids.tolist(), "probabilities": _rounded(lens.probabilities, 4)},
        "temperatures": TEMPERATURES,
        "next": next_token,
        "pieces": dict(zip(shown, pieces_of(shown, encoder), strict=True)),
    }))


def _check_length(n, hparams):
    """ValueError if the heads have more than MOST_WEIGHTS weights, n * (n + 1) / 2 each."""
    n_heads = hparams["n_layer"] * hparams["n_head"]
    most = (math.isqrt(8 * MOST_WEIGHTS // n_heads + 1) - 1) // 2
    if n > most and most < hparams["n_ctx"]:  # else the context is the limit, which gpt2 checks
        raise ValueError(f"the text has {n:,} tokens, but a page holds at most {most} tokens for a model of {n_heads} "
                         "heads, or it would be too large for a browser: shorten the text")


def _without_each_head(ids, model, hook):
    """The logits of the next token, [n_layer * n_head, n_vocab], with one head taken out after the other."""
    from tqdm import tqdm

    hparams = model[1]
    heads = [(layer, head) for layer in range(hparams["n_layer"]) for head in range(hparams["n_head"])]
    interventions = [zero(layer, head) for layer, head in heads]
    progress = tqdm(interventions, "taking out each head", disable=None, leave=False)  # None: only in a terminal
    return sweep(ids, model, progress, lambda logits: logits[-1], hook=hook)


def _next_token(whole, without, k):
    """What the page needs to know about the next token, and the set of ids it shows for it.

    Each run (the whole model, then the model without each head) has the logits of its own k likeliest tokens and of
    the whole model's, which the page compares. A probability at temperature T is exp(logit / T - log_sum), where
    log_sum is the logarithm of the sum of exp(logit / T) over the whole vocabulary. That sum is in the file for each
    stop of the slider: so the page is exact without the other logits.
    """
    top = [np.argsort(-logits, kind="stable")[:k].tolist() for logits in (whole, *without)]
    everywhere = sorted({i for ids in top for i in ids})  # of the whole model, all that any run shows
    shown = [everywhere, *(sorted({*ids, *top[0]}) for ids in top[1:])]
    runs = [_run(logits, ids) for logits, ids in zip((whole, *without), shown, strict=True)]
    return {"whole": runs[0], "without": runs[1:]}, set(everywhere)


def _run(logits, ids):
    logits = logits.astype(np.float64) - logits.max()
    log_sums = [np.log(np.exp(logits / temperature).sum()) for temperature in TEMPERATURES]
    return {"logits": dict(zip(ids, _rounded(logits[ids], 6), strict=True)), "log_sums": _rounded(log_sums, 6)}


def _lower_triangles(pattern):
    """A layer's pattern [n_head, n_query, n_key] as a list for each head: row after row, each up to the token itself,
    in thousandths. What a token cannot see is left out."""
    rows, columns = np.tril_indices(pattern.shape[-1])
    return np.rint(1000 * pattern[:, rows, columns]).astype(int).tolist()


def _rounded(values, digits):
    return np.round(np.asarray(values, dtype=np.float64), digits).tolist()


def _fill(title, data):
    """The template with the title and the data in it."""
    template = TEMPLATE.read_text(encoding="utf-8")
    # Within a script element "<" could end it; within a JSON string \u003c means the same and cannot.
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    as_json = lambda value: encode(value).replace("<", "\\u003c")
    try:
        lines = [f"{as_json(name)}: {as_json(value)}" for name, value in data.items()]
    except ValueError:
        raise ValueError("some of the model's numbers are infinite or nan, which a page cannot show: check the hook "
                         "and the weights") from None
    values = {"title": html.escape(title), "policy": _policy(template), "data": "{\n" + ",\n".join(lines) + "\n}"}
    return re.sub(r"\{\{(\w+)\}\}", lambda name: values[name[1]], template)  # in one pass: values are not filled again


def _policy(template):
    """The page's Content-Security-Policy: no connection to anywhere, and no script or style but the template's own."""
    hashes = {}
    for element in ("script", "style"):
        [code] = re.findall(rf"<{element}>(.*?)</{element}>", template, re.S)
        hashes[element] = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
            "base-uri 'none'; form-action 'none'")


def show_page(text: str | None = None, k: int = 10, *, out: str = "page.html", model_size: str | None = None,
              models_dir: str | None = None) -> None:
    """Write a page to explore a text: one file, which any browser opens from disk.

    Args:
        k: how many tokens to list as the likeliest, 1 to 50.
        out: the file to write, .html.
    """
    check_out(out, "page")
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = read_text(text, model)
    with argument_errors():
        result = page(text, model, k)
    result.save(out)
    notice(f"the page is in {out} ({Path(out).stat().st_size / 1e6:.2f} MB): open it in a browser")
