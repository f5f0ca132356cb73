"""What the tests share: the models at hand, TensorFlow's GPT-2 to compare with, and the program as a process."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import load_encoder_hparams_and_params, load_hparams, load_params

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
MODELS = ROOT / "models"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The small random checkpoint of which OpenAI's original TensorFlow graph computed logits and greedy ids."""
    folder = shutil.copytree(DATA / "openai-tiny", tmp_path_factory.mktemp("models") / "openai-tiny")
    hparams = load_hparams(folder)
    with np.load(folder / "expected.npz") as arrays:
        return hparams, load_params(folder, hparams), dict(arrays)


@pytest.fixture(scope="session")
def shakespeare():
    """The bundled model: (encoder, hparams, params)."""
    return load_encoder_hparams_and_params("shakespeare", MODELS)


@pytest.fixture(scope="session")
def tf_gpt2():
    """GPT-2 written with TensorFlow's operations: a function (folder of a checkpoint, ids) -> dict of intermediates."""
    from tf_reference import tf_gpt2

    return tf_gpt2


@pytest.fixture
def run():
    """Run the program as a real process: run("prompt", "--seed", "1") -> CompletedProcess with text output.

    Nothing is downloaded: the server's address is one that refuses at once.
    """
    def run(*arguments, program="gpt2.py", env=None, text=True, **options):
        env = {**os.environ, "GPT2_BASE_URL": "http://127.0.0.1:9/models", **(env or {})}
        options = {"cwd": ROOT, "capture_output": True, "timeout": 100, **options}
        if "stdin" not in options and "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        if text:
            options["encoding"] = "utf-8"
        return subprocess.run([sys.executable, str(ROOT / program), *arguments], env=env, **options)

    return run


def official_vocabulary():
    """The folder that holds OpenAI's encoder.json and vocab.bpe, or None: models/124M, or $GPT2_VOCABULARY."""
    for folder in (os.environ.get("GPT2_VOCABULARY"), MODELS / "124M"):
        if folder and all((Path(folder) / name).is_file() for name in ("encoder.json", "vocab.bpe")):
            return Path(folder)
    return None


def read_json(name):
    return json.loads((DATA / name).read_text(encoding="utf-8"))
