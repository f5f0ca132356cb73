"""Which part added to the answer's logit?"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cli.tables import Table, print_tables
from cli.terminal import argument_errors
from gpt2 import gpt2
from inside.command import check_out, given, read_text, save_picture
from inside.interventions import compose, record
from inside.model import check_model, model_name
from inside.pictures import bars
from inside.result import titled, with_title
from inside.tokens import one_token, pieces_of, quote, tokens
from utils import load_encoder_hparams_and_params


@titled
class Attribution(NamedTuple):
    """How much each part of the residual stream adds to the logit: names (list of str), values float64 [n_part]."""

    names: list[str]
    values: np.ndarray


def attribution(text: str | Sequence[int], model, answer: str | int, wrong: str | int | None = None,
                heads: bool = False, hook=None) -> Attribution:
    """How much each part of the residual stream adds directly to an answer's logit, at the end of a text.

    The residual stream is a sum: the embeddings, and what attention and the feed-forward network of each layer add to
    it. The logit is linear in that sum once the last norm's scale is frozen as it was computed, so each part has its
    share: direct logit attribution (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021,
    https://transformer-circuits.pub/2021/framework). The shares add up to the logit, or to the difference of the two.
    They are those of TransformerLens's decompose_resid, stack_head_results and logit_attrs, with the last norm's gain
    applied to each part and its bias a part of its own, ln_f.b.

    Args:
        text, model: as in `tokens`.
        answer: the token whose logit is explained: its text, " C", or its id, 417 or "#417".
        wrong: another token: what is explained is then the answer's logit minus this one's.
        heads: True splits attention into its heads and its bias, for instance blocks.1.attn.z.5 and
            blocks.1.attn.c_proj.b.
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
    encoder, hparams, params = check_model(model)
    if not isinstance(heads, (bool, np.bool_)):
        raise TypeError(f"heads must be True or False, not {heads!r}")
    ids = tokens(text, model).ids
    answers = [one_token(answer, model, "answer")] + ([] if wrong is None else [one_token(wrong, model, "wrong")])
    seen = record(["embed", "pos_embed", "blocks.*.attn.z", "blocks.*.attn_out", "blocks.*.mlp_out", "*.resid_post"])
    gpt2(ids, **params, n_head=hparams["n_head"], n_logits=1, hook=compose(hook, seen))

    parts = {name: seen[name][-1] for name in ("embed", "pos_embed")}  # each [n_embd]
    for i, block in enumerate(params["blocks"]):
        if heads:
            c_proj = block["attn"]["c_proj"]
            z = seen[f"blocks.{i}.attn.z"][-1]  # [n_head, d_head]
            w = c_proj["w"].reshape(*z.shape, -1)  # [n_embd, n_embd] -> [n_head, d_head, n_embd]
            for head, result in enumerate(np.einsum("hd,hde->he", z, w)):
                parts[f"blocks.{i}.attn.z.{head}"] = result
            parts[f"blocks.{i}.attn.c_proj.b"] = c_proj["b"]
        else:
            parts[f"blocks.{i}.attn_out"] = seen[f"blocks.{i}.attn_out"][-1]
        parts[f"blocks.{i}.mlp_out"] = seen[f"blocks.{i}.mlp_out"][-1]

    wte = params["wte"].astype(np.float64)[answers]
    direction = wte[0] if wrong is None else wte[0] - wte[1]  # [n_embd]
    stack = np.array(list(parts.values()), dtype=np.float64)  # [n_part, n_embd]
    stream = seen[f"blocks.{len(params['blocks']) - 1}.resid_post"][-1].astype(np.float64)
    scale = np.sqrt(stream.var() + 1e-5)  # layer_norm's, frozen
    centred = stack - stack.mean(axis=-1, keepdims=True)
    values = centred / scale @ (params["ln_f"]["g"] * direction)  # [n_part, n_embd] @ [n_embd] -> [n_part]
    named = " minus that of ".join(pieces_of(answers, encoder))
    return with_title(Attribution([*parts, "ln_f.b"], np.append(values, params["ln_f"]["b"] @ direction)),
                      f"{model_name(model)}: what adds to the logit of {named} after {quote(ids, encoder)}")


def table_attribution(result) -> Table:
    """`Attribution` as a table."""
    return Table("<>", ["part", "adds"], [[name, f"{value:+.3f}"] for name, value in zip(*result, strict=True)]
                 + [["sum", f"{result.values.sum():+.3f}"]])


def plot_attribution(result, ax=None, most: int = 40):
    """Draw `Attribution` as bars in the order of the model; of more than `most` parts, the largest ones."""
    names, values = list(result.names), result.values
    if len(names) > most:
        kept = np.sort(np.argsort(-np.abs(values), kind="stable")[: most - 1])
        names = [*(names[i] for i in kept), f"the {len(names) - len(kept)} others"]
        values = np.append(values[kept], values.sum() - values[kept].sum())
    return bars(ax, names, values, [f"{value:+.2f}" for value in values], "adds to the logit", "part", result.title)


def show_attribution(text: str | None = None, answer: str | None = None, wrong: str | None = None,
                     heads: bool = False, *, out: str | None = None, model_size: str | None = None,
                     models_dir: str | None = None) -> None:
    """How much each part of the model adds directly to an answer's logit, at the end of a text.

    Args:
        answer: the token whose logit is explained: its text, as " C" with its space, or its id, as "#417".
        wrong: another token: what is explained is then the answer's logit minus this one's.
        heads: split attention into its heads and its bias.
    """
    check_out(out)
    answer = given(answer, "answer")
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = read_text(text, model)
    with argument_errors():
        result = attribution(text, model, answer, wrong, heads)
    print_tables(table_attribution(result))
    save_picture(plot_attribution, result, out)
