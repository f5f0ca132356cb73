"""Write word-surprisals.json: what minicons and wordsprobability say of the words of a few texts.

    pip install torch transformers minicons wordsprobability regex && python tests/data/make_word_surprisals.py

Both read the bundled model, converted here to a folder as Hugging Face lays it out; nothing is downloaded. Surprisals
are in nats.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from minicons import scorer
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast
from wordsprobability import main as wordsprobability
from wordsprobability import models as their_models
from wordsprobability.models.bow_lm import GPT2BaseModel

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent)]

from utils import load_encoder_hparams_and_params  # noqa: E402

TEXTS = [
    "O Romeo, Romeo! wherefore art thou Romeo?",
    "What say you, sir? Come hither to the king.",
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer",
    "I",
    "Go, good Capulet; don't tarry: the carpet of the car's unkind.",
]


def convert(folder):
    """The bundled model as GPT2LMHeadModel and its tokenizer, in a folder."""
    _, hparams, params = load_encoder_hparams_and_params("shakespeare")
    state = {"transformer.wte.weight": params["wte"], "transformer.wpe.weight": params["wpe"],
             "transformer.ln_f.weight": params["ln_f"]["g"], "transformer.ln_f.bias": params["ln_f"]["b"]}
    for i, block in enumerate(params["blocks"]):
        for norm in ("ln_1", "ln_2"):
            state |= {f"transformer.h.{i}.{norm}.weight": block[norm]["g"],
                      f"transformer.h.{i}.{norm}.bias": block[norm]["b"]}
        for part, name in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
            state |= {f"transformer.h.{i}.{part}.{name}.weight": block[part][name]["w"],
                      f"transformer.h.{i}.{part}.{name}.bias": block[part][name]["b"]}
    end = hparams["n_vocab"] - 1
    model = GPT2LMHeadModel(GPT2Config(vocab_size=hparams["n_vocab"], n_positions=hparams["n_ctx"],
                                       n_embd=hparams["n_embd"], n_layer=hparams["n_layer"], n_head=hparams["n_head"],
                                       bos_token_id=end, eos_token_id=end))
    missing, unexpected = model.load_state_dict({name: torch.tensor(np.array(value)) for name, value in state.items()},
                                                strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    model.save_pretrained(folder)
    shutil.copy(HERE.parent.parent / "models" / "shakespeare" / "encoder.json", folder / "vocab.json")
    merges = (HERE.parent.parent / "models" / "shakespeare" / "vocab.bpe").read_text(encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    tokenizer = GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    assert tokenizer.eos_token_id == end and len(tokenizer) == hparams["n_vocab"]
    tokenizer.save_pretrained(folder)


def by_minicons(folder):
    """minicons gives tokens; a word has those up to the next that begins with a space."""
    model = scorer.IncrementalLMScorer(GPT2LMHeadModel.from_pretrained(folder).eval(), "cpu",
                                       tokenizer=GPT2TokenizerFast.from_pretrained(folder))
    results = {}
    for name, options in (("minicons", {"bow_correction": True}), ("minicons naive", {}),
                          ("minicons without bos", {"bos_token": False})):
        options = {"bos_token": True, "surprisal": True, **options}
        results[name] = []
        for text in TEXTS:
            (tokens,) = model.token_score([text], **options)
            tokens = tokens[1:] if options["bos_token"] else tokens
            words = []
            for piece, surprisal in tokens:
                if piece.startswith("Ġ") or not words:
                    words.append(0.0)
                words[-1] += surprisal
            results[name].append(words)
    return results


def by_wordsprobability(folder):
    class Bundled(GPT2BaseModel):
        model_name = str(folder)

    their_models.MODELS["bundled"] = Bundled
    frames = [wordsprobability.get_surprisal_per_word(text, "bundled") for text in TEXTS]
    return {"wordsprobability": [frame["surprisal"].tolist() for frame in frames]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        convert(Path(name))
        results = {"texts": TEXTS, **by_minicons(name), **by_wordsprobability(name)}
    rounded = json.loads(json.dumps(results), parse_float=lambda x: round(float(x), 6))
    (HERE / "word-surprisals.json").write_text(json.dumps(rounded, indent=1), encoding="utf-8")
