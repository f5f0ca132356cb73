"""How fast are many texts, next to the batches of the engines that people would pick instead?

    pip install -r benchmarks/requirements.txt -r many_texts/requirements.txt
    python benchmarks/many_texts.py            # a quarter of an hour; prints the tables of docs/many-texts.md
    python benchmarks/many_texts.py --quick    # seconds, a tiny model: does everything still run?

All engines run the same random weights of the 124M's shapes in float32 on all cores, one after the other. The peers pad
texts of one batch to the same length, so each gets its texts sorted by length and its best batch size. batch.py is run
as its users run it, as a whole process; its rates are those after the start of its workers, which has its own row.
"""
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engines import N_THREADS, ROOT, CTranslate2, Transformers, Worker  # noqa: E402
from random_model import HPARAMS, make_random_model  # noqa: E402

N_NEW = 32


class BatchesOfTransformers(Transformers):
    def generate(self, prompts, n, size):
        """Continue all prompts, `size` at a time."""
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            longest = max(map(len, part))
            ids = self.torch.tensor([[0] * (longest - len(ids)) + ids for ids in part])
            mask = self.torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in part])
            self.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=n, min_new_tokens=n,
                                pad_token_id=0)

    def score(self, texts, size):
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            longest = max(map(len, part))
            ids = self.torch.tensor([ids + [0] * (longest - len(ids)) for ids in part])
            mask = self.torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in part])
            logits = self.model(ids, attention_mask=mask).logits
            for row, text in zip(logits, part):
                log_p = row[: len(text) - 1].log_softmax(-1)
                log_p.gather(-1, self.torch.tensor(text[1:])[:, None]).sum().item()


class BatchesOfCTranslate2(CTranslate2):
    def generate(self, prompts, n, size):
        tokens = [[self.tokens[i] for i in ids] for ids in prompts]
        self.generator.generate_batch(tokens, max_batch_size=size, sampling_topk=1, beam_size=1, min_length=n,
                                      max_length=n, include_prompt_in_result=False)


def seconds_of(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def best(engine, method, sizes, n_tokens, *arguments):
    """(tokens per second, size) of the best batch size."""
    rates = {size: n_tokens / seconds_of(getattr(engine, method), *arguments, size) for size in sizes}
    print("   ", ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items()), file=sys.stderr)
    return max((rate, size) for size, rate in rates.items())


def batch(folder, command, texts, n_workers, *options):
    """Run batch.py: (tokens per second while the workers worked, seconds until they could, tokens)."""
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "in.jsonl", Path(temporary) / "out.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, str(ROOT / "batch.py"), command, str(source), "--out", str(out),
                                    "--model_size", folder.name, "--models_dir", str(folder.parent), "--n_workers",
                                    str(n_workers), "--strict", *map(str, options)], stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "dashboard" in line:
                ready = time.perf_counter() - start
        process.wait()
        total = time.perf_counter() - start
        n_tokens = sum(json.loads(line)["n_tokens"] for line in open(out))
        return n_tokens / (total - ready), ready, n_tokens


def random_texts(encoder, lengths):
    """Texts of so many tokens: words that are one token each. (texts, their ids)"""
    import numpy as np

    pieces = [encoder.token_bytes(i) for i in range(encoder.n_vocab)]
    words = [i for i, piece in enumerate(pieces) if re.fullmatch(rb" ?[a-z]+", piece)]
    rng = np.random.default_rng(0)
    texts = [encoder.decode(rng.choice(words, n)) for n in lengths]
    return texts, [encoder.encode(text)[:n] for text, n in zip(texts, lengths)]


def one_by_one(folder, prompts, n):
    """Tokens per second of generate(), one prompt after the other."""
    worker = Worker("NumPy", folder)
    seconds = sum(worker("prompt", ids)[0] + n * worker("decode", ids, n)[1] for ids in prompts)
    worker.close()
    return len(prompts) * n / seconds


def main(quick=False):
    import numpy as np

    from encoder import get_encoder

    with tempfile.TemporaryDirectory() as temporary:
        size = "tiny" if quick else "124M"
        folder = Path(os.environ.get("MODEL_FOLDER") or Path(temporary) / f"random-{size}")
        make_random_model(size, folder)
        encoder = get_encoder(folder.name, folder.parent)
        rng = np.random.default_rng(1)
        n_ctx = HPARAMS[size]["n_ctx"]
        prompts, prompt_ids = random_texts(encoder, rng.integers(10, 30, 16 if quick else 256))
        texts, text_ids = random_texts(encoder, rng.integers(5, n_ctx * 9 // 10, 16 if quick else 500))
        text_ids = [[encoder.eot_token, *ids] for ids in text_ids]
        n_new, n_scored = N_NEW * len(prompts), sum(map(len, text_ids)) - len(texts)
        sizes = (8,) if quick else (16, 32, 64, 128)

        print(f"\n{len(prompts)} prompts of 10 to 29 tokens, {N_NEW} new ones; {len(texts)} texts of 5 to "
              f"{n_ctx * 9 // 10} tokens; {N_THREADS} cores\n\n| tokens/s | generate | score |\n|---|---|---|")
        rates = {}
        for n_workers in dict.fromkeys((1, 2, N_THREADS)):  # each worker has the same share in all three
            generated, _, _ = batch(folder, "generate", prompts[:: N_THREADS // n_workers], n_workers, "-n", N_NEW)
            scored, ready, _ = batch(folder, "score", texts[:: N_THREADS // n_workers], n_workers)
            rates[n_workers] = generated, scored
            print(f"| batch.py, {n_workers} worker{'s' * (n_workers > 1)} | {generated:.0f} | {scored:.0f} |",
                  flush=True)
        alone = one_by_one(folder, prompt_ids[:16], N_NEW)
        print(f"| generate(), one by one, {N_THREADS} threads | {alone:.0f} | |", flush=True)
        theirs = [(0, 0)]
        for engine in (BatchesOfCTranslate2, BatchesOfTransformers):
            missing = Worker.missing(engine.__base__.__name__)
            if missing:
                print(f"| {engine.name} | not installed: {', '.join(missing)} | |")
                continue
            peer = engine(folder)
            longest_first = lambda texts: sorted(texts, key=len, reverse=True)
            generated, size = best(peer, "generate", sizes, n_new, longest_first(prompt_ids), N_NEW)
            row = f"| {engine.name} | {generated:.0f} (batch of {size}) |"
            scored = 0
            if hasattr(peer, "score"):
                scored, size = best(peer, "score", (1, 2, 4, 8)[: 1 if quick else 4], n_scored, longest_first(text_ids))
                row += f" {scored:.0f} (batch of {size}) |"
            theirs.append((generated, scored))
            print(row, flush=True)
        ours = rates[N_THREADS]
        rows = [("generate over the best batch of a peer", ours[0] / (max(theirs)[0] or math.nan), "2"),
                ("generate over one by one", ours[0] / alone, "8"),
                ("score over transformers", ours[1] / (max(score for _, score in theirs) or math.nan), "1.5"),
                (f"score, {N_THREADS} workers over {N_THREADS} times one", ours[1] / N_THREADS / rates[1][1], "0.8"),
                ("seconds until the workers work", ready, "below 4")]
        print("\n| | | reach |\n|---|---|---|")
        for what, value, reach in rows:
            print(f"| {what} | {value:.2f} | {reach} |")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
