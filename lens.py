"""Look inside GPT-2: the questions people ask of a language model, in a notebook and from the terminal.

Each question is a function. It takes a text (or token ids) and `model`, what `load_encoder_hparams_and_params` returns;
it returns a small named tuple of NumPy arrays, which its partner `plot_...` draws and the command of its name prints.

    from lens import next_tokens, plot_next_tokens
    from utils import load_encoder_hparams_and_params
    model = load_encoder_hparams_and_params("shakespeare", "models")  # (encoder, hparams, params)
    plot_next_tokens(next_tokens("ROMEO:\\nO, she doth teach the torches to burn", model))

    python lens.py next_tokens "The cat sat on the" --k 5 --out next.png

`attribution`, `ablation`, `patching` and `induction` ask which part of the model did it. They combine hooks that are
here for your own questions, too: `record`, `zero`, `mean`, `patch`, `compose`, and `sweep` over many interventions.

Functions that run the model also take a `hook`, `gpt2.gpt2`'s: they answer for the model with what it replaces (a head
without output, an activation from another text).

In named tuples, tables and plots a token is a *piece*: its text with what is invisible made visible. A space is "·", a
newline "↵", a tab "⇥"; a byte that is not a whole character by itself is "<0xEC>", a control character "<U+0007>".

Each question is a file in the folder `inside`: its named tuple, function, table, plot and command.
"""
if __name__ == "__main__":
    from cli.startup import guard_imports

    guard_imports()  # Ctrl-C or a missing package ends the program without a traceback

from collections.abc import Callable

from cli.terminal import run_command_line
from generation.hooks import hook_names
from inside.ablation import Ablation, ablation, plot_ablation, show_ablation
from inside.attention import Attention, attention, plot_attention, show_attention
from inside.attribution import Attribution, attribution, plot_attribution, show_attribution
from inside.attribution_patching import attribution_patching, show_attribution_patching
from inside.circuits import Circuits, circuits, plot_circuits, show_circuits
from inside.detect_heads import HeadScores, detect_heads, plot_detect_heads, show_detect_heads
from inside.gradients import gradients
from inside.induction import Induction, induction, plot_induction, show_induction
from inside.interventions import Intervention, compose, mean, patch, record, sweep, zero
from inside.logit_lens import LogitLens, logit_lens, plot_logit_lens, show_logit_lens, unembed
from inside.neighbours import Neighbours, neighbours, plot_neighbours, show_neighbours
from inside.next_tokens import NextTokens, next_tokens, plot_next_tokens, show_next_tokens
from inside.page import Page, page, show_page
from inside.parameters import Parameters, parameters, plot_parameters, show_parameters
from inside.patching import Patching, patching, plot_patching, show_patching
from inside.path_patching import path_patching, show_path_patching
from inside.saliency import Saliency, plot_saliency, saliency, show_saliency
from inside.score import Score, plot_score, score, show_score
from inside.serve import show_serve
from inside.tokens import Tokens, plot_tokens, show_tokens, tokens, visible

__all__ = [  # what a notebook imports from here
    "Ablation", "ablation", "Attention", "attention", "Attribution", "attribution", "attribution_patching",
    "Circuits", "circuits", "compose", "detect_heads", "gradients", "HeadScores", "hook_names", "Induction",
    "induction", "Intervention", "logit_lens", "LogitLens", "mean", "Neighbours", "neighbours", "next_tokens",
    "NextTokens", "Page", "page", "Parameters", "parameters", "patch", "Patching", "patching", "path_patching",
    "plot_ablation", "plot_attention", "plot_attribution", "plot_circuits", "plot_detect_heads", "plot_induction",
    "plot_logit_lens", "plot_neighbours", "plot_next_tokens", "plot_parameters", "plot_patching", "plot_saliency",
    "plot_score", "plot_tokens", "record", "Saliency", "saliency", "Score", "score", "sweep", "Tokens", "tokens",
    "unembed", "visible", "zero",
]

COMMANDS: dict[str, Callable[..., object]] = {
    "next_tokens": show_next_tokens,
    "score": show_score,
    "attention": show_attention,
    "logit_lens": show_logit_lens,
    "attribution": show_attribution,
    "saliency": show_saliency,
    "ablation": show_ablation,
    "patching": show_patching,
    "attribution_patching": show_attribution_patching,
    "path_patching": show_path_patching,
    "induction": show_induction,
    "detect_heads": show_detect_heads,
    "circuits": show_circuits,
    "page": show_page,
    "serve": show_serve,
    "tokens": show_tokens,
    "neighbours": show_neighbours,
    "parameters": show_parameters,
}

SHORT = {"m": "model_size", "o": "out", "l": "layer", "t": "temperature"}

if __name__ == "__main__":
    run_command_line(COMMANDS, short=SHORT)
