"""Write transformer-lens.npz: TransformerLens's answers about a model with random weights.

    pip install "transformer_lens==3.9" -r requirements.txt && python tests/data/make_transformer_lens.py

TransformerLens 3.9 is the last release with HookedTransformer. The weights are those of `random_model` in
tests/helpers.py with the sizes and seed that the file says; they are loaded unfolded, and nothing is downloaded.
"""
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig, patching
from transformer_lens.head_detector import detect_head

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]

from helpers import random_model  # noqa: E402

MODEL = {"std": 0.2, "seed": 1, "n_vocab": 97, "n_ctx": 40, "n_embd": 48, "n_head": 4, "n_layer": 3}
CLEAN = [5, 41, 7, 8, 96, 0, 13, 8, 22]
CORRUPTED = [5, 60, 7, 8, 96, 0, 13, 71, 22]
ANSWER, WRONG = 17, 80
RECEIVERS = ["blocks.1.attn.q.3", "blocks.2.attn.k.1", "blocks.2.attn.v.0", "logits"]
N_REPEATED, SEED = 12, 3  # induction's arguments
SMALL = {"std": 0.3, "seed": 2, "n_vocab": 23, "n_ctx": 8, "n_embd": 8, "n_head": 2, "n_layer": 2}  # for gradients
SMALL_IDS, SMALL_ANSWERS = [3, 17, 3, 22, 9], [4, 11]


def hooked_transformer(hparams, params):
    """The same model as a HookedTransformer."""
    n, n_head = hparams["n_embd"], hparams["n_head"]
    d_head = n // n_head
    config = HookedTransformerConfig(n_layers=hparams["n_layer"], d_model=n, n_ctx=hparams["n_ctx"], d_head=d_head,
                                     n_heads=n_head, d_mlp=4 * n, d_vocab=hparams["n_vocab"], act_fn="gelu_new",
                                     normalization_type="LN", eps=1e-5, use_attn_result=True, device="cpu")
    model = HookedTransformer(config)
    state = {"embed.W_E": params["wte"], "pos_embed.W_pos": params["wpe"], "unembed.W_U": params["wte"].T,
             "unembed.b_U": np.zeros(hparams["n_vocab"]), "ln_final.w": params["ln_f"]["g"],
             "ln_final.b": params["ln_f"]["b"]}
    for i, block in enumerate(params["blocks"]):
        attn, mlp = block["attn"], block["mlp"]
        w = attn["c_attn"]["w"].reshape(n, 3, n_head, d_head)
        b = attn["c_attn"]["b"].reshape(3, n_head, d_head)
        layer = {"ln1.w": block["ln_1"]["g"], "ln1.b": block["ln_1"]["b"], "ln2.w": block["ln_2"]["g"],
                 "ln2.b": block["ln_2"]["b"], "attn.W_O": attn["c_proj"]["w"].reshape(n_head, d_head, n),
                 "attn.b_O": attn["c_proj"]["b"], "mlp.W_in": mlp["c_fc"]["w"], "mlp.b_in": mlp["c_fc"]["b"],
                 "mlp.W_out": mlp["c_proj"]["w"], "mlp.b_out": mlp["c_proj"]["b"]}
        for j, name in enumerate("QKV"):
            layer[f"attn.W_{name}"], layer[f"attn.b_{name}"] = w[:, j].swapaxes(0, 1), b[j]
        state |= {f"blocks.{i}.{name}": array for name, array in layer.items()}
    state = {name: torch.tensor(np.array(array, dtype=np.float32)) for name, array in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith((".mask", ".IGNORE")) for name in missing), (missing, unexpected)
    return model


def gradients():
    """Every value of a pass, and autograd's derivative of a difference of two logits with respect to it."""
    model = hooked_transformer(*random_model(**SMALL)[1:])
    values = {}  # lists: the first norm is computed three times, for queries, keys and values

    def keep(value, hook):
        value.retain_grad()
        values.setdefault(hook.name.replace("hook_", ""), []).append(value)

    logits = model.run_with_hooks(torch.tensor([SMALL_IDS]), fwd_hooks=[(lambda name: True, keep)])[0, -1]
    (logits[SMALL_ANSWERS[0]] - logits[SMALL_ANSWERS[1]]).backward()
    results = {"small": np.array(json.dumps({"model": SMALL, "ids": SMALL_IDS, "answers": SMALL_ANSWERS}))}
    for name, calls in values.items():
        if not name.startswith("unembed"):
            results[f"value {name}"] = calls[0][0].detach()
            results[f"gradient {name}"] = sum(value.grad[0] for value in calls)
    return {name: np.asarray(value) for name, value in results.items()}


@torch.no_grad()
def answers():
    _, hparams, params = random_model(**MODEL)
    model = hooked_transformer(hparams, params)
    clean, corrupted, answer, wrong = torch.tensor([CLEAN]), torch.tensor([CORRUPTED]), ANSWER, WRONG
    n_layer, n_head = hparams["n_layer"], hparams["n_head"]
    logits, cache = model.run_with_cache(clean)
    results = {"arguments": np.array(json.dumps({
        "model": MODEL, "clean": CLEAN, "corrupted": CORRUPTED, "answer": ANSWER, "wrong": WRONG, "n": N_REPEATED,
        "seed": SEED, "receivers": RECEIVERS})), "logits": logits[0]}

    def log_prob(hooks=()):
        return model.run_with_hooks(clean, fwd_hooks=list(hooks))[0, -1].log_softmax(-1)[answer]

    def taken_out(by, head=None):
        def hook(value, hook):
            part = value if head is None else value[:, :, head]
            so_far = torch.arange(1, 1 + part.shape[1]).reshape(1, -1, *[1] * (part.ndim - 2))
            part[:] = 0 if by == "zero" else part.cumsum(1) / so_far
            return value
        return hook

    plain = log_prob()
    for by in ("zero", "mean"):
        for what in ("attn_out", "mlp_out"):
            results[f"ablation {what} {by}"] = torch.stack([
                log_prob([(f"blocks.{i}.hook_{what}", taken_out(by))]) - plain for i in range(n_layer)])[:, None]
        results[f"ablation z {by}"] = torch.stack([torch.stack([
            log_prob([(f"blocks.{i}.attn.hook_z", taken_out(by, head))]) - plain for head in range(n_head)])
            for i in range(n_layer)])

    def metric(logits):
        return logits[0, -1, answer] - logits[0, -1, wrong]

    best, worst = metric(logits), metric(model(corrupted))
    normalized = lambda logits: (metric(logits) - worst) / (best - worst)
    for at, patch in (("resid_pre", patching.get_act_patch_resid_pre), ("attn_out", patching.get_act_patch_attn_out),
                      ("mlp_out", patching.get_act_patch_mlp_out), ("resid_mid", patching.get_act_patch_resid_mid),
                      ("z", patching.get_act_patch_attn_head_out_all_pos),
                      ("q", patching.get_act_patch_attn_head_q_all_pos),
                      ("k", patching.get_act_patch_attn_head_k_all_pos),
                      ("v", patching.get_act_patch_attn_head_v_all_pos),
                      ("pattern", patching.get_act_patch_attn_head_pattern_all_pos)):
        results[f"patching {at}"] = patch(model, corrupted, cache, normalized)
    by_position = patching.get_act_patch_attn_head_out_by_pos(model, corrupted, cache, normalized)
    results["patching z by position"] = by_position.transpose(1, 2)  # [n_layer, n_head, n_seq]

    # Path patching, with the library's hooks: all heads' z frozen but the sender's; what the receiver gets; that alone.
    frozen = model.run_with_cache(corrupted)[1]

    def put(value, hook, head, array):
        value[:, :, head] = array[:, :, head]
        return value

    for receiver in RECEIVERS:
        grid = torch.zeros(n_layer, n_head)
        _, end, _, letter, to = ["", n_layer, "", "", 0] if receiver == "logits" else receiver.split(".")
        for layer in range(int(end)):
            for head in range(n_head):
                z = [f"blocks.{i}.attn.hook_z" for i in range(n_layer)]
                hooks = [(name, partial(put, head=slice(None), array=frozen[name])) for name in z]
                hooks.append((z[layer], partial(put, head=head, array=cache[z[layer]])))
                if receiver == "logits":
                    grid[layer, head] = normalized(model.run_with_hooks(corrupted, fwd_hooks=hooks))
                    continue
                name, arrived = f"blocks.{end}.attn.hook_{letter}", []
                hooks.append((name, partial(lambda value, hook, kept: kept.append(value.clone()), kept=arrived)))
                model.run_with_hooks(corrupted, fwd_hooks=hooks)
                grid[layer, head] = normalized(model.run_with_hooks(
                    corrupted, fwd_hooks=[(name, partial(put, head=int(to), array=arrived[0]))]))
        results[f"path {receiver}"] = grid

    # Attribution patching: the difference of the runs times autograd's gradient on the corrupted one.
    places = {"resid_pre": "hook_resid_pre", "mlp_out": "hook_mlp_out", "z": "attn.hook_z",
              "pattern": "attn.hook_pattern"}
    with torch.enable_grad():
        values = {}

        def keep(value, hook):
            value.retain_grad()
            values[hook.name] = value

        metric(model.run_with_hooks(corrupted, fwd_hooks=[(lambda name: True, keep)])).backward()
    for at, place in places.items():
        gains = []
        for i in range(n_layer):
            value = values[f"blocks.{i}.{place}"]
            gain = ((cache[f"blocks.{i}.{place}"] - value) * value.grad)[0].detach()
            gains.append(gain.sum((1, 2)) if at == "pattern" else gain.sum((0, 2)) if at == "z" else gain.sum(1))
        results[f"attribution patching {at}"] = torch.stack(gains) / (best - worst)

    once = np.random.default_rng(SEED).choice(hparams["n_vocab"], N_REPEATED, replace=False)
    repeated = torch.tensor(np.tile(once, 2))[None]
    model.to_tokens = lambda *_, **__: repeated  # detect_head asks for a text, and there is no tokenizer
    for name, kind in (("induction", "induction_head"), ("previous", "previous_token_head"),
                       ("duplicate", "duplicate_token_head")):
        results[name] = detect_head(model, "", kind)  # the sum over queries / their number
    own = torch.tril(torch.rand(2 * N_REPEATED, 2 * N_REPEATED, generator=torch.Generator().manual_seed(0)))
    model.cfg.default_prepend_bos = False
    results["own pattern"], results["own"] = own, detect_head(model, "", own)

    # Weights unfolded: logit_attrs knows nothing of the last norm's gain, so its unembedding gets it; last, because it
    # changes the model.
    bias = model.unembed.W_U.T @ model.ln_final.b
    model.unembed.W_U *= model.ln_final.w[:, None]
    options = {"layer": -1, "pos_slice": -1, "return_labels": True}
    stacks = {"parts": cache.decompose_resid(**options), "heads": cache.stack_head_results(**options)}
    for name, (stack, labels) in stacks.items():
        results[f"{name} labels"] = np.array(labels)
        for against, incorrect in (("", None), (" against wrong", torch.tensor([wrong]))):
            results[name + against] = cache.logit_attrs(stack, torch.tensor([answer]), incorrect_tokens=incorrect,
                                                        pos_slice=-1)[:, 0]
    results["bias"], results["bias against wrong"] = bias[answer], bias[answer] - bias[wrong]

    model = hooked_transformer(hparams, params)
    model.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=False)
    for kind in "QKV":
        results[f"composition {kind}"] = model.all_composition_scores(kind)
    for name, matrix in (("OV", model.OV), ("QK", model.QK)):
        results[f"singular values {name}"] = torch.linalg.svdvals(matrix.AB)[..., : hparams["n_embd"] // n_head]
    return {name: np.asarray(value) for name, value in results.items()}


if __name__ == "__main__":
    np.savez_compressed(HERE / "transformer-lens.npz", **gradients(), **answers())
