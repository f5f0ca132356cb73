"""What users call, for a type checker: `mypy --strict --follow-imports=silent tests/user_program.py`."""
import numpy as np

import lens
from encoder import Encoder, get_encoder
from generation.kv_cache import KVCache
from generation.sampling import Sampling
from gpt2 import generate, generate_stream, gpt2
from many_texts.batches import generate_batch
from utils import available_models, download_gpt2_files, load_encoder_hparams_and_params, load_hparams


def without_head_5(name: str, array: np.ndarray) -> np.ndarray | None:
    return np.zeros_like(array) if name == "blocks.1.attn.z" else None


def program() -> None:
    model = load_encoder_hparams_and_params("shakespeare")
    encoder, hparams, params = model
    n_head: int = hparams["n_head"]
    ids: list[int] = encoder.encode("O Romeo")
    cache = KVCache(n_layer=model.n_layer, n_head=n_head, n_ctx=20, n_embd=hparams["n_embd"])
    logits: np.ndarray = gpt2(ids, **params, n_head=n_head, cache=cache, n_logits=1, hook=without_head_5)
    logits = model.logits(ids, hook=without_head_5)
    new_ids: list[int] = generate(ids, params, n_head, 5, temperature=0.5, seed=1)
    new_ids = [*generate_stream(ids, params, n_head, 5), *model.generate(ids, 5, top_k=3, temperature=1.0)]
    text: str = encoder.decode(new_ids) + model.decode(new_ids)
    batch: list[list[int]] = generate_batch([ids], params, n_head, 5)
    p: np.ndarray = Sampling(temperature=1).probabilities(logits[-1])
    other: Encoder = get_encoder("shakespeare", "models")
    names: list[str] = available_models()
    sizes: dict[str, int] = load_hparams("models/shakespeare")
    download_gpt2_files("124M", "models/124M")
    print(text, batch, p, other, names, sizes)
    lens.plot_next_tokens(lens.next_tokens(text, model, k=3))
    lens.plot_tokens(lens.tokens(text, model))
    lens.plot_attention(lens.attention(ids, model, layer=1, head=5))
    lens.plot_logit_lens(lens.logit_lens(text, model, hook=without_head_5))
    lens.plot_attribution(lens.attribution(text, model, " C", heads=True))
    change: np.ndarray = lens.ablation([text, text], model, [" C", " S"]).change
    d: np.ndarray = lens.gradients(text, model, " C")["embed"]
    print(change, d, lens.path_patching(text, text, model, " C", receiver="blocks.3.attn.q.2").grid)
    lens.plot_ablation(lens.ablation(text, model, " C", what="mlp_out"))
    lens.plot_patching(lens.patching(text, ids, model, " C", " S", at="z"))
    lens.plot_saliency(lens.saliency(text, model, " C"))
    lens.plot_induction(lens.induction(model, n=20))
    lens.plot_detect_heads(lens.detect_heads(text, model, "previous"))
    lens.plot_patching(lens.attribution_patching(text, ids, model, " C", at="z"))
    lens.plot_patching(lens.path_patching(text, ids, model, " C", receiver="blocks.1.attn.q.5"))
    lens.plot_circuits(lens.circuits(model))
    lens.plot_neighbours(lens.neighbours("king - he + she", model))
    lens.plot_parameters(lens.parameters(model))
    lens.plot_score(lens.score(text, model, stride=100))
    lens.page(text, model, k=5).save("page.html")
    total: int = lens.parameters(model).total
    gradient: np.ndarray = lens.gradients(text, model, answer=" C")["embed"]
    seen = lens.record("blocks.*.attn.pattern")
    hook = lens.compose(seen, lens.patch("blocks.1.attn.z", gradient, heads=[0]))
    values: np.ndarray = lens.sweep(ids, model, [None, lens.zero(1, 5)], lambda logits: logits[-1].max(), hook=hook)
    print(total, values)
