"""Can I see it all on one page, and touch it?"""
import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.arguments import CommandLineError
from cli.terminal import argument_errors, notice
from generation.checks import check_whole
from generation.hooks import Hook
from inside.command import check_out, read_text
from inside.model import check_model
from inside.page_data import whole_page
from inside.tokens import tokens
from many_texts.tables import whole_file
from utils import Model, load_encoder_hparams_and_params

BROWSER = Path(__file__).with_name("browser")  # the template, its style and its scripts
SCRIPTS = ("data", "elements", "colours", "tokens", "next", "attention", "weight", "layers", "patching", "live",
           "start")


@dataclass(frozen=True)
class Page:
    """A page about a text: its title, and its HTML (str). A notebook shows it inline."""

    title: str
    html: str = field(repr=False)

    def save(self, path: str | Path):
        """Write the page to a file, which any browser opens from disk. The file appears when it is whole."""
        with whole_file(path) as file:
            file.write(self.html.encode("utf-8"))

    def _repr_html_(self):
        # A frame keeps the page's style and the notebook's apart; the sandbox keeps its script away from the notebook.
        return (f'<iframe title="{html.escape(self.title)}" sandbox="allow-scripts" srcdoc="{html.escape(self.html)}" '
                'style="width: 100%; height: 800px; border: 1px solid #8888"></iframe>')


def page(text: str | Sequence[int], model: Model, k: int = 10, hook: Hook | None = None) -> Page:
    """A page to explore a text: attention of every head, surprisal, logit lens, next token at any temperature and
    without any head or feed-forward network.

    It is one file that needs no network. All its numbers are those of `attention`, `score`, `logit_lens` and
    `next_tokens`, rounded: attention to 0.1%, the logit lens to 0.01%, logits to 6 decimals. Each part is taken out
    once (`zero`), so the page takes about as long as n_layer * (n_head + 1) / 2 passes over the text.

    Args:
        text, model: as in `tokens`.
        k: how many tokens to list as the likeliest, 1 to 50.
        hook: as in `gpt2.gpt2`, in all passes; the surprisals are those of `score`, where <|endoftext|> comes first.

    Returns:
        Page.

    Raises:
        TypeError, ValueError: an argument is not as described, the text is too long for a page, or the model's numbers
            are not finite.

    >>> page("The king and the queen", model)
    Page(title='shakespeare: “The king and the queen”')
    """
    check_whole("k", k, 1, min(50, check_model(model)[1]["n_vocab"]), "more would make the page too large")
    return page_of(whole_page(tokens(text, model).ids.tolist(), model, k, hook))


def page_of(data: dict) -> Page:
    """The page that shows `data`: the template with the data, the style and the scripts in it."""
    title = f"{data['model']}: {data['quote']}".encode("utf-8", "backslashreplace").decode()  # a folder may be no UTF-8
    style = _read("page.css")
    scripts = [_read(f"{name}.js") for name in SCRIPTS]
    values = {
        "title": html.escape(title),
        "policy": _policy(style, scripts, connect=data["live"]),
        "style": f"<style>{style}</style>",
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
        "data": as_json(data),
    }
    filled = re.sub(r"\{\{(\w+)\}\}", lambda name: values[name[1]], _read("page.html"))  # values are not filled again
    return Page(title, filled)


def as_json(data: dict) -> str:
    """JSON that cannot end the script element around it, and that any encoding holds.

    Raises:
        ValueError: a number is infinite or nan.
    """
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    try:
        lines = [f"{encode(name)}:{encode(value)}" for name, value in data.items()]
    except ValueError:
        raise ValueError("some of the model's numbers are infinite or nan, which a page cannot show: check the hook "
                         "and the weights") from None
    # Within a script element "<" could end it; within a JSON string \u003c means the same and cannot.
    text = "{\n" + ",\n".join(lines).replace("<", "\\u003c") + "\n}"
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate becomes \udc80, which JSON reads


def _read(name):
    return (BROWSER / name).read_text(encoding="utf-8")


def _policy(style, scripts, connect):
    """The page's Content-Security-Policy: no script or style but its own, and no connection but, live, to the server
    that it came from."""
    sha256 = lambda code: f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
    return (f"default-src 'none'; script-src {' '.join(map(sha256, scripts))}; style-src {sha256(style)}; "
            + ("connect-src 'self'; " if connect else "") + "base-uri 'none'; form-action 'none'")


def show_page(text: str | None = None, k: int = 10, *, out: str = "page.html", overwrite: bool = False,
              model_size: str | None = None, models_dir: str | None = None) -> None:
    """Write a page to explore a text: one file, which any browser opens from disk.

    Args:
        k: how many tokens to list as the likeliest, 1 to 50.
        out: the file to write, .html.
    """
    check_out(out, "page")
    if os.path.lexists(out) and not overwrite:
        raise CommandLineError(f"{out} exists already: give another name with --out, or --overwrite to replace it")
    model = load_encoder_hparams_and_params(model_size, models_dir)
    text = read_text(text, model)
    with argument_errors():
        result = page(text, model, k)
    result.save(out)
    notice(f"the page is in {out} ({Path(out).stat().st_size / 1e6:.2f} MB): open it in a browser")
