"""Write hugging-face/: two small random models as transformers saves them, and what transformers makes of them.

    pip install torch "transformers==5.24" && python tests/data/make_hugging_face.py

`plain` is as simple as such a folder gets: float32, one file, vocab.json and merges.txt. `odd` has what fine-tuned
models have: bfloat16 in shards, tokenizer.json alone, added tokens of every kind, a padded vocabulary, a feed-forward
network of another width, its own first and last token. `files` are what older versions of transformers kept added
tokens in, beside the vocabulary of `plain`. The vocabulary is the beginning of the bundled model's.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AddedToken, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from encoder import END_OF_TEXT, bytes_to_unicode  # noqa: E402

FOLDER = HERE / "hugging-face"
N_MERGES = 43
TEXTS = [
    "", " ", "the end", "  two  spaces ", "\n\n\t", "I'll say: 'tis 1999!", "안녕 $x$ 🤖", "naïve\u00a0café\u2028",
    "a\r\n", "<|endoftext|>", "the<|endoftext|>end", "<|endoftext", "[PAD]", "[PAD] the [PAD]",
    "<|startoftext|>Once<|im_end|>",
    "a  <left>  b", "a <right>  b", "a <both> <both> b", "word", "a word, words, sword, word_", "[PAD]]", "[PA[PAD]D]",
    " <left><right> \n[PAD]", "tïtle Ünï", "ab abc abcd", "\x1c<left>\x1c", "\u3000<both>\u3000", "the the the",
    "new words: new  words", "<|im_end|><|im_end|>", " word word", "éword",
]
ADDED = [
    AddedToken("<|startoftext|>", special=True), AddedToken("<|im_end|>", special=True),
    AddedToken("[PAD]", special=True), AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True),
    AddedToken("<both>", lstrip=True, rstrip=True), AddedToken("word", single_word=True), AddedToken("new words"),
    AddedToken("abc"), AddedToken("ab", normalized=False), AddedToken("tïtle", special=True),
]
FILES = {
    "added_tokens.json": {"added_tokens.json": {"[PAD]": 301, "word": 300},
                          "special_tokens_map.json": {
                              "pad_token": "[PAD]", "bos_token": "<|startoftext|>",
                              "eos_token": {"content": "<left>", "lstrip": True, "rstrip": False, "normalized": True,
                                            "single_word": False}},
                          "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}},
    "added_tokens_decoder": {"tokenizer_config.json": {
        "tokenizer_class": "GPT2Tokenizer", "pad_token": "[PAD]", "additional_special_tokens": ["<|im_end|>"],
        "added_tokens_decoder": {
            "300": {"content": "<both>", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False,
                    "special": False},
            "301": {"content": "[PAD]", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
                    "special": True}}}},
    "roles": {"tokenizer_config.json": {"pad_token": "[PAD]", "bos_token": "<|startoftext|>", "unk_token": "the"}},
}


def vocabulary():
    lines = (HERE.parent.parent / "models" / "shakespeare" / "vocab.bpe").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines[1 : 1 + N_MERGES]]
    tokens = [*bytes_to_unicode().values(), *(left + right for left, right in merges), END_OF_TEXT]
    return {token: i for i, token in enumerate(tokens)}, merges


def model(**config):
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=8, n_layer=2, n_head=2, **config)).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1 if ".ln_" in name and name.endswith("weight") else 0, 0.4)
    return model


@torch.no_grad()
def answers(folder):
    """What transformers makes of the files: ids of texts, texts of ids, logits, greedy ids."""
    tokenizer = GPT2Tokenizer.from_pretrained(folder)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    n_vocab = model.config.vocab_size
    ids = np.random.default_rng(0).integers(0, n_vocab, 12).tolist()
    prompts = [ids[:5], [7], ids[5:]]
    greedy = [model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=16,
                             do_sample=False, pad_token_id=0)[0, len(prompt):].tolist() for prompt in prompts]
    return {"ids": [tokenizer.encode(text) for text in TEXTS],
            "decoded": {i: tokenizer.decode([i]) for i in range(256, n_vocab)},
            "inputs": ids, "logits": np.round(model(torch.tensor([ids])).logits[0, 5:9].double().numpy(), 5).tolist(),
            "prompts": prompts, "greedy": greedy}


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    tokens, merges = vocabulary()
    tokenizer = GPT2Tokenizer(vocab=tokens, merges=merges)
    eot = tokens[END_OF_TEXT]
    model(vocab_size=len(tokens), bos_token_id=eot, eos_token_id=eot).save_pretrained(FOLDER / "plain")
    (FOLDER / "plain" / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    (FOLDER / "plain" / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
                                                 encoding="utf-8")

    tokenizer.add_tokens(ADDED)
    tokenizer.save_pretrained(FOLDER / "odd")
    begin, end = tokenizer.convert_tokens_to_ids(["<|startoftext|>", "<|im_end|>"])
    odd = model(vocab_size=320, n_inner=20, bos_token_id=begin, eos_token_id=end)
    odd.to(torch.bfloat16).save_pretrained(FOLDER / "odd", max_shard_size="6KB")

    expected = {"texts": TEXTS, "files": {}} | {name: answers(FOLDER / name) for name in ("plain", "odd")}
    for name, files in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            for file in ("vocab.json", "merges.txt", "config.json"):
                shutil.copy(FOLDER / "plain" / file, folder)
            for file, content in files.items():
                (Path(folder) / file).write_text(json.dumps(content))
            tokenizer = GPT2Tokenizer.from_pretrained(folder)
            expected["files"][name] = {"files": files, "ids": [tokenizer.encode(text) for text in TEXTS]}
    (FOLDER / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


if __name__ == "__main__":
    main()
