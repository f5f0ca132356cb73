"""What users call, for a type checker: `mypy --strict --follow-imports=silent tests/user_program.py`."""
import numpy as np

import lens
from encoder import Encoder, get_encoder
from generation.kv_cache import KVCache
from generation.sampling import Sampling
from gpt2 import generate, generate_stream, gpt2
from many_texts.batches import generate_batch, log_probs
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
    scores: list[np.ndarray] = log_probs([ids], params, n_head, encoder.new_text()[0])
    p: np.ndarray = Sampling(temperature=1).probabilities(logits[-1])
    other: Encoder = get_encoder("shakespeare", "models")
    names: list[str] = available_models()
    sizes: dict[str, int] = load_hparams("models/shakespeare")
    download_gpt2_files("124M", "models/124M")
    print(text, batch, scores, p, other, names, sizes)
    lens.plot_next_tokens(lens.next_tokens(text, model, k=3))
    seen = lens.record("blocks.*.attn.pattern")
    lens.sweep(ids, model, [None, lens.zero(1, 5)], lambda logits: logits[-1].max(), hook=seen)
