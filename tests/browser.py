"""A page, in its file and in a real browser, with what tests ask of it. The fixture `driver` starts the browser."""
import html.parser
import json
import re


class Browser:
    """A page at an address, in a window of some width and a colour scheme."""

    def __init__(self, driver, url, scheme="light", width=1280):
        self.driver, self.url = driver, url
        self.media(scheme)
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                               {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # what earlier pages left
        driver.get(url)

    def media(self, scheme):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def js(self, code, *arguments):
        return self.driver.execute_script("return " + code, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def view(self, name):
        self.one(f"#tab-{name}").click()

    def texts(self, selector):
        return self.js("[...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector)

    def text(self, selector):
        [text] = self.texts(selector)
        return text

    def numbers(self, selector):
        """The numbers that stand in some elements: percentages from 0 to 1, None where there is none."""
        found = [re.search(r"([−-]?[\d.]+)(%?)", text) for text in self.texts(selector)]
        return [match and float(match[1].replace("−", "-")) / (100 if match[2] else 1) for match in found]

    def point(self, element):
        from selenium.webdriver import ActionChains

        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def click(self, element):
        """Click an element where the bar of tokens does not lie over it."""
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, *keys):
        """Press keys where the focus is: characters, or names as in selenium's Keys."""
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver, duration=0).send_keys(*(getattr(Keys, key, key) for key in keys)).perform()

    def focused(self):
        return self.js("[document.activeElement.id, document.activeElement.textContent.trim(), "
                       "document.activeElement.getAttribute('aria-label')]")

    def next_tokens(self):
        """(pieces, probabilities) of the table of next tokens, without the row for all others."""
        return (self.texts("#next-table tr[data-id] th bdi"), self.numbers("#next-table tr[data-id] td:nth-child(3)"))

    def part(self, name):
        """The cell of the grid of parts for "layer 1, head 5"."""
        return self.one(f"#parts [aria-label='{name}']")

    def fits(self):
        """Whether the page is no wider than the window."""
        return self.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

    def warnings(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """The address of each request since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"]["request"]["url"] for message in messages
                if message["method"] == "Network.requestWillBeSent"]

    def violations(self):
        """What axe-core finds wrong for people with disabilities: (rule, elements)."""
        import pytest

        axe = pytest.importorskip("axe_selenium_python", reason="axe-core is not installed: "
                                  "pip install -r tests/requirements.txt").Axe(self.driver)
        axe.inject()
        return [(found["id"], [node["html"] for node in found["nodes"]]) for found in axe.run()["violations"]]


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


def data_of(page):
    """The data in a `Page`."""
    return json.loads(Element(page.html, "script").text)


def least_contrast(browser):
    """The least contrast of a text in sight with what it stands on, as WCAG defines it."""
    return browser.js("""(() => {
        const light = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
        const luminance = (css) => { const [r, g, b] = css.match(/[\\d.]+/g).map(Number).map(light);
                                     return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const background = (node) => { const css = getComputedStyle(node).backgroundColor;
                                       return css === "rgba(0, 0, 0, 0)" ? background(node.parentElement) : css; };
        let least = 21;
        for (const node of document.querySelectorAll("body *")) {
            const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
            if (!hasText || !node.getClientRects().length || node.disabled) continue;
            const [a, b] = [getComputedStyle(node).color, background(node)].map(luminance).sort((x, y) => y - x);
            least = Math.min(least, (a + 0.05) / (b + 0.05));
        }
        return least;
    })()""")


def at_end(result):
    """What `Browser.next_tokens` gives for lens.next_tokens' result."""
    import pytest

    return list(result.pieces), pytest.approx(result.probabilities, abs=5.1e-5)
