"""What does one head do through another?"""
import re
from collections.abc import Sequence

import numpy as np

from generation.checks import check_whole
from generation.hooks import Hook
from inside.command import print_over_texts
from inside.interventions import compose, patch, record, sweep
from inside.patching import Patching, pair_of, plot_patching
from inside.texts import over_texts
from utils import Model


@over_texts("clean", "corrupted", "answer", "wrong", "position")
def path_patching(clean: str | Sequence[int], corrupted: str | Sequence[int], model: Model, answer: str | int,
                  wrong: str | int | None = None, receiver: str = "logits", position: int = -1,
                  hook: Hook | None = None) -> Patching:
    """How much of a clean text's answer each head brings back on the path through one other head.

    `patching` lets a head act on everything after it. Here it acts on a single receiver (Wang et al.,
    "Interpretability in the Wild", 2022, https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al., "Localizing Model
    Behavior with Path Patching", 2023, https://arxiv.org/abs/2304.05969). For each sender, two runs on the corrupted
    text: one with the sender's output from the clean run and the outputs of all other heads frozen, in which the
    receiver's query, key or value is recorded; and one in which just that is put in. Feed-forward networks are not
    frozen: they belong to the path.

    Args:
        clean, corrupted, model, answer, wrong, position, hook: as in `patching`.
        receiver: the queries, keys or values of one head, "blocks.3.attn.q.2" for head 2 of layer 3; or "logits": what
            each head does directly, through no other head.

    Returns:
        Patching at z, a row for each sender's layer; heads from the receiver's layer on do not reach it: 0.

    Raises:
        TypeError, ValueError: as `patching`, or there is no such receiver.

    >>> clean, corrupted = "First Murderer. Second Murderer. First", "First Senator. Second Senator. First"
    >>> grid = path_patching(clean, corrupted, model, " M", " S", receiver="blocks.3.attn.q.2").grid
    >>> grid.shape
    (6, 6)
    """
    pair = pair_of(clean, corrupted, model, answer, wrong, position)
    model = pair.model
    end, name, head = _receiver(receiver, model)
    frozen, seen = record("blocks.*.attn.z" if head is None else ["blocks.*.attn.z", name]), record("blocks.*.attn.z")
    corrupted_logits = model.logits(pair.corrupted.ids, n_logits=1, hook=compose(hook, frozen))
    clean_logits = model.logits(pair.clean.ids, n_logits=1, hook=compose(hook, seen))
    pair.ends(clean_logits, corrupted_logits)  # refuses them before the long sweep
    z = [f"blocks.{layer}.attn.z" for layer in range(end)]
    freeze = [patch(other, frozen[other]) for other in z]
    senders = [compose(patch(z[layer], seen[z[layer]], heads=i), *freeze[layer + 1 :])
               for layer in range(end) for i in range(model.n_head)]
    if head is None:
        values = sweep(pair.corrupted.ids, model, senders, pair.answer.logit, hook=hook)
    else:
        received = record(name)
        arrived = sweep(pair.corrupted.ids, model, [compose(sender, received) for sender in senders],
                        lambda logits: received[name], hook=hook)  # [n_sender, n_seq, n_head, d_head]
        values = sweep(pair.corrupted.ids, model, [patch(name, array, heads=head) for array in arrived],
                       pair.answer.logit, hook=hook)
    grid = np.full((model.n_layer, model.n_head), pair.answer.logit(corrupted_logits))  # as if nothing had arrived
    grid[:end] = values.reshape(end, -1)
    where = "into the logits" if head is None else f"into {receiver} alone"
    return pair.result(grid, clean_logits, corrupted_logits, "z", f"the path of each head {where} patched in")


def _receiver(receiver, model):
    """(the layer before which its senders lie, the value's name, its head); for the logits n_layer, logits, None."""
    if receiver == "logits":
        return model.n_layer, receiver, None
    found = re.fullmatch(r"blocks\.(\d+)\.attn\.([qkv])\.(\d+)", str(receiver))
    if not found:
        raise ValueError(f"the receiver must be logits, or the queries, keys or values of a head, such as "
                         f"blocks.{model.n_layer - 1}.attn.q.0, not {receiver!r}")
    layer, head = int(found[1]), int(found[3])
    check_whole("the receiver's layer", layer, 1, model.n_layer - 1, "the last layer; nothing comes before layer 0")
    check_whole("the receiver's head", head, 0, model.n_head - 1, "the last head")
    return layer, f"blocks.{layer}.attn.{found[2]}", head


def show_path_patching(clean: str | None = None, corrupted: str | None = None, answer: str | None = None,
                       wrong: str | None = None, receiver: str = "logits", *, position: int = -1,
                       file: str | None = None, out: str | None = None, model_size: str | None = None,
                       models_dir: str | None = None) -> None:
    """How much of a clean text's answer each head brings back on the path through one other head.

    Args:
        receiver: the queries (q), keys (k) or values (v) of a head, as blocks.3.attn.q.2 for head 2 of layer 3; or
            logits.
    """
    texts = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong": wrong}
    print_over_texts(path_patching, plot_patching, texts, position, file, out, model_size, models_dir,
                     receiver=receiver)
