"""Fixtures: the models at hand, TensorFlow's GPT-2 to compare with, the program as a process."""
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import DATA, MODELS, ROOT

import lens
from cli import terminal
from utils import Model, load_encoder_hparams_and_params, load_hparams, load_params

collect_ignore_glob = ["data/*"]  # scripts that make reference data, with packages of their own

# No test finds what is in this machine's Hugging Face cache, puts something there, or asks the real Hub: nor do the
# processes that tests start. huggingface_hub reads these when it is imported.
os.environ |= {"HF_HUB_CACHE": str(ROOT / "tests" / "no-cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}

# A shell lets jobs in the background ignore Ctrl-C, and the programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The small random checkpoint with logits and greedy ids from OpenAI's original TensorFlow graph."""
    folder = shutil.copytree(DATA / "openai-tiny", tmp_path_factory.mktemp("models") / "openai-tiny")
    hparams = load_hparams(folder)
    with np.load(folder / "expected.npz") as arrays:
        return Model(None, hparams, load_params(folder, hparams)), dict(arrays)


@pytest.fixture(scope="session")
def shakespeare():
    """The bundled model."""
    return load_encoder_hparams_and_params("shakespeare", MODELS)


@pytest.fixture(scope="session")
def tensorflow():
    """TensorFlow. Tests that compare with it are skipped where it is not, as on the newest Pythons."""
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="session")
def tf_gpt2(tensorflow):
    """GPT-2 written with TensorFlow's operations: a function (folder of a checkpoint, ids) -> dict of intermediates."""
    from tf_reference import tf_gpt2

    return tf_gpt2


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A Chromium without a window, driven by Selenium; tests/browser.py asks it."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if not browser or not chromedriver:
        pytest.skip("there is no Chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--disable-sync", "--no-first-run", "--disable-component-update", "--disable-dev-shm-usage",
                     f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


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


@pytest.fixture
def lens_py(capsys, monkeypatch):
    """lens.py's command line within this process, which saves starting one: lens_py("tokens", "x") -> as `run` has."""
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it

    def start(*arguments):
        with pytest.raises(SystemExit) as end:
            terminal.run_command_line(lens.COMMANDS, list(arguments), lens.SHORT)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, end.value.code, captured.out, captured.err)

    return start


@pytest.fixture
def server(monkeypatch):
    """A server of a made-up model, from which this process downloads."""
    from file_server import contents, serve

    with serve(monkeypatch, contents()) as server:
        yield server
