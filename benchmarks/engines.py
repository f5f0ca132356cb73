"""The engines that are compared, each in a process of its own, so that no engine's idle threads disturb another's.

An engine is a class with `prompt(ids)`, which computes the first new token of a prompt, and `decode(ids, n)`, which
returns the seconds that a new token takes after it. A worker (`python engines.py NAME FOLDER`) reads requests as lines
of JSON from stdin and answers each with a line.
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class NumPy:
    """This program, through the functions that its users call."""

    name, needs = "gpt2.py (NumPy)", ("numpy",)

    def __init__(self, folder):
        from utils import load_encoder_hparams_and_params

        _, self.hparams, self.params = load_encoder_hparams_and_params(folder.name, folder.parent)

    def prompt(self, ids):
        from gpt2 import gpt2

        return int(gpt2(ids, **self.params, n_head=self.hparams["n_head"], n_logits=1)[-1].argmax())

    def decode(self, ids, n, lookup=False):
        from gpt2 import generate_stream

        stream = generate_stream(ids, self.params, self.hparams["n_head"], n + 1, lookup=lookup)
        next(stream)
        start = time.perf_counter()
        for _ in stream:
            pass
        return (time.perf_counter() - start) / n


class Products(NumPy):
    """No engine: the matrix products alone that the pass consists of, as plain `@` on the same shapes."""

    name = "its matrix products alone"

    def prompt(self, ids):
        import numpy as np

        n_head, n_seq, n_embd = self.hparams["n_head"], len(ids), self.hparams["n_embd"]
        x, hidden = np.ones((n_seq, n_embd), np.float32), np.ones((n_seq, 4 * n_embd), np.float32)
        q = np.ones((n_head, n_seq, n_embd // n_head), np.float32)
        for block in self.params["blocks"]:
            x @ block["attn"]["c_attn"]["w"]
            q @ q.swapaxes(-1, -2) @ q
            x @ block["attn"]["c_proj"]["w"]
            x @ block["mlp"]["c_fc"]["w"]
            hidden @ block["mlp"]["c_proj"]["w"]
        x[-1:] @ self.params["wte"].T

    def decode(self, ids, n):
        """One row through the weights, and one query over keys and values of as many positions as were decoded."""
        import numpy as np

        n_head, n_embd, n_ctx = self.hparams["n_head"], self.hparams["n_embd"], len(ids) + n
        x, hidden = np.ones((1, n_embd), np.float32), np.ones((1, 4 * n_embd), np.float32)
        q = np.ones((n_head, 1, n_embd // n_head), np.float32)
        cache = np.ones((len(self.params["blocks"]), 2, n_head, n_ctx, n_embd // n_head), np.float32)
        start = time.perf_counter()
        for i in range(n):
            for block, (k, v) in zip(self.params["blocks"], cache[:, :, :, : len(ids) + i + 1]):
                x @ block["attn"]["c_attn"]["w"]
                q @ k.swapaxes(-1, -2) @ v
                x @ block["attn"]["c_proj"]["w"]
                x @ block["mlp"]["c_fc"]["w"]
                hidden @ block["mlp"]["c_proj"]["w"]
            x @ self.params["wte"].T
        return (time.perf_counter() - start) / n


def to_transformers(folder):
    """The model in `folder` as a transformers GPT2LMHeadModel with the same weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from utils import load_encoder_hparams_and_params

    _, hparams, params = load_encoder_hparams_and_params(folder.name, folder.parent)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=hparams["n_vocab"], n_positions=hparams["n_ctx"],
                                       n_embd=hparams["n_embd"], n_head=hparams["n_head"], n_layer=hparams["n_layer"],
                                       bos_token_id=hparams["n_vocab"] - 1, eos_token_id=hparams["n_vocab"] - 1))
    tensors = {"transformer.wte.weight": params["wte"], "transformer.wpe.weight": params["wpe"]}

    def add(group, name):
        for key, value in group.items():
            if isinstance(value, dict):
                add(value, f"{name}.{key}")
            else:
                tensors[f"{name}.{'bias' if key == 'b' else 'weight'}"] = value

    for i, block in enumerate(params["blocks"]):
        add(block, f"transformer.h.{i}")
    add(params["ln_f"], "transformer.ln_f")
    state = model.state_dict()
    for name, value in tensors.items():
        state[name].copy_(torch.from_numpy(value.copy()))
    return model.eval()


class Transformers:
    name, needs = "transformers (PyTorch)", ("torch", "transformers")

    def __init__(self, folder):
        import torch

        torch.set_num_threads(N_THREADS)
        torch.set_grad_enabled(False)
        self.torch, self.model = torch, to_transformers(folder)

    def prompt(self, ids):
        logits = self.model(self.torch.tensor([list(ids)]), use_cache=True, logits_to_keep=1).logits
        return int(logits[0, -1].argmax())

    def decode(self, ids, n):
        ids = self.torch.tensor([list(ids)])
        mask = self.torch.ones_like(ids)
        times = []
        for n_new in (1, n + 1):
            start = time.perf_counter()
            self.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=n_new, min_new_tokens=n_new)
            times.append(time.perf_counter() - start)
        return (times[1] - times[0]) / n


class CTranslate2:
    name, needs = "CTranslate2 (C++)", ("ctranslate2", "torch", "transformers")

    def __init__(self, folder):
        import ctranslate2

        converted = folder / "ctranslate2"
        if not (converted / "model.bin").exists():
            with tempfile.TemporaryDirectory() as temporary:
                temporary = Path(temporary)
                to_transformers(folder).save_pretrained(temporary)
                (temporary / "vocab.json").write_text((folder / "encoder.json").read_text())
                (temporary / "merges.txt").write_text((folder / "vocab.bpe").read_text(encoding="utf-8"))
                (temporary / "tokenizer_config.json").write_text(json.dumps(
                    {"tokenizer_class": "GPT2Tokenizer", **dict.fromkeys(("bos_token", "eos_token", "unk_token"),
                                                                         "<|endoftext|>")}))
                ctranslate2.converters.TransformersConverter(str(temporary)).convert(str(converted), force=True)
        self.tokens = sorted((vocabulary := json.loads((folder / "encoder.json").read_text())), key=vocabulary.get)
        self.generator = ctranslate2.Generator(str(converted), device="cpu", compute_type="float32",
                                               inter_threads=1, intra_threads=N_THREADS)

    def _generate(self, ids, n):
        [result] = self.generator.generate_batch([[self.tokens[i] for i in ids]], sampling_topk=1, beam_size=1,
                                                 min_length=n, max_length=n, include_prompt_in_result=False)
        return result.sequences_ids[0]

    def prompt(self, ids):
        return self._generate(ids, 1)[0]

    def decode(self, ids, n):
        times = []
        for n_new in (1, n + 1):
            start = time.perf_counter()
            self._generate(ids, n_new)
            times.append(time.perf_counter() - start)
        return (times[1] - times[0]) / n


ENGINES = {engine.__name__: engine for engine in (NumPy, Products, CTranslate2, Transformers)}


class Worker:
    """An engine in a process of its own: worker("prompt", ids) -> (seconds, result)."""

    def __init__(self, engine, folder):
        self.engine = ENGINES[engine]
        self.process = subprocess.Popen([sys.executable, __file__, engine, str(folder)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.engine.name} did not start: see python {__file__} {engine} {folder}")

    @staticmethod
    def missing(engine):
        """Which of the packages that an engine needs are not installed."""
        return [name for name in ENGINES[engine].needs if importlib.util.find_spec(name) is None]

    def __call__(self, method, *arguments, **options):
        self.process.stdin.write(json.dumps([method, arguments, options]) + "\n")
        self.process.stdin.flush()
        return tuple(json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.communicate()


def main(engine, folder):
    engine = ENGINES[engine](Path(folder))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever an engine prints is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        method, arguments, options = json.loads(line)
        start = time.perf_counter()
        result = getattr(engine, method)(*arguments, **options)
        print(json.dumps([time.perf_counter() - start, result]), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
