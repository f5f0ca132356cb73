"""Which heads work together? Read off the weights alone."""
from typing import Any, NamedTuple

import numpy as np

from backend.passes import run_on_cores
from cli.tables import Table
from generation.checks import check_whole
from inside.command import check_out, show
from inside.model import check_model, model_name
from inside.pictures import plot_grids
from inside.result import table_of, titled, with_title
from utils import Model, load_encoder_hparams_and_params


@titled
class Circuits(NamedTuple):
    """How strongly each head's output reaches the queries (q), keys (k) and values (v) of each head of later layers:
    composition scores from 0 to 1, float64 [n_layer, n_head, n_layer, n_head], sender first; and the singular values of
    the heads' OV and QK matrices, ov and qk, float64 [n_layer, n_head, d_head], the largest first."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    ov: np.ndarray
    qk: np.ndarray


def circuits(model: Model) -> Circuits:
    """Composition scores of all pairs of heads, and the singular values of each head's two matrices.

    A head reads the residual stream through two matrices of low rank (Elhage et al., "A Mathematical Framework for
    Transformer Circuits", 2021, https://transformer-circuits.pub/2021/framework): W_QK = W_Q W_K^T says where it looks,
    W_OV = W_V W_O what it moves there. An earlier head composes with a later one as far as what it writes is what the
    other reads: |W_OV W_QK| / (|W_OV| |W_QK|) for the queries, with the other's W_QK transposed for the keys and with
    its W_OV for the values, in Frobenius norms. Unrelated heads score about 1 / sqrt(n_embd).

    The norm's gain is multiplied into the weights that read, and their mean over the stream's dimensions is taken off,
    as it is off those that write: the norm takes it away anyway. Biases do not count. So the scores are those of
    TransformerLens (all_composition_scores) with folded weights.

    Args:
        model: as in `tokens`.

    Returns:
        Circuits; pairs of which the sender is not in an earlier layer have 0.

    >>> q, k, v, ov, qk = circuits(model)
    >>> q.shape, ov.shape
    ((6, 6, 6, 6), (6, 6, 32))
    """
    model = check_model(model)
    n_embd = model.hparams["n_embd"]
    found = run_on_cores(lambda: _circuits(model), n_embd, model.n_layer, n_embd)  # many small products
    return with_title(found, f"{model_name(model)}: composition of heads")


def _circuits(model):
    n_layer, n_head = model.n_layer, model.n_head
    w_q, w_k, w_v, w_o = _weights(model)  # w_o transposed: each [n_layer, n_head, n_embd, d_head]
    r_q, r_k, r_v, r_o = (np.linalg.qr(w, mode="r") for w in (w_q, w_k, w_v, w_o))  # each [n_layer, n_head, d, d]
    # |A B^T| = |R_A R_B^T| for A = Q_A R_A: the products stay small
    ov, qk = (np.linalg.svd(a @ b.swapaxes(-1, -2), compute_uv=False) for a, b in ((r_v, r_o), (r_q, r_k)))
    norm = lambda values: np.sqrt((values**2).sum(axis=-1))  # the Frobenius norm, from singular values

    def scores(reads, r_other, sizes):
        """The scores of all senders with the receivers' matrix reads @ other.T, of Frobenius norms `sizes`."""
        found = np.zeros((n_layer, n_head, n_layer, n_head))
        for sender in range(n_layer):
            for receiver in range(sender + 1, n_layer):
                meet = np.einsum("hed,gef->hgdf", w_o[sender], reads[receiver], optimize=True)  # [h, g, d_head, d_head]
                products = r_v[sender][:, None] @ meet @ r_other[receiver][None].swapaxes(-1, -2)
                found[sender, :, receiver] = np.linalg.norm(products, axis=(-2, -1))
                found[sender, :, receiver] /= np.outer(norm(ov[sender]), sizes[receiver])
        return found

    return Circuits(scores(w_q, r_k, norm(qk)), scores(w_k, r_q, norm(qk)), scores(w_v, r_o, norm(ov)), ov, qk)


def _weights(model):
    """w_q, w_k, w_v and w_o (transposed) of all heads, each float64 [n_layer, n_head, n_embd, d_head]."""
    found = []
    for block in model.params["blocks"]:
        c_attn, c_proj = (block["attn"][name]["w"].astype(np.float64) for name in ("c_attn", "c_proj"))
        read = np.split(block["ln_1"]["g"][:, None] * c_attn, 3, axis=1)  # three of [n_embd, n_embd]
        found.append([np.stack(np.split(w - w.mean(axis=0), model.n_head, axis=1)) for w in (*read, c_proj.T)])
    return (np.array(w) for w in zip(*found, strict=True))


@table_of(Circuits)
def table_circuits(result, *, k: int = 5) -> list[Table]:
    """`Circuits` as tables: for queries, keys and values the k pairs with the highest scores; then the k heads with the
    largest singular values."""
    check_whole("k", k, 1)
    columns = []
    for scores in (result.q, result.k, result.v):
        best = np.argsort(-scores, axis=None, kind="stable")[:k]
        pairs = zip(*np.unravel_index(best, scores.shape), strict=True)
        columns.append([f"{a}.{b} → {c}.{d}  {scores[a, b, c, d]:.3f}" for a, b, c, d in pairs])
    heads = []
    for largest in (result.ov[..., 0], result.qk[..., 0]):  # each [n_layer, n_head]
        places = zip(*np.unravel_index(np.argsort(-largest, axis=None, kind="stable")[:k], largest.shape), strict=True)
        heads.append([f"{layer}.{head}  {largest[layer, head]:.2f}" for layer, head in places])
    return [Table("<<<", ["queries", "keys", "values"], [list(row) for row in zip(*columns, strict=True)]),
            Table("<<", ["OV", "QK"], [list(row) for row in zip(*heads, strict=True)])]


def plot_circuits(result: Any, ax: Any = None) -> Any:
    """Draw `Circuits`: the scores for queries, keys and values side by side, a row for each sender, a column for each
    receiver."""
    n_layer, n_head, *_ = result.q.shape
    n = n_layer * n_head
    grids = {"queries": result.q, "keys": result.k, "values": result.v}
    return plot_grids({name: scores.reshape(n, n) for name, scores in grids.items()}, ax, "receiver: layer",
                      "composition score", result.title, "sender: layer", n_head)


def show_circuits(k: int = 5, *, out: str | None = None, model_size: str | None = None,
                  models_dir: str | None = None) -> None:
    """Which heads compose, read off the weights: scores of pairs of heads, and each head's largest singular values.

    Args:
        k: how many pairs to list for queries, keys and values, and how many heads, the strongest first.
    """
    check_out(out)
    model = load_encoder_hparams_and_params(model_size, models_dir)
    show(lambda: circuits(model), plot_circuits, out, k=k)
