"""How fast are many texts, next to the batches of the engines that people would pick instead?

    pip install -r benchmarks/requirements.txt -r many_texts/requirements.txt
    python benchmarks/many_texts.py            # a quarter of an hour; prints the tables of docs/many-texts.md
    python benchmarks/many_texts.py --quick    # seconds, a tiny model: does everything still run?

All engines run the same random weights of the 124M's shapes in float32 on all cores, one after the other. The peers pad
texts of one batch to the same length, so each gets its texts sorted by length and its best batch size. batch.py is run
as its users run it, as a whole process; its rates are those after the start of its workers, which has its own row.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engines import CORES, ROOT, CTranslate2, Transformers, Worker  # noqa: E402
from random_model import HPARAMS, make_random_model  # noqa: E402

N_NEW, N_THREADS = 32, len(CORES)


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


def rate(function, n_tokens, *arguments):
    """Tokens per second of a call."""
    start = time.perf_counter()
    function(*arguments)
    return n_tokens / (time.perf_counter() - start)


def batch(folder, command, texts, n_workers, *options):
    """Run batch.py: (tokens per second once the workers work, seconds until then)."""
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
        return n_tokens / (total - ready), ready


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
        model = "tiny" if quick else "124M"
        folder = Path(os.environ.get("MODEL_FOLDER") or Path(temporary) / f"random-{model}")
        make_random_model(model, folder)
        encoder = get_encoder(folder.name, folder.parent)
        rng = np.random.default_rng(1)
        longest = HPARAMS[model]["n_ctx"] * 9 // 10 - 20
        prompts, prompt_ids = random_texts(encoder, rng.integers(10, 30, 16 if quick else 256))
        texts, text_ids = random_texts(encoder, rng.integers(5, longest, 16 if quick else 500))
        # Peers get the texts of one length together: that pads least. They predict the first token from nothing, too.
        prompt_ids = sorted(prompt_ids, key=len, reverse=True)
        text_ids = sorted(([encoder.eot_token, *ids] for ids in text_ids), key=len, reverse=True)
        n_new, n_scored = N_NEW * len(prompts), sum(map(len, text_ids)) - len(texts)
        print(f"{len(prompts)} prompts of 10 to 29 tokens, {N_NEW} new ones; {len(texts)} texts of 5 to {longest - 1} "
              f"tokens; {N_THREADS} cores; tokens per second, by round")

        ours, peers = "batch.py", {}
        for engine in (BatchesOfCTranslate2, BatchesOfTransformers):
            missing = Worker.missing(engine.__base__.__name__)
            if missing:
                print(f"{engine.name} is left out: {', '.join(missing)} not installed")
            else:
                peers[engine.name] = engine(folder)
        generated, scored, starts = {}, {}, []
        sizes = (8,) if quick else (32, 64, 128)
        best = {name: max(sizes, key=lambda size: rate(peer.generate, 1, prompt_ids[::2], N_NEW, size))
                for name, peer in peers.items()}
        for _ in range(1 if quick else 3):
            speed, ready = batch(folder, "generate", prompts, N_THREADS, "-n", N_NEW)
            note(generated, ours, speed)
            starts.append(ready)
            for name, peer in peers.items():
                note(generated, name, rate(peer.generate, n_new, prompt_ids, N_NEW, best[name]))
            some = prompt_ids[:: max(1, len(prompts) // 16)]
            note(generated, "generate, one by one", one_by_one(folder, some, N_NEW))
        scorers = {name: peer for name, peer in peers.items() if hasattr(peer, "score")}
        sample = text_ids[:: max(1, len(texts) // 50)]
        best_size = {name: max((1, 2, 4, 8), key=lambda size: rate(peer.score, 1, sample, size))
                         for name, peer in scorers.items()}
        for _ in range(1 if quick else 2):
            for n_workers in (1, N_THREADS):  # each worker has the same share
                speed, ready = batch(folder, "score", texts[:: N_THREADS // n_workers], n_workers)
                note(scored, f"{ours}, {n_workers} workers", speed)
                starts.append(ready)
            for name, peer in scorers.items():
                note(scored, name, rate(peer.score, n_scored, text_ids, best_size[name]))

        print("\n| tokens/s | generate | score |\n|---|---|---|")
        for name in generated:
            of_score = scored.get(f"{ours}, {N_THREADS} workers" if name == ours else name)
            print(f"| {name} | {statistics.median(generated[name]):,.0f} | "
                  + (f"{statistics.median(of_score):,.0f} |" if of_score else "|"))
        ratio = lambda rates, a, b: statistics.median(x / y for x, y in zip(rates[a], rates[b]))
        all_workers, one_worker = f"{ours}, {N_THREADS} workers", f"{ours}, 1 workers"
        print("\n| | | target |\n|---|---|---|")
        for name in peers:
            print(f"| generate, over {name} in batches of {best[name]} | {ratio(generated, ours, name):.2f} | 2 |")
        print(f"| generate, over one by one | {ratio(generated, ours, 'generate, one by one'):.2f} | 8 |")
        for name in scorers:
            print(f"| score, over {name} in batches of {best_size[name]} | "
                  f"{ratio(scored, all_workers, name):.2f} | 1.5 |")
        print(f"| score, {N_THREADS} workers over {N_THREADS} times one | "
              f"{ratio(scored, all_workers, one_worker) / N_THREADS:.2f} | 0.8 |")
        print(f"| seconds until the workers work | {statistics.median(starts):.1f} | below 4 |")


def note(rates, name, value):
    rates.setdefault(name, []).append(value)
    print(f"    {name}: {value:,.0f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
