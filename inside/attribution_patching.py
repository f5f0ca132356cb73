"""Where does the model keep the difference between two texts? Estimated for all values at once."""
from collections.abc import Sequence

import numpy as np

from generation.hooks import Hook
from inside.command import print_over_texts
from inside.gradients import forward_and_backward
from inside.interventions import block_name, compose, record
from inside.patching import HEADS, Patching, check_place, pair_of, plot_patching
from inside.texts import over_texts
from utils import Model


@over_texts("clean", "corrupted", "answer", "wrong", "position")
def attribution_patching(clean: str | Sequence[int], corrupted: str | Sequence[int], model: Model, answer: str | int,
                         wrong: str | int | None = None, at: str = "resid_pre", by_position: bool = False,
                         position: int = -1, hook: Hook | None = None) -> Patching:
    """What `patching` finds, estimated to first order: how much a value differs between the texts, times the gradient.

    Three passes are enough for all values: over the clean text, over the corrupted one, and back (Nanda, "Attribution
    Patching", 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching; Syed et al., 2023,
    https://arxiv.org/abs/2310.10348). The logit is taken to be linear in the value between the two runs, which holds
    for small changes: well for single heads, badly for the early residual stream.

    Args:
        clean, corrupted, model, answer, wrong, at, by_position, position, hook: as in `patching`.

    Returns:
        Patching, an estimate of what `patching` measures.

    Raises:
        TypeError, ValueError: as `patching`.

    >>> clean, corrupted = "First Murderer. Second Murderer. First", "First Senator. Second Senator. First"
    >>> grid = attribution_patching(clean, corrupted, model, answer=" M", wrong=" S", at="z").grid
    >>> divmod(int(grid.argmax()), 6)  # layer and head
    (1, 5)
    """
    check_place(at, by_position)
    pair = pair_of(clean, corrupted, model, answer, wrong, position)
    names = [block_name(layer, at) for layer in range(pair.model.n_layer)]
    seen = record(names)
    clean_logits = pair.model.logits(pair.clean.ids, n_logits=1, hook=compose(hook, seen))
    asked = compose(hook, record(names)) if at == "result" else hook
    values, gradients = forward_and_backward(pair.corrupted.ids, pair.model, pair.answer, asked)
    gains = []
    for name in names:
        with np.errstate(invalid="ignore"):  # what the mask hides is -inf in both
            gain = np.nan_to_num(seen[name] - values[name]).astype(np.float64) * gradients[name]
        if at in HEADS and at not in ("pattern", "attn_scores"):
            gain = gain.swapaxes(0, 1)  # [n_seq, n_head, d_head] -> [n_head, n_seq, d_head]
        n_kept = 2 if by_position else 1  # axes: heads and positions, or one of them
        gains.append(gain.sum(axis=tuple(range(n_kept, gain.ndim))))
    corrupted_logits = values["logits"]
    logits = pair.answer.logit(corrupted_logits) + np.array(gains)
    return pair.result(logits, clean_logits, corrupted_logits, at, f"{at} patched in (estimated)")


def show_attribution_patching(clean: str | None = None, corrupted: str | None = None, answer: str | None = None,
                              wrong: str | None = None, at: str = "resid_pre", *, by_position: bool = False,
                              position: int = -1, file: str | None = None, out: str | None = None,
                              model_size: str | None = None, models_dir: str | None = None) -> None:
    """What patching finds, estimated from the gradient: three passes are enough for all values.

    Args:
        at: resid_pre, attn_out, mlp_out: one position of one layer; z, q, k, v, pattern: one head at all positions.
        by_position: estimate for single positions of heads.
    """
    texts = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong": wrong}
    print_over_texts(attribution_patching, plot_patching, texts, position, file, out, model_size, models_dir, at=at,
                     by_position=by_position)
