"""The engines that are compared, each in a process of its own, so that no engine's idle threads disturb another's.

An engine is a class with `prompt(ids)`, which computes the first new token of a prompt, and `decode(ids, n)`, which
returns the seconds that a new token takes after it. A worker (`python engines.py NAME FOLDER CORES`) uses the first so
many cores, reads requests as lines of JSON from stdin and answers each with a line.
"""
import functools
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
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))


def n_threads():
    """How many threads an engine of this process is given: one for each core that the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


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

    def rows(self, n_rows, n_past=64):
        """Seconds of a pass over n_rows tokens behind n_past others, with the logits of each, as prompt lookup does."""
        from generation.kv_cache import KVCache
        from gpt2 import gpt2

        options = {**self.params, "n_head": self.hparams["n_head"]}
        options["cache"] = KVCache(*(self.hparams[name] for name in ("n_layer", "n_head", "n_ctx", "n_embd")))
        gpt2([0] * n_past, **options)
        times = []
        for _ in range(8):
            start = time.perf_counter()
            gpt2([1] * n_rows, **options)
            times.append(time.perf_counter() - start)
            options["cache"].length = n_past
        return sorted(times)[len(times) // 2]


class Products(NumPy):
    """No engine: only the matrix products that a pass consists of, multiplied as the program does it."""

    name = "its matrix products alone"

    def prompt(self, ids):
        import numpy as np

        from backend.chunks import in_chunks
        from backend.passes import run_on_cores
        from generation.kv_cache import KVCache

        n_head, n_embd = self.hparams["n_head"], self.hparams["n_embd"]
        cache = KVCache(self.hparams["n_layer"], n_head, len(ids), n_embd)

        def forward():
            x = in_chunks(self._layers)(np.ones((len(ids), n_embd), np.float32), cache.layers, 1, None, n_head)
            self._matmul(x, self.params["wte"].T)

        run_on_cores(forward, len(ids), cache.n_layer, n_embd)

    def _layers(self, x, caches, n_wanted, blocks, n_head):
        import numpy as np

        matmul, n_embd = self._matmul, x.shape[1]
        k = np.ones((n_head, caches[0].length + len(x), n_embd // n_head), np.float32)
        for block in self.params["blocks"]:
            attn, mlp = block["attn"], block["mlp"]
            if block is self.params["blocks"][-1]:  # of the other rows, only keys and values are needed
                matmul(x[n_wanted:], attn["c_attn"]["w"][:, n_embd:])
                x = x[:n_wanted]
            matmul(x, attn["c_attn"]["w"])
            k[:, : len(x)] @ k.swapaxes(-1, -2) @ k
            matmul(x, attn["c_proj"]["w"])
            matmul(np.broadcast_to(x[:, :1], (len(x), 4 * n_embd)).copy(), mlp["c_proj"]["w"])
            matmul(x, mlp["c_fc"]["w"])
        return x

    def decode(self, ids, n):
        """One row through the weights, and one query over keys and values of as many positions as were decoded."""
        import numpy as np

        from backend.passes import run_on_cores

        n_head, n_embd, n_ctx = self.hparams["n_head"], self.hparams["n_embd"], len(ids) + n
        x, hidden = np.ones((1, n_embd), np.float32), np.ones((1, 4 * n_embd), np.float32)
        q = np.ones((n_head, 1, n_embd // n_head), np.float32)
        keys = np.ones((self.hparams["n_layer"], n_head, n_ctx, n_embd // n_head), np.float32)
        matmul = self._matmul

        def forward(n_keys):
            for block, k in zip(self.params["blocks"], keys[:, :, :n_keys]):
                matmul(x, block["attn"]["c_attn"]["w"])
                q @ k.swapaxes(-1, -2) @ k
                matmul(x, block["attn"]["c_proj"]["w"])
                matmul(x, block["mlp"]["c_fc"]["w"])
                matmul(hidden, block["mlp"]["c_proj"]["w"])
            matmul(x, self.params["wte"].T)

        start = time.perf_counter()
        for i in range(n):
            run_on_cores(functools.partial(forward, len(ids) + i + 1), 1, self.hparams["n_layer"], n_embd)
        return (time.perf_counter() - start) / n

    @staticmethod
    def _matmul(x, w):
        from backend.products import matmul

        return matmul(x, w)


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

        torch.set_num_threads(n_threads())
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
                                               inter_threads=1, intra_threads=n_threads())

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


def write_gguf(folder, path):
    """The model in `folder` as a GGUF file in float32, as llama.cpp reads it."""
    import gguf
    import numpy as np

    from utils import load_encoder_hparams_and_params

    _, hparams, params = load_encoder_hparams_and_params(folder.name, folder.parent)
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    merges = [line for line in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:] if line]
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(hparams["n_ctx"])
    writer.add_embedding_length(hparams["n_embd"])
    writer.add_feed_forward_length(4 * hparams["n_embd"])
    writer.add_block_count(hparams["n_layer"])
    writer.add_head_count(hparams["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_merges(merges)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(vocabulary) - 1) + [gguf.TokenType.CONTROL])
    writer.add_eos_token_id(len(vocabulary) - 1)
    tensors = {"token_embd.weight": params["wte"], "position_embd.weight": params["wpe"],
               "output.weight": params["wte"], "output_norm": params["ln_f"]}
    names = {"attn_norm": ("ln_1",), "attn_qkv": ("attn", "c_attn"), "attn_output": ("attn", "c_proj"),
             "ffn_norm": ("ln_2",), "ffn_up": ("mlp", "c_fc"), "ffn_down": ("mlp", "c_proj")}
    for i, block in enumerate(params["blocks"]):
        for name, (first, *rest) in names.items():
            tensors[f"blk.{i}.{name}"] = block[first][rest[0]] if rest else block[first]
    for name, value in tensors.items():
        if isinstance(value, dict):  # a weight, [n_out, n_in] there, and its bias
            writer.add_tensor(f"{name}.weight", np.ascontiguousarray(value["w"].T if "w" in value else value["g"]))
            writer.add_tensor(f"{name}.bias", value["b"])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    name, needs = "llama.cpp (C++)", ("llama_cpp", "gguf")

    def __init__(self, folder):
        import llama_cpp

        path = folder / "f32.gguf"
        if not path.exists():
            partial = path.with_suffix(".part")
            write_gguf(folder, partial)
            partial.replace(path)
        self.llama_cpp = llama_cpp
        self.model = llama_cpp.Llama(str(self.quantized(path)), n_ctx=0, n_threads=n_threads(),
                                     n_threads_batch=n_threads(), type_k=llama_cpp.GGML_TYPE_F32,
                                     type_v=llama_cpp.GGML_TYPE_F32, verbose=False)

    def quantized(self, path):
        return path

    def prompt(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return self._best()

    def _best(self):
        import numpy as np

        logits = self.llama_cpp.llama_get_logits_ith(self.model.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self.model.n_vocab(),)).argmax())

    def decode(self, ids, n):
        new_id = self.prompt(ids)
        start = time.perf_counter()
        for _ in range(n):
            self.model.eval([new_id])
            new_id = self._best()
        return (time.perf_counter() - start) / n


class LlamaCppQ8(LlamaCpp):
    """Not compared with, because its weights have 8 bits instead of 32: what that gains."""

    name = "llama.cpp, 8 bits"

    def quantized(self, path):
        target = path.with_name("q8_0.gguf")
        if not target.exists():
            options = self.llama_cpp.llama_model_quantize_default_params()
            options.ftype = self.llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
            if self.llama_cpp.llama_model_quantize(str(path).encode(), str(target).encode(), options):
                raise RuntimeError(f"llama.cpp could not quantize {path}")
        return target


ENGINES = {engine.__name__: engine for engine in (NumPy, Products, CTranslate2, Transformers, LlamaCpp, LlamaCppQ8)}
PEERS = ("CTranslate2", "Transformers", "LlamaCpp")  # those that compute the same in float32


class Worker:
    """An engine in a process of its own on n_cores cores (None: all): worker("prompt", ids) -> (seconds, result)."""

    def __init__(self, engine, folder, n_cores=None):
        self.engine, n_cores = ENGINES[engine], n_cores or len(CORES)
        self.process = subprocess.Popen([sys.executable, __file__, engine, str(folder), str(n_cores)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.engine.name} did not start: see python {__file__} {engine} {folder} {n_cores}")

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


def main(engine, folder, n_cores):
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES[: int(n_cores)])  # before any library counts them
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
