"""What gpt2.py prints: for each prompt its continuations, as text or as JSON."""
from collections.abc import Callable, Iterable

from cli import text_in, text_out
from cli.terminal import argument_errors, notice
from generation.checks import check_whole
from generation.sampling import Sampling
from utils import Model


@argument_errors()
def check_options(temperature: float, top_k: int | None, top_p: float | None, seed: int | None,
                  n_tokens_to_generate: int, n_samples: int, stop: str | None, echo: bool = False, json: bool = False
                  ) -> None:
    """CommandLineError unless the options fit each other, as far as that is known without the model."""
    Sampling(temperature, top_k, top_p, seed)  # which checks them
    check_whole("n_tokens_to_generate", n_tokens_to_generate, 1)
    check_whole("n_samples", n_samples, 1)
    if stop == "":
        raise ValueError("stop is empty: give the text to stop at")
    if json and echo:
        raise ValueError("echo makes no difference with json: each line contains its prompt")
    idle = {"top_k": top_k, "top_p": top_p, "seed": seed, "n_samples": n_samples if n_samples > 1 else None}
    for name, value in idle.items():
        if temperature == 0 and value is not None:
            raise ValueError(f"{name} = {value} makes no difference at temperature 0, which takes the most likely "
                             "token each time: give a --temperature above 0, for instance 0.8")


def print_continuations(new_ids: Callable[[str, int | None], Iterable[int]], model: Model, prompt: str | None,
                        seed: int | None, n_samples: int, stop: str | None, echo: bool, json: bool) -> None:
    """Print the continuations of a prompt, or of each one that is typed at the keyboard, as their tokens come.

    Args:
        new_ids: function of (prompt, seed) that returns the ids of a continuation.
        prompt: str; None reads it from stdin, or asks for one after the other.
        seed, n_samples, stop, echo, json: as in `gpt2.main`.

    Raises:
        CommandLineError: a prompt does not fit into the context.
    """

    def answer(prompt: str) -> None:
        stopwatch = text_out.Stopwatch()
        for i in range(n_samples):
            sample_seed = None if seed is None else seed + i
            with argument_errors():  # the prompt may not fit into the context
                ids = new_ids(prompt, sample_seed)
            pieces = text_out.until(model.encoder.decode_stream(stopwatch(ids)), stop and text_in.unescape(stop))
            if json:
                text_out.print_json(prompt=prompt, continuation="".join(pieces), seed=sample_seed)
            else:
                text_out.print_text(pieces, before=prompt if echo else "", number=i + 1 if n_samples > 1 else None)
        notice(stopwatch)

    text_in.for_each_prompt(answer, prompt, max_bytes=model.hparams["n_ctx"] * model.encoder.max_token_bytes)
