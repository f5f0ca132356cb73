"""The tokenizer's speed, beside tiktoken's and that of the algorithm as it was published."""
import json
import random
import statistics
from pathlib import Path

from measure import seconds_of
from random_model import official_vocabulary
from report import Table


def mixed_text(n_bytes):
    """English, code, numbers, and what is not ASCII, in turn: from Python's own files, so that everyone has it."""
    import argparse
    import inspect
    import pydoc_data.topics
    import typing

    parts = [Path(pydoc_data.topics.__file__).read_text(encoding="utf-8")]
    parts += [Path(module.__file__).read_text(encoding="utf-8") for module in (argparse, inspect, typing)]
    parts.append("안녕하세요. 오늘 날씨가 참 좋네요. naïve café — “quotes” 🤖👩‍💻 東京 1,234.56\t\n   ü" * 800)
    pieces = [part[i : i + 3000] for i in range(0, 60_000, 3000) for part in parts]
    text = "".join(pieces)
    return (text * (n_bytes // len(text.encode()) + 1))[:n_bytes]


def unrepeated_text():
    """1.5 MB of English and code in which nothing comes twice but what people write twice: (one half, the other)."""
    import pydoc_data.topics

    parts = [*pydoc_data.topics.topics.values()]
    parts += [path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parents[1].glob("*.py"))]
    random.Random(0).shuffle(parts)
    text = "".join(parts)[:1_500_000]
    return text[: len(text) // 2], text[len(text) // 2 :]


class RescanningEncoder:
    """Byte-pair encoding as it was first published for GPT-2: every merge looks at all pairs of the word again."""

    def __init__(self, vocabulary, merges):
        import regex

        from encoder import bytes_to_unicode

        self.vocabulary, self.ranks, self.cache = vocabulary, {pair: i for i, pair in enumerate(merges)}, {}
        self.characters = bytes_to_unicode()
        self.pattern = regex.compile(
            r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")

    def merged(self, word):
        if word in self.cache:
            return self.cache[word]
        parts = tuple(word)
        while len(parts) > 1:
            best = min(set(zip(parts, parts[1:])), key=lambda pair: self.ranks.get(pair, float("inf")))
            if best not in self.ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                if parts[i : i + 2] == best:
                    joined.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    joined.append(parts[i])
                    i += 1
            parts = tuple(joined)
        self.cache[word] = parts
        return parts

    def encode(self, text):
        ids = []
        for piece in self.pattern.findall(text):
            word = "".join(self.characters[byte] for byte in piece.encode("utf-8"))
            ids.extend(self.vocabulary[part] for part in self.merged(word))
        return ids


def tokenizer(folder, quick):
    """Encoder.encode against tiktoken and the algorithm as it was published."""
    from encoder import get_encoder

    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    merges = [tuple(line.split(" ")) for line in lines if line]
    text = mixed_text(200_000 if quick else 1_500_000)
    megabytes = len(text.encode()) / 1e6
    encoder = get_encoder(folder.name, folder.parent)
    table = Table("Tokenizer", f"{megabytes:.1f} MB of mixed text", "", "target")
    first, theirs = [], []
    for _ in range(1 if quick else 5):
        fresh, published = get_encoder(folder.name, folder.parent), RescanningEncoder(vocabulary, merges)
        seconds, ids = seconds_of(fresh.encode, text)
        first.append(seconds)
        seconds, published_ids = seconds_of(published.encode, text)
        theirs.append(seconds)
        if ids != published_ids:
            raise RuntimeError("the encoders do not agree")
    table.row("first pass over new text", f"{megabytes / statistics.median(first):.1f} MB/s: "
              f"{statistics.median(b / a for a, b in zip(first, theirs)):.2f} times the published algorithm", "4")
    encoder.encode(text)
    try:
        import tiktoken

        pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
        peer = tiktoken.Encoding("gpt2", pat_str=pattern,
                                 mergeable_ranks={encoder.token_bytes(i): i for i in range(encoder.n_vocab - 1)},
                                 special_tokens={"<|endoftext|>": encoder.n_vocab - 1})
    except ImportError:
        peer = None
        table.row("warm", "tiktoken is not installed", "1.0")
    if peer:
        def row(name, target, text, encoders):
            pairs = []
            for encoder in encoders:
                ours, ids = seconds_of(encoder.encode, text)
                rust, rust_ids = seconds_of(peer.encode_ordinary, text)
                pairs.append((ours, rust))
                if ids != rust_ids:
                    raise RuntimeError("tiktoken gives other ids")
            speed = len(text.encode()) / 1e6 / statistics.median(a for a, _ in pairs)
            table.row(name, f"{speed:.1f} MB/s: {statistics.median(b / a for a, b in pairs):.2f} of tiktoken's (Rust, "
                      "one thread)", target)

        row("warm: the same text again", "1.0", text, [encoder] * (2 if quick else 15))
        known, unknown = unrepeated_text()
        encoders = [get_encoder(folder.name, folder.parent) for _ in range(2 if quick else 5)]
        row("first pass over 0.75 MB in which nothing is repeated on purpose", "", known, encoders)
        row("the next 0.75 MB of such text", "", unknown, encoders)
    for n in (5000, 10_000) if quick else (50_000, 100_000, 200_000):
        word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=n))
        seconds, _ = seconds_of(encoder.encode, word)
        table.row(f"one word of {n:,} random letters", f"{seconds:.2f} s", "seconds, linear")
    table.note("The vocabulary is " + ("OpenAI's." if official_vocabulary() else "made up: OpenAI's was not at hand."))
    return [table]
