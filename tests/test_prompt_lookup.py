"""Prompt lookup: what it guesses, and that it changes the speed but no token."""
import numpy as np
import pytest
from helpers import random_model

import gpt2 as program
from generation.prompt_lookup import accepted, look_up, to_bytes


@pytest.mark.parametrize("history, n_match, guess", [
    ("abcdXabcd", 4, "Xabcd"), ("abcdXabcd", 3, "Xabcd"), ("abcd", 2, ""), ("aaaaa", 2, "aaaaa"),
    ("ababab", 4, "ababa"), ("abcd", 4, ""), ("abcd", 9, ""), ("a", 1, ""), ("xyaxybxy", 2, "bxybx"),
])
def test_look_up(history, n_match, guess):
    assert "".join(map(chr, look_up(to_bytes(list(map(ord, history))), n_match, 5))) == guess


def test_a_match_across_two_ids_does_not_count():
    shifted = 0x0403 << 16  # its bytes, 0 0 3 4, hold 3 4 0 0 when 0 0 follow
    assert look_up(to_bytes([shifted, 0, 7, 0x0403]), 1, 1) == []
    assert look_up(to_bytes([0x0403, 9, shifted, 0, 7, 0x0403]), 1, 1) == [9]


def logits(*best, n_vocab=9):
    """Rows of logits, of which each has its largest at one of `best`."""
    return np.eye(n_vocab, dtype=np.float32)[list(best)]


@pytest.mark.parametrize("guess, rows, new_ids", [
    ([], logits(4), [4]), ([5, 6], logits(5, 6, 7), [5, 6, 7]), ([5, 6], logits(5, 1, 7), [5, 1]),
    ([5, 6], logits(0, 6, 7), [0]),
    ([5, 6], logits(5, 6, 7) + logits(5, 8, 7), [5]),  # 6 and 8 are equal: a pass over that row alone decides
    ([5, 6], logits(5, 6, 7) + logits(3, 6, 7), []), ([], logits(4) + logits(2), [2]),
])
def test_accepted(guess, rows, new_ids):
    assert accepted(guess, rows, lambda row: int(row.argmax())) == new_ids


PROMPTS = ["ROMEO:", "To be, or not to be", "", "안녕 🤖", "To be, or not to be, that is the question: " * 2]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_lookup_changes_no_id_and_saves_passes(shakespeare, prompt, monkeypatch):
    ids, n_passes, forward = shakespeare.encode(prompt), 0, program.gpt2

    def counted(*arguments, **options):
        nonlocal n_passes
        n_passes += 1
        return forward(*arguments, **options)

    monkeypatch.setattr(program, "gpt2", counted)
    plain = shakespeare.generate(ids, 150, lookup=False)
    assert n_passes == 150
    n_passes = 0
    assert shakespeare.generate(ids, 150) == plain
    assert n_passes < 150
    stop = plain[100]
    assert shakespeare.generate(ids, 150, stop_id=stop) == plain[: plain.index(stop)]


def test_lookup_changes_no_id_in_exact_ties():
    model = random_model(n_vocab=64, n_ctx=128)
    model.params["wte"][32:] = model.params["wte"][:32]  # each token has a twin with the same logit
    model.params["wpe"][:] = 0  # it soon goes round in circles, so that there is much to guess
    rng = np.random.default_rng(0)
    for n_prompt in (3, 8, 20) * 6:
        ids = rng.integers(0, 64, n_prompt).tolist()
        assert model.generate(ids, 60) == model.generate(ids, 60, lookup=False)


def test_sampling_and_hooks_do_not_guess(shakespeare, monkeypatch):
    monkeypatch.setattr("generation.prompt_lookup.look_up",
                        lambda history, n_match, n_guess: pytest.fail() if n_guess else [])
    shakespeare.generate([5] * 9, 5, temperature=1)
    shakespeare.generate([5] * 9, 5, hook=lambda name, x: None)
