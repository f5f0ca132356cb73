"""GPT-2 from TensorFlow's own operations: what the NumPy implementation is compared with.

It shares no code with it, and reads the checkpoint itself.
"""
import json
from pathlib import Path


def tf_gpt2(folder, ids):
    """Every intermediate of a forward pass over `ids`, under TransformerLens's names, as a dict of NumPy arrays."""
    import tensorflow as tf

    folder = Path(folder)
    hparams = json.loads((folder / "hparams.json").read_text())
    reader = tf.train.load_checkpoint(str(folder / "model.ckpt"))
    n_head, n_seq = hparams["n_head"], len(ids)
    seen = {}

    def weight(name):
        return tf.squeeze(tf.constant(reader.get_tensor(f"model/{name}")))

    def keep(name, x):
        seen[name] = x.numpy()
        return x

    def norm(x, name, here):
        scale = keep(f"{here}.scale", tf.sqrt(tf.math.reduce_variance(x, -1, keepdims=True) + 1e-5))
        normalized = keep(f"{here}.normalized", tf.math.divide(x - tf.reduce_mean(x, -1, keepdims=True), scale))
        return tf.multiply(normalized, weight(f"{name}/g")) + weight(f"{name}/b")

    def dense(x, name):
        return tf.nn.bias_add(tf.linalg.matmul(x, weight(f"{name}/w")), weight(f"{name}/b"))

    embed = keep("embed", tf.nn.embedding_lookup(weight("wte"), ids))
    x = embed + keep("pos_embed", weight("wpe")[:n_seq])
    for i in range(hparams["n_layer"]):
        here = f"blocks.{i}."
        keep(here + "resid_pre", x)
        normalized = norm(x, f"h{i}/ln_1", here + "ln1")
        q, k, v = (keep(here + f"attn.{name}", tf.reshape(part, [n_seq, n_head, -1]))
                   for name, part in zip("qkv", tf.split(dense(normalized, f"h{i}/attn/c_attn"), 3, axis=-1)))
        scores = tf.einsum("qhd,khd->hqk", q, k) / tf.sqrt(float(q.shape[-1]))
        scores = tf.where(tf.linalg.band_part(tf.ones([n_seq, n_seq], bool), -1, 0), scores, float("-inf"))
        keep(here + "attn.attn_scores", scores)
        pattern = keep(here + "attn.pattern", tf.nn.softmax(scores))
        z = keep(here + "attn.z", tf.einsum("hqk,khd->qhd", pattern, v))
        w = tf.reshape(weight(f"h{i}/attn/c_proj/w"), [n_head, -1, x.shape[-1]])
        keep(here + "attn.result", tf.einsum("qhd,hde->qhe", z, w))
        attn_out = keep(here + "attn_out", dense(tf.reshape(z, [n_seq, -1]), f"h{i}/attn/c_proj"))
        x = keep(here + "resid_mid", x + attn_out)
        normalized = norm(x, f"h{i}/ln_2", here + "ln2")
        pre = keep(here + "mlp.pre", dense(normalized, f"h{i}/mlp/c_fc"))
        post = keep(here + "mlp.post", tf.nn.gelu(pre, approximate=True))
        x = keep(here + "resid_post", x + keep(here + "mlp_out", dense(post, f"h{i}/mlp/c_proj")))
    keep("logits", tf.linalg.matmul(norm(x, "ln_f", "ln_final"), weight("wte"), transpose_b=True))
    return seen


def tf_greedy(folder, ids, n):
    """The `n` ids with which TensorFlow's GPT-2 continues `ids` greedily."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(tf_gpt2(folder, ids)["logits"][-1].argmax()))
    return ids[-n:]
