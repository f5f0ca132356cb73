"""The page: its numbers are lens.py's, and in a real browser it shows them, reacts, and connects to nothing."""
import json
import math
import sys

import numpy as np
import pytest
from browser import Browser, Element, at_end, data_of, least_contrast
from helpers import BUNDLED, TEXT, Model, error_line, random_model, wait_for

import lens
from gpt2 import softmax
from inside.page import SCRIPTS

MARKUP = "<script>document.title = 'run'</script><b>&amp;</b></script> {{data}} <!-- --> \\u003c"
VIEWS = {"next": "Next token", "attention": "Attention", "layers": "Layers"}
BIDIRECTIONAL = "abc \u202e\u05d0\u05d1 \u2067\u0661 def"  # Hebrew, an Arabic digit, and characters that turn the line
TEXTS = {"markup": MARKUP, "newlines": TEXT, "korean and emoji": "안녕 🤖\t\u2028é", "one token": "O", "empty": "",
         "bidirectional": BIDIRECTIONAL}


class Vocabulary:
    """An encoder whose tokens are bytes with their id in them."""

    def __init__(self, token):
        self.token = token

    def token_bytes(self, i):
        return self.token % i

    def decode(self, ids):
        return b"".join(map(self.token_bytes, ids)).decode()

    def new_text(self):
        return [0]


@pytest.fixture(scope="module")
def page(shakespeare):
    return lens.page(TEXT, shakespeare)


# --- what is in the file ---


def test_attention_is_that_of_the_attention_command(page, shakespeare):
    n = len(lens.tokens(TEXT, shakespeare).ids)
    for layer, heads in enumerate(data_of(page)["attention"]):
        expected = lens.attention(TEXT, shakespeare, layer).pattern
        assert len(heads) == len(expected)
        for head, weights in enumerate(heads):
            np.testing.assert_allclose(np.array(weights) / 1000, expected[head][np.tril_indices(n)], atol=5.1e-4)


def test_surprisal_is_that_of_score(page, shakespeare):
    bits = -lens.score(TEXT, shakespeare).log_probs / math.log(2)
    np.testing.assert_allclose(data_of(page)["surprisal"], bits, atol=1e-3)


def test_the_logit_lens_is_that_of_logit_lens(page, shakespeare):
    data, expected = data_of(page), lens.logit_lens(TEXT, shakespeare, k=10)
    np.testing.assert_array_equal(data["lens"]["ids"], expected.ids)
    np.testing.assert_allclose(data["lens"]["probabilities"], expected.probabilities, atol=5.1e-5)
    assert [data["pieces"][str(i)] for i in expected.ids.ravel()] == expected.predictions.ravel().tolist()


def test_probabilities_without_any_part_are_right_at_any_temperature(page, shakespeare):
    data, ids = data_of(page), shakespeare.encode(TEXT)
    hooks = [None] + [lens.zero(layer, head) if head < 6 else lens.zero(layer, what="mlp_out")
                      for layer in range(6) for head in range(7)]
    for run, hook in zip([data["next"]["20"]["whole"], *data["without"]["runs"]], hooks, strict=True):
        expected = shakespeare.logits(ids, hook=hook, n_logits=1)[0].astype(float)
        top = np.argsort(-expected)[:10]
        logits = np.array([run["logits"][str(i)] for i in top])
        for stop in (0, 7, 18, 38):
            temperature = data["temperatures"][stop]
            probabilities = np.exp(logits / temperature - run["log_sums"][stop])
            np.testing.assert_allclose(probabilities, softmax(expected / temperature)[top],
                                       rtol=2e-5 / min(temperature, 1), atol=1e-12)  # logits, rounded to 2e-5
    assert (data["temperatures"][0], data["temperatures"][-1]) == (0.1, 2)


def test_the_page_answers_for_the_model_with_the_hook(shakespeare):
    hook = lens.zero(1, 5)
    data = data_of(lens.page(TEXT, shakespeare, k=3, hook=hook))
    likeliest = lens.next_tokens(TEXT, shakespeare, 1, hook=hook)
    logits = data["next"]["20"]["whole"]["logits"]
    assert data["pieces"][max(logits, key=logits.get)] == likeliest.pieces[0] == "·S"
    bits = -lens.score(TEXT, shakespeare, hook=hook).log_probs / math.log(2)
    np.testing.assert_allclose(data["surprisal"], bits, atol=1e-3)


def test_text_cannot_become_markup(shakespeare):
    page = lens.page(MARKUP, shakespeare)
    assert "<script>document" not in page.html and "<b>" not in page.html
    assert page.html.count("<script") == page.html.count("</script>") == 1 + len(SCRIPTS)
    assert "".join(data_of(page)["tokens"]).replace("·", " ") == MARKUP


@pytest.mark.slow
def test_30_tokens_of_the_124m_stay_below_2_mb():
    # Random weights spread the probabilities: more different digits than a trained model gives.
    model = random_model(n_layer=12, n_head=12, n_embd=48, n_vocab=50257, n_ctx=1024)
    page = lens.page(list(range(1000, 1030)), Model(Vocabulary(b"token%05d"), *model[1:]))
    assert 200_000 < len(page.html.encode()) < 2_000_000


@pytest.mark.slow
def test_a_text_too_long_for_a_page_is_refused(monkeypatch, shakespeare):
    with pytest.raises(ValueError, match="300 positions exceed the context of 256"):
        lens.page([5] * 300, shakespeare)
    monkeypatch.setattr("inside.page_data.MOST_WEIGHTS", 36 * 20 * 21 // 2 + 10)  # 20 tokens
    with pytest.raises(ValueError, match="the text has 21 tokens, but a page holds at most 20 tokens"):
        lens.page([5] * 21, shakespeare)
    assert len(data_of(lens.page([5] * 20, shakespeare))["tokens"]) == 20


def test_numbers_that_json_does_not_have_are_refused(shakespeare):
    def forbid(name, x):  # the token that comes next: its surprisal becomes infinite
        if name == "logits":
            return np.where(np.arange(x.shape[1]) == 5, -np.inf, x)

    with pytest.raises(ValueError, match="infinite or nan"):
        lens.page([7, 5], shakespeare, hook=forbid)


def test_a_notebook_gets_the_page_in_a_frame_of_its_own(page):
    frame = Element(page._repr_html_(), "iframe").attributes
    assert frame["srcdoc"] == page.html
    assert frame["sandbox"] == "allow-scripts"  # not allow-same-origin: it cannot reach the notebook
    assert repr(page) == f"Page(title={page.title!r})" and "First Citizen" in page.title


@pytest.mark.slow
def test_the_command_writes_the_page(lens_py, tmp_path, shakespeare):
    file = tmp_path / "page.html"
    result = lens_py("page", "O Romeo", "--k", "4", "--out", str(file), *BUNDLED)
    assert result.returncode == 0 and result.stdout == "" and f"{file} (0.0" in result.stderr
    assert data_of(lens.page("O Romeo", shakespeare, k=4))["lens"]["ids"] == json.loads(
        Element(file.read_text(encoding="utf-8"), "script").text)["lens"]["ids"]


@pytest.mark.parametrize("arguments, status, message", [
    (("--out", "page.png"), 2, "must end in .html"),
    (("--out", "missing/page.html"), 1, "missing does not exist"),
    (("--k", "0"), 2, "k must be a whole number from 1 to 50"),
])
def test_the_command_refuses_what_it_cannot_do(lens_py, tmp_path, arguments, status, message):
    out = () if "--out" in arguments else ("--out", str(tmp_path / "page.html"))
    assert message in error_line(lens_py("page", "O", *arguments, *out, *BUNDLED), status)


def test_a_page_that_is_there_is_replaced_only_when_asked(lens_py, tmp_path):
    file = tmp_path / "page.html"
    file.write_text("kept")
    assert "exists already" in error_line(lens_py("page", "O", "--out", str(file), *BUNDLED), 2)
    assert file.read_text() == "kept"
    assert lens_py("page", "O", "--out", str(file), "--overwrite", *BUNDLED).returncode == 0
    assert file.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_program_without_a_terminal_makes_the_same_page(page, shakespeare, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    assert lens.page(TEXT, shakespeare).html == page.html


def test_a_models_folder_that_is_no_utf_8(shakespeare, tmp_path):
    encoder = Vocabulary(b"token%05d")
    encoder.name = "gr\udcfc\udcdf"  # Latin-1, as Python reads a folder's name
    page = lens.page([1, 2], Model(encoder, shakespeare.hparams, shakespeare.params))
    page.save(tmp_path / "page.html")
    saved = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert saved == page.html and page.title.startswith("gr\\udcfc") and data_of(page)["model"] == encoder.name


def test_a_weight_is_opened_only_to_numbers_that_make_it_up(page, shakespeare):
    assert data_of(page)["opened"]["head"] == data_of(page)["head"] == [1, 5]
    uniform = lambda name, x: np.full_like(x, 0.05) if name.endswith("attn.pattern") else None
    assert "opened" not in data_of(lens.page(TEXT, shakespeare, hook=uniform))
    values = lambda name, x: x + 1 if name == "blocks.1.attn.v" else None
    changed = data_of(lens.page(TEXT, shakespeare, hook=values))
    assert ("opened" in changed) == (changed["head"][0] != 1)


# --- in a browser ---


@pytest.fixture
def open_page(driver, tmp_path):
    def open_page(page, **options):
        page.save(tmp_path / "page.html")
        return Browser(driver, (tmp_path / "page.html").as_uri(), **options)

    return open_page


@pytest.fixture
def browser(open_page, page):
    return open_page(page)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_shows_as_it_is_without_a_request_or_a_complaint(open_page, shakespeare, text):
    page = lens.page(text, shakespeare)
    browser = open_page(page)
    pieces = lens.tokens(text, shakespeare).pieces
    assert browser.texts(".chip > :first-child") == pieces
    assert browser.texts("h1") == [page.title] == [browser.driver.title]
    assert browser.js("document.scripts.length") == 1 + len(SCRIPTS)
    browser.all(".chip")[0].click()
    for view in ("layers", "attention", "next"):
        browser.view(view)
        assert browser.one(f"#{view}").is_displayed() and browser.texts("[aria-selected=true]") == [VIEWS[view]]
    assert browser.texts("#lens tbody th") == [f"{i} {piece}" for i, piece in enumerate(pieces)]
    assert browser.requests() == [browser.url]
    assert browser.warnings() == []


@pytest.mark.slow
def test_tokens_and_names_that_are_markup_show_as_they_are(open_page):
    vocabulary = Vocabulary(b"<img src=%d>")
    vocabulary.name = "<img src=model>"
    browser = open_page(lens.page([3, 4], random_model()._replace(encoder=vocabulary)))
    pieces = ["<img·src=3>", "<img·src=4>"]
    assert browser.texts(".chip > :first-child") == pieces
    assert all(text.startswith("<img·src=") for text in browser.texts("#next-table tr[data-id] th bdi"))
    assert browser.texts("h1") == ["<img src=model>: “<img src=3><img src=4>”"]
    for view in ("attention", "layers"):
        browser.view(view)
    assert browser.texts("#lens tbody th") == [f"{i} {piece}" for i, piece in enumerate(pieces)]
    assert browser.all("img") == [] and browser.requests() == [browser.url] and browser.warnings() == []


@pytest.mark.slow
def test_the_page_connects_to_nothing_and_runs_no_code_but_its_own(browser):
    blocked = """(async () => {
        const violations = [];
        addEventListener("securitypolicyviolation", (event) => violations.push(event.effectiveDirective));
        await fetch("https://example.com/").catch(() => null);
        document.body.append(Object.assign(document.createElement("img"), { src: "https://example.com/a.png" }));
        const code = "document.title = 'run'";
        document.body.append(Object.assign(document.createElement("script"), { textContent: code }));
        await new Promise((resolve) => setTimeout(() => { // a task of the page: what the driver runs itself may eval
            try { eval(code); } catch (error) { violations.push(error.name); }
            setTimeout(resolve, 100);
        }));
        return [...violations.sort(), document.title === "run"];
    })()"""
    assert browser.js(blocked) == ["EvalError", "connect-src", "img-src", "script-src", "script-src-elem", False]


@pytest.mark.slow
def test_the_tokens_stay_in_sight_and_say_what_belongs_to_the_view(browser, shakespeare):
    bits = -lens.score(TEXT, shakespeare).log_probs / math.log(2)
    assert browser.numbers(".chip .number") == pytest.approx(bits, abs=0.051)
    browser.view("layers")
    browser.js("scrollTo(0, 10000)")
    assert browser.js("document.getElementById('strip').getBoundingClientRect().top") >= 0
    browser.js("scrollTo(0, 0)")
    browser.view("attention")
    assert browser.numbers(".chip .number") != pytest.approx(bits, abs=0.051)


@pytest.mark.slow
def test_the_strip_shows_what_a_token_looks_at_and_what_looks_at_it(browser, shakespeare):
    pattern = lens.attention(TEXT, shakespeare, 1, 5).pattern[0]  # the page begins with the head that matters most
    browser.view("attention")

    def expect(token):
        expected = [pattern[token, i] if i <= token else pattern[i, token] for i in range(len(pattern))]
        assert browser.numbers(".chip .number") == pytest.approx(expected, abs=1.1e-3)
        assert f"(token {token})" in browser.text("#strip-says")

    expect(20)
    for token in (12, 2):
        browser.point(browser.all(".chip")[token])
        expect(token)
        browser.point(browser.one("h1"))
        expect(20)  # pointing does not choose
    browser.all(".chip")[13].click()
    browser.point(browser.one("h1"))
    expect(13)
    browser.view("layers")
    browser.all("#lens tbody tr")[4].click()
    browser.view("attention")
    expect(4)


@pytest.mark.slow
def test_pointing_at_the_pattern_reads_its_numbers(browser, shakespeare):
    from selenium.webdriver import ActionChains

    browser.view("attention")
    pattern = lens.attention(TEXT, shakespeare, 1, 5).pattern[0]
    canvas = browser.one("#pattern")
    browser.js("arguments[0].scrollIntoView({block: 'center'})", canvas)
    left, top, size, width, height = browser.js(
        "[place.left, place.top, place.size, arguments[0].clientWidth, arguments[0].clientHeight]", canvas)
    for query, key in ((16, 13), (5, 2), (3, 9)):
        x, y = left + (key + 0.5) * size - width / 2, top + (query + 0.5) * size - height / 2  # from its centre
        ActionChains(browser.driver, duration=0).move_to_element_with_offset(canvas, round(x), round(y)).perform()
        said = browser.text("#cell")
        assert f"(token {query})" in said and f"(token {key})" in said
        assert f"with {pattern[query, key]:.1%}." in said if key <= query else "comes later" in said


@pytest.mark.slow
def test_a_head_of_the_grid_is_shown_when_clicked(browser, shakespeare):
    browser.view("attention")
    for layer, head in ((0, 0), (4, 2)):
        browser.one(f"#heads [aria-label='layer {layer}, head {head}']").click()
        pattern = lens.attention(TEXT, shakespeare, layer, head).pattern[0]
        assert browser.numbers(".chip .number") == pytest.approx(pattern[-1], abs=1.1e-3)
        assert browser.text("#pattern-title") == f"Attention of layer {layer}, head {head}"
        most = pattern[-1].argmax()
        piece = lens.tokens(TEXT, shakespeare).pieces[most]
        assert f"looks most at {piece} (token {most})" in browser.text("#attention-says")


@pytest.mark.slow
def test_a_weight_opens_to_the_numbers_it_is_made_of(browser, shakespeare):
    seen = lens.record("blocks.1.attn.*")
    ids = shakespeare.encode(TEXT)
    shakespeare.logits(ids, hook=seen)
    q, k, v = (seen[f"blocks.1.attn.{name}"][:, 5] for name in "qkv")
    pattern = seen["blocks.1.attn.pattern"][5]
    browser.view("attention")
    browser.all(".chip")[16].click()
    browser.one("#weight summary").click()
    wait_for(lambda: browser.all("#key"))
    browser.js("(byId('key').value = 2, byId('key').dispatchEvent(new Event('change')))")
    says = dict(zip(browser.texts(".opened th"), browser.texts(".opened td:last-child"), strict=True))
    scale = math.sqrt(len(q[0]))
    product = float(q[16] @ k[2])
    assert says["q · k"].endswith(f"the sum is {product:.2f}")
    assert says["score"] == f"{product:.2f} / √{len(q[0])} = {product / scale:.2f}"
    assert says["softmax"].endswith(f"over 17 tokens = {pattern[16, 2]:.1%}")
    assert f"of norm {np.linalg.norm(v[2]):.2f}" in says["v"]
    assert f"of norm {np.linalg.norm(pattern[16, 2] * v[2]):.2f}" in says["weight · v"]
    assert f"of norm {np.linalg.norm(seen['blocks.1.attn.z'][16, 5]):.2f}" in says["output"]
    browser.click(browser.one("#heads [aria-label='layer 0, head 0']"))
    assert "lens.py serve" in browser.text("#weight-body")  # the file has one head's


@pytest.mark.slow
def test_what_comes_next_follows_the_chosen_token(browser, shakespeare):
    ids = shakespeare.encode(TEXT)
    assert browser.text("#next-title") == "What comes after First (token 20, the last)"
    for token in (3, 12):
        browser.all(".chip")[token].click()
        assert browser.next_tokens() == at_end(lens.next_tokens(ids[: token + 1], shakespeare))
        assert browser.text("#next-title").endswith(f"(token {token})")
        assert not browser.part("layer 1, head 5").is_enabled()


@pytest.mark.slow
def test_the_slider_changes_the_probabilities(browser, shakespeare):
    slider = browser.one("#temperature")
    assert [slider.get_attribute(name) for name in ("min", "max")] == ["0.1", "2"]
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare))
    for keys, temperature in ((["HOME"], 0.1), (["ARROW_RIGHT"] * 8, 0.5), (["END"], 2), (["ARROW_LEFT"], 1.95)):
        browser.js("arguments[0].focus()", slider)
        browser.press(*keys)
        assert browser.text("#temperature-value") == f"{temperature:.2f}"
        assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, temperature=temperature))
        assert sum(browser.numbers("#next-table tbody td:nth-child(3)")) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_next_token_without_a_part(browser, shakespeare):
    for name, hook in {"layer 1, head 5": lens.zero(1, 5), "layer 0, head 3": lens.zero(0, 3),
                       "layer 4, feed-forward network": lens.zero(4, what="mlp_out")}.items():
        browser.part(name).click()
        expected = lens.next_tokens(TEXT, shakespeare, hook=hook)
        assert browser.next_tokens() == at_end(expected)
        assert browser.texts("#parts [aria-pressed=true]") == ["out"]
        whole = lens.next_tokens(TEXT, shakespeare, k=shakespeare.hparams["n_vocab"])
        whole = dict(zip(whole.ids, whole.probabilities))
        with_all_heads = [whole[i] for i in expected.ids]
        assert browser.numbers("#next-table tr[data-id] td:nth-child(4)") == pytest.approx(with_all_heads, abs=5.1e-5)
    browser.part("layer 4, feed-forward network").click()
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare))


@pytest.mark.slow
def test_the_grid_of_parts_has_the_numbers_of_ablation(browser, shakespeare):
    shown = np.array(browser.numbers("#parts button")).reshape(6, 7)
    np.testing.assert_allclose(shown[:, :6], lens.ablation(TEXT, shakespeare, " C").change, atol=0.051)
    ffn = [lens.sweep(shakespeare.encode(TEXT), shakespeare, [lens.zero(layer, what="mlp_out")], lambda logits:
           np.log(softmax(logits[-1].astype(float))[417]))[0] for layer in range(6)]
    whole = np.log(softmax(shakespeare.logits(shakespeare.encode(TEXT))[-1].astype(float))[417])
    np.testing.assert_allclose(shown[:, 6], ffn - whole, atol=0.051)


@pytest.mark.slow
def test_the_logit_lens_shows_its_numbers(browser, shakespeare):
    result = lens.logit_lens(TEXT, shakespeare, 10)
    browser.view("layers")
    shown = np.array(browser.numbers("#lens td .number")).reshape(21, 6)
    np.testing.assert_allclose(shown, result.probabilities[:, :, 0].T, atol=6e-4)
    assert browser.texts("#lens td > :first-child") == result.predictions[:, :, 0].T.ravel().tolist()
    for token in (20, 4):
        browser.all(".chip")[token].click()
        shown = np.array(browser.numbers("#lens-of-token td .number")).reshape(6, 10)
        np.testing.assert_allclose(shown, result.probabilities[:, token], atol=6e-4)
        assert browser.texts("#lens-of-token td > :first-child") == result.predictions[:, token].ravel().tolist()
        assert f"(token {token})" in browser.text("#lens-of-token-title")


@pytest.mark.slow
def test_the_last_layer_and_the_chosen_token_are_in_sight_in_a_wide_and_long_table(open_page):
    model = random_model(n_layer=12, n_head=2, n_ctx=100)._replace(encoder=Vocabulary(b"token%05d"))
    browser = open_page(lens.page(list(range(1, 61)), model, k=2), width=390)
    browser.view("layers")
    for token in (59, 2, 40):
        browser.all(".chip")[token].click()
        box, row, last = browser.js("""[document.getElementById("lens-scroll"), document.querySelector("#lens .shown"),
            document.querySelector("#lens .shown .last")].map((node) => node.getBoundingClientRect().toJSON())""")
        assert box["top"] <= row["top"] and row["bottom"] <= box["bottom"] + 1
        assert last["right"] <= box["right"] + 1


@pytest.mark.slow
def test_everything_works_with_the_keyboard(browser, shakespeare):
    browser.press("TAB")  # the chosen token, the last one
    assert browser.focused()[1].startswith("First")
    browser.press("ARROW_LEFT", "ARROW_LEFT", "ARROW_RIGHT", "HOME", "ARROW_LEFT", "ARROW_DOWN")
    assert browser.focused()[1].startswith("·C")
    assert browser.one("#strip [aria-checked=true]").text.startswith("·C")
    browser.press("END", "TAB")  # the views
    assert browser.focused()[1] == "Next token"
    browser.press("ARROW_RIGHT")
    assert browser.focused()[1] == "Attention" and browser.one("#attention").is_displayed()
    browser.press("TAB")  # the grid of heads
    assert browser.focused()[2] == "layer 1, head 5"
    browser.press("ARROW_DOWN", "ARROW_LEFT")
    assert browser.focused()[2] == "layer 2, head 4"
    assert browser.text("#pattern-title") == "Attention of layer 2, head 4"
    browser.press("END", "ARROW_RIGHT", "ARROW_DOWN")
    assert browser.focused()[2] == "layer 5, head 5"
    browser.press("TAB", "ENTER")  # the opened weight
    wait_for(browser.one("#weight-body").is_displayed)  # the browser says later that it is open, and it is filled then
    browser.js("document.getElementById('tab-attention').focus()")
    browser.press("ARROW_LEFT", "TAB", "SPACE")
    assert browser.focused()[0] == "saliency" and "·C" in browser.text("#strip-says")
    browser.press("TAB")
    assert browser.focused()[0] == "temperature"
    browser.press("TAB", "ARROW_DOWN", "END", "ARROW_LEFT", "SPACE")  # the grid of parts
    assert browser.focused()[2] == "layer 5, head 5"
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, hook=lens.zero(5, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_and_everyone_can_use_it(open_page, shakespeare, scheme, width):
    browser = open_page(lens.page(MARKUP + "\n" + TEXT, shakespeare), scheme=scheme, width=width)
    for view in ("next", "attention", "layers"):
        browser.view(view)
        assert browser.fits()
        assert least_contrast(browser) >= 4.5  # WCAG AA
        assert browser.violations() == []
    assert browser.js("Math.min(...[...document.querySelectorAll('body *')].map("
                      "(node) => parseFloat(getComputedStyle(node).fontSize)))") >= 12


@pytest.mark.slow
def test_cells_are_large_enough_for_a_finger(open_page):
    model = random_model(n_layer=12, n_head=12, n_embd=48)._replace(encoder=Vocabulary(b"token%05d"))
    browser = open_page(lens.page([1, 2, 3], model), width=390)
    size = "[...document.querySelectorAll('%s button')].map((cell) => cell.getBoundingClientRect()).map((box) => " \
           "Math.min(box.width, box.height))"
    assert min(browser.js(size % "#parts")) >= 44
    browser.view("attention")
    assert min(browser.js(size % "#heads")) >= 44 and browser.fits()


@pytest.mark.slow
def test_the_colours_change_with_the_scheme_while_the_page_is_open(browser):
    colours = "[...document.querySelectorAll('.chip')].map((chip) => chip.style.backgroundColor)"
    light = browser.js(colours)
    browser.media("dark")
    wait_for(lambda: browser.js(colours) != light)
    assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"


@pytest.mark.slow
def test_the_page_works_inside_a_notebooks_frame(driver, tmp_path, page, shakespeare):
    file = tmp_path / "notebook.html"
    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'>{page._repr_html_()}", encoding="utf-8")
    browser = Browser(driver, file.as_uri())
    driver.switch_to.frame(browser.one("iframe"))
    browser.part("layer 1, head 5").click()
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, hook=lens.zero(1, 5)))
    driver.switch_to.default_content()
    assert browser.warnings() == []
