"""The page: its numbers are lens.py's, and in a real browser it shows them, reacts, and connects to nothing."""
import html.parser
import json
import math
import re
import shutil

import numpy as np
import pytest
from helpers import BUNDLED, TEXT, Model, error_line, random_model, wait_for

import lens

MARKUP = "<script>document.title = 'run'</script><b>&amp;</b></script> {{data}} <!-- --> \\u003c"
TEXTS = {"markup": MARKUP, "newlines": TEXT, "korean and emoji": "안녕 🤖\t\u2028é", "one token": "O", "empty": ""}


class Element(html.parser.HTMLParser):
    """The attributes and the text of the first element of a kind."""

    def __init__(self, source, tag):
        super().__init__()
        self.tag, self.attributes, self.text = tag, None, ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        if tag == self.tag and self.attributes is None:
            self.attributes = dict(attributes)

    def handle_data(self, data):
        if self.lasttag == self.tag and not self.text:
            self.text = data


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


def data_of(page):
    return json.loads(Element(page.html, "script").text)


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


def test_probabilities_without_any_head_are_right_at_any_temperature(page, shakespeare):
    data = data_of(page)
    hooks = [None] + [lens.zero(layer, head) for layer in range(6) for head in range(6)]
    for run, hook in zip([data["next"]["whole"], *data["next"]["without"]], hooks, strict=True):
        for stop in (0, 7, 18, 38):
            temperature = data["temperatures"][stop]
            expected = lens.next_tokens(TEXT, shakespeare, 10, temperature, hook)
            logits = np.array([run["logits"][str(i)] for i in expected.ids])
            probabilities = np.exp(logits / temperature - run["log_sums"][stop])
            np.testing.assert_allclose(probabilities, expected.probabilities, rtol=2e-5, atol=1e-12)
    assert (data["temperatures"][0], data["temperatures"][-1]) == (0.1, 2)


def test_the_page_answers_for_the_model_with_the_hook(shakespeare):
    hook = lens.zero(1, 5)
    data = data_of(lens.page(TEXT, shakespeare, k=3, hook=hook))
    likeliest = lens.next_tokens(TEXT, shakespeare, 1, hook=hook)
    logits = data["next"]["whole"]["logits"]
    assert data["pieces"][max(logits, key=logits.get)] == likeliest.pieces[0] == "·S"
    bits = -lens.score(TEXT, shakespeare, hook=hook).log_probs / math.log(2)
    np.testing.assert_allclose(data["surprisal"], bits, atol=1e-3)


def test_text_cannot_become_markup(shakespeare):
    page = lens.page(MARKUP, shakespeare)
    assert "<script>document" not in page.html and "<b>" not in page.html
    assert page.html.count("<script") == 2 and page.html.count("</script>") == 2
    assert "".join(data_of(page)["tokens"]).replace("·", " ") == MARKUP


@pytest.mark.slow
def test_30_tokens_of_the_124m_stay_below_2_mb():
    # Random weights spread the probabilities: more different digits than a trained model gives.
    model = random_model(n_layer=12, n_head=12, n_embd=48, n_vocab=50257, n_ctx=1024)
    page = lens.page(list(range(1000, 1030)), Model(Vocabulary(b"token%05d"), *model[1:]))
    assert 200_000 < len(page.html.encode()) < 2_000_000


def test_a_text_too_long_for_a_page_is_refused(monkeypatch, shakespeare):
    with pytest.raises(ValueError, match="300 positions are more than the context of 256"):
        lens.page([5] * 300, shakespeare)
    monkeypatch.setattr("inside.page.MOST_WEIGHTS", 36 * 20 * 21 // 2 + 10)  # 20 tokens
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


def test_the_command_writes_the_page(run, tmp_path, shakespeare):
    file = tmp_path / "page.html"
    result = run("page", "O Romeo", "--k", "4", "--out", str(file), *BUNDLED, program="lens.py")
    assert result.returncode == 0 and result.stdout == "" and f"{file} (0.0" in result.stderr
    assert data_of(lens.page("O Romeo", shakespeare, k=4))["lens"]["ids"] == json.loads(
        Element(file.read_text(encoding="utf-8"), "script").text)["lens"]["ids"]


@pytest.mark.parametrize("arguments, status, message", [
    (("--out", "page.png"), 2, "must end in .html"),
    (("--out", "missing/page.html"), 1, "missing does not exist"),
    (("--k", "0"), 2, "k must be a whole number from 1 to 50"),
])
def test_the_command_refuses_what_it_cannot_do(run, arguments, status, message):
    assert message in error_line(run("page", "O", *arguments, *BUNDLED, program="lens.py"), status)


# --- in a browser ---


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A Chromium without a window, driven by Selenium."""
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


class Browser:
    """A page in the browser, with what the tests ask of it."""

    def __init__(self, driver, file, scheme="light", width=1200):
        self.driver, self.url = driver, file.as_uri()
        self.media(scheme)
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                               {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # what earlier pages left
        driver.get(self.url)

    def media(self, scheme):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def js(self, code, *arguments):
        return self.driver.execute_script("return " + code, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return self.js("[...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector)

    def numbers(self, selector):
        """The numbers that stand in some elements: percentages from 0 to 1, None where there is none."""
        found = [re.search(r"([\d.]+)(%?)", text) for text in self.texts(selector)]
        return [match and float(match[1]) / (100 if match[2] else 1) for match in found]

    def point(self, element):
        from selenium.webdriver import ActionChains

        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def press(self, *keys):
        """Press keys, named as in selenium's Keys, where the focus is."""
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver, duration=0).send_keys(*(getattr(Keys, key) for key in keys)).perform()

    def next_tokens(self):
        """(pieces, probabilities) of the table of next tokens, without the row for all others."""
        return (self.texts("#next tr[data-id] th"), self.numbers("#next tr[data-id] td:nth-child(3)"))

    def warnings(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """The address of each request since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"]["request"]["url"] for message in messages
                if message["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def open_page(driver, tmp_path):
    def open_page(page, **options):
        page.save(tmp_path / "page.html")
        return Browser(driver, tmp_path / "page.html", **options)

    return open_page


@pytest.fixture
def browser(open_page, page):
    return open_page(page)


def at_end(result):
    return list(result.pieces), pytest.approx(result.probabilities, abs=5.1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_shows_as_it_is_without_a_request_or_a_complaint(open_page, shakespeare, text):
    page = lens.page(text, shakespeare)
    browser = open_page(page)
    pieces = lens.tokens(text, shakespeare).pieces
    for strip in ("surprisal", "looks", "looked"):
        assert browser.texts(f"#{strip} .chip > :first-child") == pieces
    assert browser.texts("#lens tbody th") == [f"{i} {piece}" for i, piece in enumerate(pieces)]
    assert browser.texts("h1") == [page.title] == [browser.driver.title]
    assert browser.js("document.scripts.length") == 2
    for element in (browser.all("#looks .chip")[0], browser.all("#effects button")[0], browser.all("#lens td")[0]):
        element.click()
    assert browser.requests() == [browser.url]
    assert browser.warnings() == []


@pytest.mark.slow
def test_tokens_and_names_that_are_markup_show_as_they_are(open_page):
    vocabulary = Vocabulary(b"<img src=%d>")
    vocabulary.name = "<img src=model>"
    browser = open_page(lens.page([3, 4], random_model()._replace(encoder=vocabulary)))
    pieces = ["<img·src=3>", "<img·src=4>"]
    assert browser.texts("#looks .chip > :first-child") == pieces
    assert browser.texts("#lens tbody th") == [f"{i} {piece}" for i, piece in enumerate(pieces)]
    assert all(text.startswith("<img·src=") for text in browser.texts("#next tr[data-id] th"))
    assert browser.texts("h1") == ["<img src=model>: “<img src=3><img src=4>”"]
    assert all(text.endswith(browser.texts("h1")[0]) for text in browser.texts("figcaption"))
    assert browser.all("img") == [] and browser.requests() == [browser.url] and browser.warnings() == []


@pytest.mark.slow
def test_titles_say_the_model_the_text_and_what_is_shown(browser, page):
    titles = browser.texts("figcaption")
    assert len(titles) == 8 and all(title.endswith(page.title) for title in titles)
    whats = browser.texts("figcaption .what")
    assert whats[2:6] == ["Attention of layer 1, head 5", "Where First (token 20) looks in layer 1, head 5",
                          "Who looks at First (token 20) in layer 1, head 5", "Next token at temperature 1.00"]


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
def test_pointing_at_a_token_shows_where_it_looks_and_who_looks_at_it(browser, shakespeare):
    pattern = lens.attention(TEXT, shakespeare, 1, 5).pattern[0]  # the page begins with the head that matters most

    def expect(token):
        looks, looked = browser.numbers("#looks .number"), browser.numbers("#looked .number")
        n = len(pattern)
        assert looks == [pytest.approx(pattern[token, i], abs=1.1e-3) if i <= token else None for i in range(n)]
        assert looked == [pytest.approx(pattern[i, token], abs=1.1e-3) if i >= token else None for i in range(n)]

    expect(20)
    for strip, token in (("surprisal", 12), ("looks", 2), ("looked", 7)):
        browser.point(browser.all(f"#{strip} .chip")[token])
        expect(token)
        browser.point(browser.one("h2"))
        expect(20)  # pointing does not choose
    browser.all("#surprisal .chip")[13].click()
    browser.point(browser.one("h2"))
    expect(13)
    browser.all("#lens tbody tr")[4].click()
    expect(4)
    rows = browser.texts("#lens-of-token tbody tr")
    likeliest = lens.logit_lens(TEXT, shakespeare, 10)
    for layer, row in enumerate(rows):
        assert row.startswith(f"layer {layer}{likeliest.predictions[layer, 4, 0]}")


@pytest.mark.slow
def test_pointing_at_the_pattern_reads_its_numbers(browser, shakespeare):
    from selenium.webdriver import ActionChains

    pattern = lens.attention(TEXT, shakespeare, 1, 5).pattern[0]
    canvas = browser.one("#pattern")
    browser.js("arguments[0].scrollIntoView({block: 'center'})", canvas)
    left, top, size, width, height = browser.js(
        "[place.left, place.top, place.size, arguments[0].clientWidth, arguments[0].clientHeight]", canvas)
    for query, key in ((16, 13), (5, 2), (3, 9)):
        x, y = left + (key + 0.5) * size - width / 2, top + (query + 0.5) * size - height / 2  # from its centre
        ActionChains(browser.driver, duration=0).move_to_element_with_offset(canvas, round(x), round(y)).perform()
        said = browser.one("#cell").text
        assert f"(token {query})" in said and f"(token {key})" in said
        assert f"with {pattern[query, key]:.1%}." in said if key <= query else "comes later" in said


@pytest.mark.slow
def test_a_head_of_the_grid_is_shown_when_clicked(browser, shakespeare):
    for layer, head in ((0, 0), (4, 2)):
        browser.one(f"[aria-label='layer {layer}, head {head}']").click()
        pattern = lens.attention(TEXT, shakespeare, layer, head).pattern[0]
        assert browser.numbers("#looks .number") == pytest.approx(pattern[-1], abs=1.1e-3)
        assert browser.texts("#pattern-title .what") == [f"Attention of layer {layer}, head {head}"]
        most = pattern[-1].argmax()
        piece = lens.tokens(TEXT, shakespeare).pieces[most]
        assert f"looks most at {piece} (token {most})" in browser.one("[role=status]").text


@pytest.mark.slow
def test_the_slider_changes_the_probabilities(browser, shakespeare):
    slider = browser.one("#temperature")
    assert [slider.get_attribute(name) for name in ("min", "max")] == ["0.1", "2"]
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare))
    for keys, temperature in ((["HOME"], 0.1), (["ARROW_RIGHT"] * 8, 0.5), (["END"], 2), (["ARROW_LEFT"], 1.95)):
        browser.js("arguments[0].focus()", slider)
        browser.press(*keys)
        assert browser.one("#temperature-value").text == f"{temperature:.2f}"
        assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, temperature=temperature))
        assert sum(browser.numbers("#next tbody td:nth-child(3)")) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_next_token_without_a_head(browser, shakespeare):
    browser.one("#without").click()
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, hook=lens.zero(1, 5)))
    for layer, head in ((5, 0), (0, 3)):
        browser.one(f"[aria-label='layer {layer}, head {head}']").click()
        expected = lens.next_tokens(TEXT, shakespeare, hook=lens.zero(layer, head))
        assert browser.next_tokens() == at_end(expected)
        whole = lens.next_tokens(TEXT, shakespeare, k=shakespeare.hparams["n_vocab"])
        whole = dict(zip(whole.ids, whole.probabilities))
        with_all_heads = [whole[i] for i in expected.ids]
        assert browser.numbers("#next tr[data-id] td:nth-child(4)") == pytest.approx(with_all_heads, abs=5.1e-5)
    browser.one("#without").click()
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare))


@pytest.mark.slow
def test_the_heads_that_matter_most_are_those_of_ablation(browser, shakespeare):
    result = lens.ablation(TEXT, shakespeare, " C")
    order = np.argsort(-np.abs(result.change), axis=None)[:6]
    assert browser.texts("#effects button") == [
        f"layer {i // 6}, head {i % 6}: {math.exp(result.log_prob):.2%} → "
        f"{math.exp(result.log_prob + result.change.flat[i]):.2%}" for i in order]
    browser.all("#effects button")[1].click()
    layer, head = divmod(int(order[1]), 6)
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, hook=lens.zero(layer, head)))


@pytest.mark.slow
def test_the_logit_lens_shows_its_numbers(browser, shakespeare):
    result = lens.logit_lens(TEXT, shakespeare, 10)
    shown = np.array(browser.numbers("#lens td .number")).reshape(21, 6)
    np.testing.assert_allclose(shown, result.probabilities[:, :, 0].T, atol=6e-4)
    assert browser.texts("#lens td > :first-child") == result.predictions[:, :, 0].T.ravel().tolist()
    shown = np.array(browser.numbers("#lens-of-token td .number")).reshape(6, 10)
    np.testing.assert_allclose(shown, result.probabilities[:, -1], atol=6e-4)
    assert browser.texts("#lens-of-token td > :first-child") == result.predictions[:, -1].ravel().tolist()


@pytest.mark.slow
def test_everything_works_with_the_keyboard(browser, shakespeare):
    def focused():
        return browser.js("[document.activeElement.id, document.activeElement.textContent.trim(), "
                          "document.activeElement.getAttribute('aria-label')]")

    browser.press("TAB")  # the chosen token, the last one
    assert focused()[1].startswith("First")
    browser.press("ARROW_LEFT", "ARROW_LEFT", "ARROW_RIGHT", "HOME", "ARROW_LEFT", "ARROW_DOWN")
    assert focused()[1].startswith("·C")
    assert browser.one("#surprisal [aria-checked=true]").text.startswith("·C")
    assert "·C (token 1) looks most at" in browser.one("[role=status]").text
    browser.press("TAB")  # the grid of heads
    assert focused()[2] == "layer 1, head 5"
    browser.press("ARROW_DOWN", "ARROW_LEFT")
    assert focused()[2] == "layer 2, head 4"
    assert browser.texts("#pattern-title .what") == ["Attention of layer 2, head 4"]
    browser.press("END", "ARROW_RIGHT", "ARROW_DOWN")
    assert focused()[2] == "layer 5, head 5"
    browser.press("TAB", "TAB", "TAB")  # the two strips, the slider
    assert focused()[0] == "temperature"
    browser.press("TAB", "SPACE")
    assert focused()[0] == "without" and "without it" in browser.one("#next-column").text
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, hook=lens.zero(5, 5)))
    browser.press("TAB", "ENTER")
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, hook=lens.zero(1, 5)))


@pytest.mark.slow
def test_every_control_and_picture_has_a_name(browser):
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = ("radio", "radiogroup", "slider", "checkbox", "button", "img", "table", "region")
    found = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree
             if not node["ignored"] and node["role"]["value"] in named}
    assert {role for role, _ in found} >= {"radio", "radiogroup", "slider", "checkbox", "button", "table"}
    assert all(name.strip() for _, name in found)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_is_cut_off_and_all_text_stands_out(open_page, shakespeare, scheme, width):
    browser = open_page(lens.page(MARKUP + "\n" + TEXT, shakespeare), scheme=scheme, width=width)
    assert browser.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    least = browser.js("""(() => {
        const light = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
        const luminance = (css) => { const [r, g, b] = css.match(/[\\d.]+/g).map(Number).map(light);
                                     return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const background = (node) => { const css = getComputedStyle(node).backgroundColor;
                                       return css === "rgba(0, 0, 0, 0)" ? background(node.parentElement) : css; };
        let least = 21;
        for (const node of document.querySelectorAll("body *")) {
            const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
            if (!hasText || !node.getClientRects().length) continue;
            const [a, b] = [getComputedStyle(node).color, background(node)].map(luminance).sort((x, y) => y - x);
            least = Math.min(least, (a + 0.05) / (b + 0.05));
        }
        return least;
    })()""")
    assert least >= 4.5  # WCAG AA
    assert browser.js("Math.min(...[...document.querySelectorAll('body *')].map("
                      "(node) => parseFloat(getComputedStyle(node).fontSize)))") >= 12


@pytest.mark.slow
def test_the_colours_change_with_the_scheme_while_the_page_is_open(browser):
    colours = "[...document.querySelectorAll('#looks .chip')].map((chip) => chip.style.backgroundColor)"
    light = browser.js(colours)
    browser.media("dark")
    wait_for(lambda: browser.js(colours) != light)
    assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"


@pytest.mark.slow
def test_the_page_works_inside_a_notebooks_frame(driver, tmp_path, page, shakespeare):
    file = tmp_path / "notebook.html"
    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'>{page._repr_html_()}", encoding="utf-8")
    browser = Browser(driver, file)
    driver.switch_to.frame(browser.one("iframe"))
    browser.all("#effects button")[0].click()
    assert browser.next_tokens() == at_end(lens.next_tokens(TEXT, shakespeare, hook=lens.zero(1, 5)))
    driver.switch_to.default_content()
    assert browser.warnings() == []
