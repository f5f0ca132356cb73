"""How long until a change is on the screen? The live page (`lens.py serve`) in Chromium, with random weights.

    python benchmarks/live_page.py [124M] [20] [15]        # the size, the number of tokens, the rounds

A change is a letter more, or two parts out. Its time goes from the event to the frame that shows it: it holds the
request, all passes, and what the browser draws. A plain pass over the text is measured in between, because other
programs may share the machine. Needs selenium, Chromium and chromedriver.
"""
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.random_model import HPARAMS, random_params, write_vocabulary  # noqa: E402
from encoder import get_encoder  # noqa: E402
from gpt2 import gpt2  # noqa: E402
from inside.explore import Explorer  # noqa: E402
from inside.server import Server  # noqa: E402

TARGET = 0.3  # seconds with the 124M and 20 tokens on two cores
WORDS = "When the lamp was lit, the old captain read the letter again and gave it to the boy who had brought it. " * 40
CHANGE = """const [fields, done] = arguments, start = performance.now();
if (fields.text !== undefined) {
  byId("text").value = fields.text;
  byId("text").dispatchEvent(new Event("input"));
} else change(fields);
const shown = () => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
(function wait() { asking ? setTimeout(wait, 1) : shown(); })();"""


def browser():
    from selenium import webdriver

    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(paths.values()):
        sys.exit("error: there is no Chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(paths["chromedriver"]))


def main(size="124M", n_tokens="20", n_rounds="15"):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model").mkdir()
        write_vocabulary(Path(folder) / "model", HPARAMS[size]["n_vocab"])
        encoder = get_encoder("model", folder)
    start = next(i for i in range(len(WORDS)) if len(encoder.encode(WORDS[:i])) == int(n_tokens) - 2)
    texts = [WORDS[: start + i] for i in range(1, int(n_rounds) + 1)]  # a letter more each time
    n_head, params = HPARAMS[size]["n_head"], random_params(HPARAMS[size])
    explorer = Explorer((encoder, HPARAMS[size], params))
    with Server(explorer, WORDS[:start], port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver = browser()
        driver.get(server.address)
        passes = []

        def seconds(fields):
            start = time.perf_counter()
            gpt2(encoder.encode(texts[-1]), **params, n_head=n_head)
            passes.append(time.perf_counter() - start)
            return driver.execute_async_script(CHANGE, fields) / 1000

        for view in ("next", "attention", "layers"):
            seconds({"view": view, "text": WORDS[:start]})
            passes.clear()
            typed = [seconds({"text": text}) for text in texts]
            out = [seconds({"out": [part, part + n_head]}) for part in range(1, int(n_rounds) + 1)]
            seconds({"out": []})
            for what, times in (("a letter more", typed), ("two parts out", out)):
                median = statistics.median(times)
                print(f"{view}, {what}: {median:.3f} s ({min(times):.3f} to {max(times):.3f}), {median / TARGET:.2f} "
                      f"of {TARGET} s; a plain pass {statistics.median(passes):.3f} s", flush=True)
        driver.quit()
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
