"""Train the bundled model: a small GPT-2 on Shakespeare, kept in OpenAI's own file layout.

    pip install -r requirements.txt tensorflow tokenizers
    python models/shakespeare/train.py tinyshakespeare.txt

The first 90% of the text are trained on, the last 10% held out. Every hundred steps the state is kept in
`training/` beside this script, and a run that was cut goes on from there. The forward pass is TensorFlow's
own arithmetic, the weights are drawn as GPT-2's were, and the variables bear the names of OpenAI's graph.
"""
import json
import math
import os
import time
from pathlib import Path

import fire
import numpy as np
import tensorflow as tf

HERE = Path(__file__).resolve().parent
HPARAMS = {"n_vocab": 1024, "n_ctx": 256, "n_embd": 192, "n_head": 6, "n_layer": 6}
END_OF_TEXT = "<|endoftext|>"
BATCH, DROPOUT, WEIGHT_DECAY = 16, 0.2, 0.1
PEAK_LR, LAST_LR, WARMUP = 2e-3, 1e-4, 100  # learning rate: linear warm-up, then cosine decay
BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


# --- data ---------------------------------------------------------------------------------------


def train_vocabulary(text):
    """Learn byte-level BPE merges from `text`; write encoder.json and vocab.bpe with ids in GPT-2's order."""
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([text], vocab_size=HPARAMS["n_vocab"] - 1, min_frequency=2, show_progress=False)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    # GPT-2's order of ids: the 256 bytes (printable ones first), the merges, then the end-of-text token.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    tokens = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
    tokens += ["".join(pair) for pair in merges] + [END_OF_TEXT]
    if len(tokens) != HPARAMS["n_vocab"] or len(set(tokens)) != len(tokens):
        raise SystemExit(f"expected {HPARAMS['n_vocab']} different tokens, got {len(set(tokens))} of {len(tokens)}")
    (HERE / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (HERE / "vocab.bpe").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8", newline="\n")


def tokenizer():
    from tokenizers import ByteLevelBPETokenizer

    merges = (HERE / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    vocabulary = json.loads((HERE / "encoder.json").read_text(encoding="utf-8"))
    return ByteLevelBPETokenizer(vocabulary, [tuple(merge.split()) for merge in merges])


def batch(ids, speeches, end_of_text, step):
    """Windows of n_ctx + 1 ids -> int32 [BATCH, n_ctx + 1], the same for the same step.

    Windows start anywhere, but for one that starts with the end-of-text token at the beginning of a speech:
    so the model learns to begin from nothing.
    """
    rng, n = np.random.default_rng(step), HPARAMS["n_ctx"]
    starts = rng.integers(0, len(ids) - n, size=BATCH)
    windows = np.stack([ids[start : start + n + 1] for start in starts])
    start = rng.choice(speeches)
    windows[0] = np.concatenate([[end_of_text], ids[start : start + n]])
    return windows


# --- model --------------------------------------------------------------------------------------


def new_weights(seed=0):
    """Fresh weights under OpenAI's variable names, drawn as in the GPT-2 paper (residual projections scaled down)."""
    rng, n, n_layer = np.random.default_rng(seed), HPARAMS["n_embd"], HPARAMS["n_layer"]
    normal = lambda *shape, std=0.02: rng.normal(0, std, shape).astype(np.float32)
    zeros, ones = lambda *shape: np.zeros(shape, np.float32), lambda *shape: np.ones(shape, np.float32)
    weights = {"model/wte": normal(HPARAMS["n_vocab"], n), "model/wpe": normal(HPARAMS["n_ctx"], n, std=0.01)}
    for i in range(n_layer):
        for place, n_in, n_out in [("attn/c_attn", n, 3 * n), ("attn/c_proj", n, n),
                                   ("mlp/c_fc", n, 4 * n), ("mlp/c_proj", 4 * n, n)]:
            std = 0.02 / math.sqrt(2 * n_layer) if place.endswith("c_proj") else 0.02
            weights[f"model/h{i}/{place}/w"] = normal(1, n_in, n_out, std=std)  # the 1: OpenAI's conv1d
            weights[f"model/h{i}/{place}/b"] = zeros(n_out)
    for norm in [f"h{i}/ln_{j}" for i in range(n_layer) for j in (1, 2)] + ["ln_f"]:
        weights[f"model/{norm}/g"], weights[f"model/{norm}/b"] = ones(n), zeros(n)
    return weights


def forward(w, ids, dropout):
    """int32 [n_batch, n_seq] -> logits [n_batch, n_seq, n_vocab], with TensorFlow's operations."""
    n_batch, n_seq, n_head = ids.shape[0], ids.shape[1], HPARAMS["n_head"]
    drop = (lambda x: tf.nn.dropout(x, dropout)) if dropout else (lambda x: x)

    def norm(x, name):
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, w[f"{name}/b"], w[f"{name}/g"], 1e-5)

    def linear(x, name):  # [n_batch * n_seq, n_in] -> [n_batch * n_seq, n_out]
        return tf.matmul(x, w[f"{name}/w"][0]) + w[f"{name}/b"]

    def attention(x, name):
        heads = tf.reshape(linear(x, f"{name}/c_attn"), [n_batch, n_seq, 3, n_head, -1])
        q, k, v = tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4]))  # each [n_batch, n_head, n_seq, d_head]
        scores = tf.matmul(q, k, transpose_b=True) / math.sqrt(q.shape[-1])
        scores += (tf.linalg.band_part(tf.ones([n_seq, n_seq]), -1, 0) - 1) * 1e10
        z = tf.matmul(drop(tf.nn.softmax(scores)), v)
        return linear(tf.reshape(tf.transpose(z, [0, 2, 1, 3]), x.shape), f"{name}/c_proj")

    x = drop(tf.gather(w["model/wte"], ids) + w["model/wpe"][:n_seq])
    x = tf.reshape(x, [n_batch * n_seq, -1])
    for h in [f"model/h{i}" for i in range(HPARAMS["n_layer"])]:
        x += drop(attention(norm(x, f"{h}/ln_1"), f"{h}/attn"))
        hidden = tf.nn.gelu(linear(norm(x, f"{h}/ln_2"), f"{h}/mlp/c_fc"), approximate=True)
        x += drop(linear(hidden, f"{h}/mlp/c_proj"))
    logits = tf.matmul(norm(x, "model/ln_f"), w["model/wte"], transpose_b=True)
    return tf.reshape(logits, [n_batch, n_seq, -1])


def losses(w, windows, dropout=0.0):
    """Cross-entropy in nats of each next token, [n_batch, n_seq - 1]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=windows[:, 1:], logits=forward(w, windows[:, :-1], dropout))


def held_out_bits_per_byte(w, ids, end_of_text, n_bytes, evaluate):
    """Bits per byte of a text in windows of n_ctx side by side, each starting with no context: the strictest count."""
    n = HPARAMS["n_ctx"]
    ids = np.concatenate([[end_of_text], ids]).astype(np.int32)
    n_windows = -(-(len(ids) - 1) // n)
    padded = np.full(n_windows * n + 1, end_of_text, np.int32)
    padded[: len(ids)] = ids
    windows = [tf.constant(padded[i * n : (i + 1) * n + 1][None]) for i in range(n_windows)]
    nats = np.concatenate([evaluate(w, window) for window in windows], axis=1)
    return nats[0, : len(ids) - 1].sum() / math.log(2) / n_bytes


# --- training -----------------------------------------------------------------------------------


def save_checkpoint(weights):
    """Write model.ckpt.* and checkpoint as OpenAI's Saver laid them out."""
    tf.raw_ops.SaveV2(prefix=str(HERE / "model.ckpt"), tensor_names=list(weights), shape_and_slices=[""] * len(weights),
                      tensors=[tf.convert_to_tensor(value) for value in weights.values()])
    (HERE / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
    (HERE / "hparams.json").write_text(json.dumps(HPARAMS))


def train(corpus, steps=3500, seed=0):
    """Train on the first 90% of the text file `corpus`, then write the checkpoint beside this script."""
    tf.random.set_seed(seed)
    text = Path(corpus).read_text(encoding="utf-8")
    seen, held_out = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    if not (HERE / "vocab.bpe").exists():
        train_vocabulary(seen)
    encode = tokenizer()
    end_of_text = encode.token_to_id(END_OF_TEXT)
    ids, held_out_ids = (np.array(encode.encode(part).ids, np.int32) for part in (seen, held_out))
    paragraph = encode.encode("x\n\n").ids[-1]  # the token that parts two speeches
    speeches = 1 + np.flatnonzero(ids[: -HPARAMS["n_ctx"] - 1] == paragraph)

    w = {name: tf.Variable(value) for name, value in new_weights(seed).items()}
    mean = {name: tf.Variable(tf.zeros_like(v)) for name, v in w.items()}
    square = {name: tf.Variable(tf.zeros_like(v)) for name, v in w.items()}
    groups = {"w": w, "mean": mean, "square": square}
    state = {f"{kind}:{name}": variable for kind, group in groups.items() for name, variable in group.items()}
    kept, step = HERE / "training" / "state.npz", 0
    if kept.exists():
        with np.load(kept) as arrays:
            step = int(arrays["step"])
            for name, variable in state.items():
                variable.assign(arrays[name])
        print(f"going on from step {step}")

    @tf.function
    def adamw(windows, lr, t):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses(w, windows, DROPOUT))
        gradients = tape.gradient(loss, list(w.values()))
        gradients, _ = tf.clip_by_global_norm([tf.convert_to_tensor(g) for g in gradients], 1.0)
        for name, g in zip(w, gradients):
            mean[name].assign(BETA_1 * mean[name] + (1 - BETA_1) * g)
            square[name].assign(BETA_2 * square[name] + (1 - BETA_2) * g * g)
            update = mean[name] / (1 - BETA_1**t) / (tf.sqrt(square[name] / (1 - BETA_2**t)) + EPSILON)
            decay = WEIGHT_DECAY if len(w[name].shape) > 1 else 0.0  # gains and biases do not decay
            w[name].assign_sub(lr * (update + decay * w[name]))
        return loss

    evaluate = tf.function(losses)
    begun, done = time.time(), 0
    while step < steps:
        fraction = max(0.0, step - WARMUP) / max(1, steps - WARMUP)
        lr = min(1.0, (step + 1) / WARMUP) * (LAST_LR + (PEAK_LR - LAST_LR) * (1 + math.cos(math.pi * fraction)) / 2)
        windows = tf.constant(batch(ids, speeches, end_of_text, step))
        loss = adamw(windows, tf.constant(lr, tf.float32), tf.constant(step + 1.0))
        step, done = step + 1, done + 1
        if step % 20 == 0:
            pace = (time.time() - begun) / done
            print(f"step {step}: training loss {float(loss):.4f}, {pace:.2f} s a step", flush=True)
        if step % 100 == 0 or step == steps:
            kept.parent.mkdir(exist_ok=True)
            partial = kept.with_name("partial.npz")
            np.savez(partial, step=step, **{name: v.numpy() for name, v in state.items()})
            os.replace(partial, kept)
        if step % 250 == 0 or step == steps:
            bits = held_out_bits_per_byte(w, held_out_ids, end_of_text, len(held_out.encode()), evaluate)
            print(f"step {step}: held-out {bits:.4f} bits per byte", flush=True)
    save_checkpoint({name: v.numpy() for name, v in w.items()})


if __name__ == "__main__":
    fire.Fire(train)
