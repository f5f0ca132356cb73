"""Which part added to the answer's logit?"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cli.tables import Table
from generation.hooks import Hook
from inside.answers import answer_of, tokens_up_to
from inside.command import print_over_texts
from inside.interventions import compose, record
from inside.model import check_model, model_name
from inside.pictures import bars
from inside.result import table_of, titled, with_error, with_title
from inside.texts import over_texts
from inside.tokens import quote
from utils import Model


@titled
class Attribution(NamedTuple):
    """How much each part of the residual stream adds to the logit: names (list of str), values float64 [n_part]."""

    names: list[str]
    values: np.ndarray


@over_texts("text", "answer", "wrong", "position")
def attribution(text: str | Sequence[int], model: Model, answer: str | int, wrong: str | int | None = None,
                heads: bool = False, position: int = -1, hook: Hook | None = None) -> Attribution:
    """How much each part of the residual stream adds directly to an answer's logit, at the end of a text.

    The residual stream is a sum: the embeddings, and what attention and the feed-forward network of each layer add to
    it. The logit is linear in that sum once the last norm's scale is frozen as it was computed, so each part has its
    share: direct logit attribution (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021,
    https://transformer-circuits.pub/2021/framework). The shares add up to the logit, or to the difference of the two;
    where a hook changes the stream itself, what is missing is a part of its own, hook.
    They are those of TransformerLens's decompose_resid, stack_head_results and logit_attrs, with the last norm's gain
    applied to each part and its bias a part of its own, ln_f.b.

    Args:
        text, model: as in `tokens`; with a list of texts, what comes back is the mean over them.
        answer: the token whose logit is explained: its text, " C", or its id, 417 or "#417"; or a list of them, one for
            each text.
        wrong: another token: what is explained is then the answer's logit minus this one's.
        heads: True splits attention into its heads and its bias, for instance blocks.1.attn.z.5 and
            blocks.1.attn.c_proj.b.
        position: the token after which the answer comes, from 0; -1 is the last one.
        hook: as in `gpt2.gpt2`.

    Returns:
        Attribution, in the order of the model.

    Raises:
        TypeError, ValueError: an argument is not as described, or the text is longer than the context.

    >>> text = "First Citizen. Second Citizen. First"
    >>> names, values = attribution(text, model, answer=" C", wrong=" S", heads=True)
    >>> names[values.argmax()]
    'blocks.1.attn.z.5'
    """
    model = check_model(model)
    if not isinstance(heads, (bool, np.bool_)):
        raise TypeError(f"heads must be True or False, not {heads!r}")
    ids, watched = tokens_up_to(text, model, position).ids, answer_of(model, answer, wrong)
    part = "result" if heads else "attn_out"
    seen = record(["embed", "pos_embed", f"blocks.*.{'attn.' if heads else ''}{part}", "*.mlp_out", "ln_final.scale",
                   "logits"])
    model.logits(ids, n_logits=1, hook=compose(hook, seen))

    parts = {name: seen[name][-1] for name in ("embed", "pos_embed")}  # each [n_embd]
    for i, block in enumerate(model.params["blocks"]):
        if heads:
            for head, result in enumerate(seen[f"blocks.{i}.attn.result"][-1]):
                parts[f"blocks.{i}.attn.z.{head}"] = result
            parts[f"blocks.{i}.attn.c_proj.b"] = block["attn"]["c_proj"]["b"]
        else:
            parts[f"blocks.{i}.attn_out"] = seen[f"blocks.{i}.attn_out"][-1]
        parts[f"blocks.{i}.mlp_out"] = seen[f"blocks.{i}.mlp_out"][-1]

    wte, ln_f = model.params["wte"], model.params["ln_f"]
    direction = (watched.gradient(len(wte)) @ wte)[0].astype(np.float64)  # [1, n_vocab] @ [n_vocab, n_embd] -> [n_embd]
    stack = np.array(list(parts.values()), dtype=np.float64)  # [n_part, n_embd]
    centred = stack - stack.mean(axis=-1, keepdims=True)
    values = centred / seen["ln_final.scale"][-1] @ (ln_f["g"] * direction)  # [n_part, n_embd] @ [n_embd] -> [n_part]
    values = np.append(values, ln_f["b"] @ direction)
    names = [*parts, "ln_f.b"]
    if hook is not None:
        names, values = [*names, "hook"], np.append(values, watched.logit(seen["logits"]) - values.sum())
    return with_title(Attribution(names, values),
                      f"{model_name(model)}: what adds to the logit of {watched.named} after "
                      f"{quote(ids, model.encoder)}", f"logit of {watched.named}")


@table_of(Attribution)
def table_attribution(result) -> Table:
    """`Attribution` as a table."""
    rows = [[name, with_error(result, i, 3)] for i, name in enumerate(result.names)]
    return Table("<>", ["part", f"adds to the {result.metric}"], [*rows, ["sum", f"{result.values.sum():+.3f}"]])


def plot_attribution(result: Any, ax: Any = None, most: int = 40) -> Any:
    """Draw `Attribution` as bars in the order of the model; of more than `most` parts, the largest ones."""
    names, values, errors = list(result.names), result.values, result.standard_error
    if len(names) > most:
        kept = np.sort(np.argsort(-np.abs(values), kind="stable")[: most - 1])
        names = [*(names[i] for i in kept), f"the {len(names) - len(kept)} others"]
        values = np.append(values[kept], values.sum() - values[kept].sum())
        errors = None if errors is None else np.append(errors[kept], np.nan)
    return bars(ax, names, values, [f"{value:+.2f}" for value in values],
                "adds to the logit" + ("" if errors is None else " (± standard error)"), "part", result.title, errors)


def show_attribution(text: str | None = None, answer: str | None = None, wrong: str | None = None,
                     heads: bool = False, *, position: int = -1, file: str | None = None, out: str | None = None,
                     model_size: str | None = None, models_dir: str | None = None) -> None:
    """How much each part of the model adds directly to an answer's logit, at the end of a text.

    Args:
        answer: the token whose logit is explained: its text, with its space if it has one, or its id, as "#417".
        wrong: another token: what is explained is then the answer's logit minus this one's.
        heads: split attention into its heads and its bias.
        file: a CSV file with the columns text and answer (and wrong, position): the mean over its rows.
    """
    texts = {"text": text, "answer": answer, "wrong": wrong}
    print_over_texts(attribution, plot_attribution, texts, position, file, out, model_size, models_dir, heads=heads)
