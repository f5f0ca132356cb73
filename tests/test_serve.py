"""The live page: what it answers and whom, and in a real browser that it follows what one types and clicks."""
import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from browser import Browser, at_end, data_of, least_contrast
from helpers import BUNDLED, ROOT, TEXT, error_line, wait_for

import lens
from inside.explore import Explorer, Interrupted
from inside.server import Server

CITIZEN = "First Citizen. Second Citizen. First"
SENATOR, MURDERER = "First Senator. Second Senator. First", "First Murderer. Second Murderer. First"
HOSTILE = "</script><b>\u202e\u05d0\u05d1 \u2067x &amp; {{data}}"  # markup, and characters that turn the line around
FFN = 6  # the place of a layer's feed-forward network among its parts, after its heads
TOKEN = "only-for-these-tests"


@pytest.fixture
def explorer(shakespeare):
    return Explorer(shakespeare, rng=np.random.default_rng(0))


def part(layer, head):
    return 7 * layer + head


def probabilities(data, run="now"):
    """{id: probability} of a run after the chosen token."""
    run = data["next"][data["token"]][run]
    at_1 = data["temperatures"].index(1)
    return {i: math.exp(logit - run["log_sums"][at_1]) for i, logit in run["logits"].items()}


# --- what it answers ---


def test_several_parts_out_are_compose_of_zeros(explorer, shakespeare):
    out = [part(1, 5), part(3, 2), part(0, FFN)]
    hook = lens.compose(lens.zero(1, 5), lens.zero(3, 2), lens.zero(0, what="mlp_out"))
    data = explorer.see({"text": CITIZEN, "out": out, "view": "layers"})
    expected = lens.next_tokens(CITIZEN, shakespeare, hook=hook)
    found = probabilities(data)
    assert [found[i] for i in expected.ids] == pytest.approx(expected.probabilities, rel=1e-4)
    whole = probabilities(data, "whole")
    expected = lens.next_tokens(CITIZEN, shakespeare)
    assert [whole[i] for i in expected.ids] == pytest.approx(expected.probabilities, rel=1e-4)
    bits = -lens.score(CITIZEN, shakespeare, hook=hook).log_probs / math.log(2)
    np.testing.assert_allclose(data["surprisal"], bits, atol=1e-3)
    logit_lens = lens.logit_lens(CITIZEN, shakespeare, 10, hook=hook)
    assert [layer[-1] for layer in data["lens"]["ids"]] == logit_lens.ids[:, -1].tolist()
    assert [[row[0] for row in layer] for layer in data["lens"]["ids"]] == logit_lens.ids[:, :, 0].tolist()
    assert "without layer 0, feed-forward network; layer 1, head 5; layer 3, head 2" == data["changes"]


def test_patched_places_are_those_of_patching(explorer, shakespeare):
    state = {"text": SENATOR, "other": MURDERER, "answer": " M", "wrong": " S", "view": "patching"}
    expected = lens.patching(MURDERER, SENATOR, shakespeare, " M", " S").grid
    np.testing.assert_allclose(explorer.measure(state)["places"], expected, atol=1e-3)
    for layer, token in ((0, 2), (2, 10), (5, 15)):
        found = explorer.see({**state, "patches": [[layer, token]]})["patching"]
        fraction = (found["now"] - found["corrupted"]) / (found["clean"] - found["corrupted"])
        assert fraction == pytest.approx(expected[layer, token], abs=1e-4)
    everything = [[0, token] for token in range(16)]
    found = explorer.see({**state, "patches": everything})
    assert found["patching"]["now"] == pytest.approx(found["patching"]["clean"], abs=1e-4)
    bits = -lens.score(MURDERER, shakespeare).log_probs / math.log(2)  # of the patched pass: at which the other text's
    assert found["surprisal"][5] == pytest.approx(bits[5], abs=1e-3)   # tokens would be as surprising as in it


def test_patching_says_what_is_wrong_with_the_second_text_and_the_answer(explorer):
    state = {"text": SENATOR, "other": "First", "view": "patching"}
    assert "The texts have 16 and 1 tokens" in explorer.see(state)["patching"]["error"]
    error = explorer.see({**state, "other": MURDERER, "answer": "king queen"})["patching"]["error"]
    assert "answer must be one token, but 'king queen' is" in error


def test_steps_append_and_take_back(explorer, shakespeare):
    ids = shakespeare.encode(CITIZEN)
    best = lens.next_tokens(CITIZEN, shakespeare).ids[0]
    assert explorer.see({"ids": ids, "steps": ["likeliest"]})["ids"] == [*ids, best]
    greedy = shakespeare.generate(ids, 5)
    assert explorer.see({"ids": ids, "steps": ["likeliest"] * 5})["ids"] == ids + greedy
    assert explorer.see({"text": CITIZEN, "steps": [7, "back", 9]})["ids"] == [*ids, 9]
    without = lens.next_tokens(CITIZEN, shakespeare, hook=lens.zero(0, what="mlp_out")).ids[0]
    assert explorer.see({"ids": ids, "steps": ["likeliest"], "out": [part(0, FFN)]})["ids"] == [*ids, without]
    sampled = {explorer.see({"ids": ids, "steps": ["sample"], "temperature": 1.5})["ids"][-1] for _ in range(30)}
    assert len(sampled) > 5
    cold = {explorer.see({"ids": ids, "steps": ["sample"], "temperature": 0.1})["ids"][-1] for _ in range(10)}
    assert cold == {best}
    empty = explorer.see({"ids": [640], "steps": ["back"]})
    assert empty["tokens"] == ["<|endoftext|>"] and empty["text"] == ""
    assert explorer.see({"ids": empty["ids"], "steps": [640]})["text"] == "First"


def test_effects_are_those_of_ablation(explorer, shakespeare):
    effects = explorer.measure({"text": CITIZEN})["effects"]
    assert effects["answer"] == 417
    shown = np.array(effects["log_probs"]).reshape(6, 7)
    np.testing.assert_allclose(shown[:, :6], lens.ablation(CITIZEN, shakespeare, " C").change, atol=1e-3)
    early = explorer.measure({"text": CITIZEN, "token": 4})["effects"]
    assert early["token"] == 4
    ids = shakespeare.encode(CITIZEN)[:5]
    expected = lens.ablation(ids, shakespeare, early["answer"]).change
    np.testing.assert_allclose(np.array(early["log_probs"]).reshape(6, 7)[:, :6], expected, atol=1e-3)


def test_measuring_stops_when_something_else_is_asked(explorer):
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        explorer.measure({"text": CITIZEN}, lambda: next(asked))
    assert next(asked, "used up") == "used up"


def test_attention_of_a_long_text(explorer, shakespeare):
    text = TEXT * 6  # 126 tokens
    data = explorer.see({"text": text, "view": "attention", "head": [2, 3], "opened": True})
    pattern = lens.attention(text, shakespeare, 2).pattern
    n = pattern.shape[1]
    np.testing.assert_allclose(np.array(data["attention"][2][3]) / 1000, pattern[3][np.tril_indices(n)], atol=6e-4)
    small = data["small"][2][1]
    step = -(-n // 48)
    expected = max(pattern[1, i, j] for i in range(step) for j in range(step))
    assert small[0] == pytest.approx(1000 * expected, abs=0.6) and len(small) == 42 * 43 // 2
    np.testing.assert_allclose(data["opened"]["v"], value_vectors(shakespeare, text, 2, 3), atol=1e-4)


def value_vectors(model, text, layer, head):
    seen = lens.record(f"blocks.{layer}.attn.v")
    model.logits(model.encode(text), hook=seen)
    return seen[f"blocks.{layer}.attn.v"][:, head]


def test_the_lens_of_a_long_text_is_that_of_the_tokens_around_the_chosen_one(explorer, shakespeare, monkeypatch):
    monkeypatch.setattr("inside.explore.MOST_ROWS", 6 * 8)
    expected = lens.logit_lens(TEXT, shakespeare, 10)
    for token, first in ((20, 13), (2, 0), (10, 6)):
        found = explorer.see({"text": TEXT, "view": "layers", "token": token})["lens"]
        assert found["first"] == first and len(found["ids"][0]) == 8
        assert found["ids"][3][token - first] == expected.ids[3, token].tolist()
        assert found["probabilities"][3][token - first] == pytest.approx(expected.probabilities[3, token], abs=1e-4)
        tops = [[row[0] for row in layer] for layer in found["ids"]]
        np.testing.assert_array_equal(tops, expected.ids[:, first : first + 8, 0])
    without = lens.logit_lens(TEXT, shakespeare, hook=lens.zero(0, what="mlp_out"))  # nothing kept is of another model
    found = explorer.see({"text": TEXT, "view": "layers", "out": [part(0, FFN)]})["lens"]
    assert [[row[0] for row in layer] for layer in found["ids"]] == without.ids[:, 13:, 0].tolist()


def test_a_lens_that_takes_long_begins_at_the_chosen_token(explorer, shakespeare, monkeypatch):
    monkeypatch.setattr("inside.explore.MOST_WORK", 3 * 6 * shakespeare.params["wte"].size)  # that of three tokens
    state, expected = {"text": CITIZEN, "view": "layers", "token": 5}, lens.logit_lens(CITIZEN, shakespeare)
    first = explorer.see(state)["lens"]["ids"][2]
    assert [at for at, top in enumerate(first) if top] == [4, 5, 6]
    assert [top[0] for top in first[4:7]] == expected.ids[2, 4:7, 0].tolist()
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        explorer.measure(state, lambda: next(asked))
    found = explorer.measure(state)
    assert [[top[0] for top in layer] for layer in found["lens"]["ids"]] == expected.ids[:, :, 0].tolist()
    assert [found["pieces"][top[0]] for top in found["lens"]["ids"][3]] == expected.predictions[3, :, 0].tolist()


def test_a_lens_of_which_the_first_layers_are_known_becomes_whole(explorer, shakespeare, monkeypatch):
    monkeypatch.setattr("inside.explore.MOST_WORK", 0)  # one token at a time
    state = {"text": CITIZEN, "view": "layers"}
    explorer.measure(state)
    found = explorer.measure(state | {"out": [part(2, 5)]})["lens"]["ids"]  # layers 0 and 1 are as before
    expected = lens.logit_lens(CITIZEN, shakespeare, hook=lens.zero(2, 5))
    assert [[top[:1] for top in layer] for layer in found] == expected.ids.tolist()


def test_what_is_kept_of_the_text_before_is_that_of_the_new_one(explorer, shakespeare):
    hook = lens.zero(1, 5)
    for text in ("O Romeo", "O Romeo, Rom", "O Romeo, Ro", "O", "The king", "O Romeo, Romeo! wherefore"):
        for view in ("next", "attention"):
            for out, how in (([], None), ([part(1, 5)], hook)):
                found = explorer.see({"text": text, "out": out, "view": view})
                expected = lens.next_tokens(text, shakespeare, hook=how)
                shown = probabilities(found)
                assert [shown[i] for i in expected.ids] == pytest.approx(expected.probabilities, rel=1e-4)
                if view == "next":
                    bits = -lens.score(text, shakespeare, hook=how).log_probs / math.log(2)
                    np.testing.assert_allclose(found["surprisal"], bits, atol=1e-3)
                else:
                    pattern = lens.attention(text, shakespeare, 3, 2, hook=how).pattern[0]
                    below = pattern[np.tril_indices(len(pattern))]
                    np.testing.assert_allclose(np.array(found["attention"][3][2]) / 1000, below, atol=6e-4)


def test_a_page_saved_while_patched_has_what_is_shown(explorer, shakespeare):
    state = {"text": SENATOR, "other": MURDERER, "patches": [[2, 10], [0, 2]], "token": 12, "saliency": True,
             "out": [part(1, 5)]}
    shown, saved = explorer.see(state), data_of(explorer.page(state))
    assert saved["surprisal"] == shown["surprisal"] and saved["saliency"] == shown["saliency"]
    assert saved["changes"] == "without layer 1, head 5, patched at layer 0, token 2; layer 2, token 10"
    now = {str(i): logit for i, logit in shown["next"][12]["now"]["logits"].items()}
    whole = saved["next"]["12"]["whole"]["logits"]
    assert [whole[i] for i in now if i in whole] == pytest.approx([now[i] for i in now if i in whole], abs=1e-4)
    assert max(whole, key=whole.get) == max(now, key=now.get)
    effects = explorer.measure(state)["effects"]["log_probs"]
    assert saved["effects"]["log_probs"] == pytest.approx(effects, abs=2e-3)


def test_any_prediction_can_be_explained(explorer, shakespeare):
    state = {"text": CITIZEN, "explained": 536, "saliency": True}
    found = explorer.see(state)
    assert found["explained"] == 536 and found["pieces"][536] == "·S" and found["saliency"]["answer"] == "·S"
    np.testing.assert_allclose(found["saliency"]["values"], lens.saliency(CITIZEN, shakespeare, " S").values, atol=1e-3)
    effects = np.array(explorer.measure(state)["effects"]["log_probs"]).reshape(6, 7)
    np.testing.assert_allclose(effects[:, :6], lens.ablation(CITIZEN, shakespeare, " S").change, atol=1e-3)


def test_saliency_is_that_of_the_saliency_command(explorer, shakespeare):
    hook = lens.zero(1, 5)
    for token in (11, 4):
        found = explorer.see({"text": CITIZEN, "saliency": True, "token": token, "out": [part(1, 5)]})["saliency"]
        expected = lens.saliency(CITIZEN, shakespeare, position=token, hook=hook)
        np.testing.assert_allclose(found["values"], expected.values, atol=1e-3)
        assert found["answer"] == expected.answer and found["token"] == token


@pytest.mark.parametrize("state, message", [
    ({"text": "word " * 300}, "but the model's context holds 256: shorten it"),
    ({"text": "x" * 10**6}, "more than 256 tokens"),
    ({"ids": [1, 5000]}, "token id 5000 is not in the vocabulary"),
    ({"ids": [1], "steps": [-1]}, "token id -1 is not in the vocabulary"),
    ({"ids": [5] * 256, "steps": ["likeliest"]}, "fills the model's context of 256 tokens: step back"),
    ({"text": 5}, "text must be a string, not 5"),
    ({"text": "O", "other": [5]}, "other must be a string, not [5]"),
    ({"text": "O", "token": 7.5}, "token must be a whole number"),
    ({"text": "O", "out": [42]}, "from 0 to 41"),
    ({"text": "O", "head": [0, 6]}, "head must be a whole number from 0 to 5"),
    ({"text": "O", "view": "all"}, "view must be one of"),
    ({"text": "O", "nothing": 1}, "a state has the fields text, ids"),
    ({"text": "O", "patches": [[9, 0]], "other": "A"}, "layer must be a whole number from 0 to 5"),
])
def test_a_state_that_cannot_be_shown(explorer, state, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        explorer.see(state)


# --- whom it answers ---


@contextlib.contextmanager
def serving(explorer, **options):
    """A server in a thread of this process."""
    with Server(explorer, **{"port": 0, "token": TOKEN, "text": CITIZEN, **options}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(explorer):
    with serving(explorer) as server:
        yield server


def ask(server, path, body=None, method=None, **headers):
    """(status, headers, text) of a request, as it is written: nothing is added to make it right."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    headers = {"Host": f"127.0.0.1:{server.server_port}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
    response = connection.getresponse()
    with contextlib.closing(connection):
        return response.status, response.headers, response.read().decode()


def test_measuring_goes_on_beside_another_windows_and_ends_for_what_is_seen(explorer, monkeypatch):
    ends, go_on = [], threading.Event()

    def measure(asked, interrupted):
        ends.append(go_on.wait(30) and interrupted())
        return {}

    monkeypatch.setattr(explorer, "measure", measure)
    with serving(explorer) as server:
        for name, is_asked in (("measure", lambda: True), ("see", lambda: bool(server.waiting))):
            go_on.clear()
            paths = [f"/{TOKEN}/{one}" for one in ("measure", name)]
            threads = [threading.Thread(target=ask, args=(server, path, "{}")) for path in paths]
            for thread in threads:
                thread.start()
                wait_for(server.one_at_a_time.locked)
                time.sleep(0.1)  # so that the other's request is there
            wait_for(is_asked)
            go_on.set()
            for thread in threads:
                thread.join()
    assert ends == [False, False, True]


def test_the_page_and_what_it_asks(server):
    status, headers, page = ask(server, f"/{TOKEN}/")
    assert status == 200 and page.startswith("<!DOCTYPE html>") and "connect-src 'self'; base-uri" in page
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    origin = f"http://127.0.0.1:{server.server_port}"
    status, headers, answer = ask(server, f"/{TOKEN}/see", json.dumps({"text": HOSTILE}), Origin=origin)
    assert status == 200 and json.loads(answer)["text"] == HOSTILE and "</script>" not in answer


def test_only_its_own_page_with_the_token_gets_an_answer(server):
    body, own = json.dumps({"text": "O"}), f"http://127.0.0.1:{server.server_port}"
    wrong = [
        dict(path="/"), dict(path="/see"), dict(path="//"), dict(path="/not-the-token/see"), dict(path=f"/{TOKEN}"),
        dict(path=f"/{TOKEN}/see", Host="example.com"), dict(path=f"/{TOKEN}/see", Host="127.0.0.1:1"),
        dict(path=f"/{TOKEN}/see", Host=""), dict(path=f"/{TOKEN}/see", Origin="https://example.com"),
        dict(path=f"/{TOKEN}/see", Origin="null"), dict(path=f"/{TOKEN}/see", Origin=own.replace("http", "https")),
    ]
    for request in wrong:
        assert ask(server, body=body, **request)[0] in (403, 404), request
        assert "O" not in ask(server, body=body, **request)[2].replace("Open", "")
    assert ask(server, f"/{TOKEN}/", Host="evil.example")[0] == 403  # a name that leads to 127.0.0.1
    assert ask(server, f"/{TOKEN}/nothing", body)[0] == 404
    assert ask(server, f"/{TOKEN}/", method="PUT", body=body)[0] == 501
    assert ask(server, f"/{TOKEN}/see", body, Host=f"localhost:{server.server_port}")[0] == 200


def test_what_is_wrong_in_a_request_is_one_line(server):
    for body, message in (('{"text": "' + "word " * 300 + '"}', "context holds 256"), ("[1]", "fields"),
                          ("{", "Expecting"), (b"\xff", "utf-8"), ("[" * 100_000, "while decoding a JSON array")):
        status, _, text = ask(server, f"/{TOKEN}/see", body)
        assert status == 400 and message in text and "\n" not in text
    status, _, text = ask(server, f"/{TOKEN}/see", b"", Content_Length="99999999")
    assert status == 400 and "at most 8,000,000 bytes" in text


def test_a_mistake_of_the_programs_is_one_line_for_the_page_and_a_traceback_for_the_terminal(
        server, explorer, monkeypatch, capsys):
    monkeypatch.setattr(explorer, "see", lambda asked: {}["key"])
    status, _, text = ask(server, f"/{TOKEN}/see", "{}")
    assert status == 500 and text == "the server failed (KeyError: 'key'); see its terminal for details"
    wait_for(lambda: "KeyError: 'key'" in capsys.readouterr().err)


def test_other_commands_do_not_wait_for_the_import_of_a_server():
    source = "import sys, lens; sys.exit('http.server' in sys.modules)"
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True)


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_requests_take_turns(explorer, monkeypatch):
    at_once, most, see = [], [], explorer.see

    def slow(asked):
        at_once.append(1)
        most.append(len(at_once))
        threading.Event().wait(0.05)
        at_once.pop()
        return see(asked)

    monkeypatch.setattr(explorer, "see", slow)
    with serving(explorer) as server:
        threads = [threading.Thread(target=ask, args=(server, f"/{TOKEN}/see", '{"text": "O"}')) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1, 1, 1, 1]


def test_a_port_that_is_taken(explorer, server):
    with Server(explorer, port=server.server_port) as other:
        assert other.server_port > server.server_port
        assert len(other.token) >= 20  # a random one: 128 bits


@pytest.fixture
def process():
    """Start `lens.py serve` as a process: process(*options) -> (Popen, its address, the lines before it)."""
    started = []

    def start(*options, env=None):
        command = [sys.executable, "-u", str(ROOT / "lens.py"), "serve", *options, *BUNDLED]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                                 env={**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": "", **(env or {})})
        started.append(child)
        lines = []
        while True:
            line = child.stderr.readline()
            assert line, lines
            found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", line)
            lines.append(line)
            if found:
                return child, found[0], lines

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_the_command_prints_the_address_and_ends_with_ctrl_c(process):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child, address, lines = process("--port", str(port))
    new_port = int(re.search(r":(\d+)/", address)[1])
    assert lines[0] == f"port {port} is taken: using {new_port}\n" and port < new_port <= port + 100
    assert "ready at" in lines[1] and len(address.rstrip("/").rpartition("/")[2]) >= 20
    child.send_signal(signal.SIGINT)
    stdout, rest = child.communicate(timeout=20)
    assert stdout == "" and rest.strip().count("\n") == 0 and "Traceback" not in rest and child.returncode == 0


@pytest.mark.parametrize("arguments, env, status, message", [
    (("--port", "0"), {}, 2, "port must be a whole number from 1 to 65535"),
    (("word " * 300,), {}, 2, "context holds 256"),
    ((), {"LENS_TOKEN": "short"}, 1, "LENS_TOKEN must be at least 16"),
])
def test_the_command_refuses_what_it_cannot_do(lens_py, monkeypatch, arguments, env, status, message):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert message in error_line(lens_py("serve", *arguments, *BUNDLED), status)


# --- in a browser ---


@pytest.fixture
def browser(driver, server):
    browser = Browser(driver, server.address)
    wait_for(lambda: shows_effects(browser))
    return browser


def shows_effects(browser):
    return browser.js("Boolean(data.effects)")


def settled(browser):
    """Wait until what was asked is shown."""
    wait_for(lambda: browser.js("!asking && !waiting && !data.effects?.stale"))


def write(browser, text, selector="#text"):
    """Type over what is there."""
    browser.js("(byId(arguments[0]).focus(), byId(arguments[0]).select())", selector[1:])
    browser.press(*(text or ["BACKSPACE"]))
    settled(browser)


@pytest.mark.slow
def test_everything_follows_what_is_typed(browser, shakespeare):
    for text in ("O Romeo, Romeo! wherefore art thou", "To be, or not to be", "", HOSTILE):
        write(browser, text)
        assert browser.texts(".chip > :first-child") == lens.tokens(text, shakespeare).pieces
        assert browser.next_tokens() == at_end(lens.next_tokens(text, shakespeare))
        if text:
            bits = -lens.score(text, shakespeare).log_probs / math.log(2)
            assert browser.numbers(".chip .number") == pytest.approx(bits, abs=0.051)
        browser.view("attention")
        settled(browser)
        layer, head = browser.js("state.head")
        pattern = lens.attention(text, shakespeare, layer, head).pattern[0]
        assert browser.numbers(".chip .number") == pytest.approx(pattern[-1], abs=1.1e-3)
        browser.view("layers")
        settled(browser)
        expected = lens.logit_lens(text, shakespeare, 10)
        assert browser.texts("#lens td > :first-child") == expected.predictions[:, :, 0].T.ravel().tolist()
        assert browser.texts("#lens-of-token td > :first-child") == expected.predictions[:, -1].ravel().tolist()
        browser.view("next")
        settled(browser)
    assert browser.js("document.title").endswith("”") and browser.all("main b, main script") == []
    assert browser.warnings() == []


@pytest.mark.slow
def test_likeliest_sampled_and_clicked_tokens_are_appended_and_taken_back(browser, shakespeare):
    ids = shakespeare.encode(CITIZEN)
    greedy = shakespeare.generate(ids, 3)
    for i in range(3):
        browser.one("#likeliest").click()
        settled(browser)
        assert browser.js("data.ids") == ids + greedy[: i + 1]
        assert browser.js("byId('text').value") == shakespeare.encoder.decode(ids + greedy[: i + 1])
    browser.one("#back").click()
    browser.one("#back").click()
    settled(browser)
    assert browser.js("data.ids") == ids + greedy[:1]
    third = lens.next_tokens(ids + greedy[:1], shakespeare).ids[2]
    browser.all("#next-table .adding button")[2].click()
    settled(browser)
    assert browser.js("data.ids") == [*ids, greedy[0], third]
    browser.js("byId('text').focus()")
    browser.one("#sample").click()
    settled(browser)
    assert len(browser.js("data.ids")) == len(ids) + 3
    browser.all(".chip")[2].click()
    settled(browser)
    assert not browser.one("#next-table .adding button").is_displayed()  # they would not follow the chosen token
    assert browser.next_tokens() == at_end(lens.next_tokens(ids[:3], shakespeare))


@pytest.mark.slow
def test_clicks_that_come_too_fast_are_all_done(browser, shakespeare):
    ids = shakespeare.encode(CITIZEN)
    browser.js("[1, 2, 3, 4].forEach(() => byId('likeliest').click())")
    settled(browser)
    assert browser.js("data.ids") == ids + shakespeare.generate(ids, 4)


@pytest.mark.slow
def test_what_a_hidden_page_left_is_measured_when_it_is_shown(browser, explorer, monkeypatch):
    measure, begun = explorer.measure, []

    def slow(*arguments):
        begun.append(arguments)
        time.sleep(1.5)
        return measure(*arguments)

    def turn(hidden):
        browser.js("Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true})", hidden)
        browser.js("document.dispatchEvent(new Event('visibilitychange'))")

    monkeypatch.setattr(explorer, "measure", slow)
    turn(hidden=True)
    browser.one("#text").send_keys(" ")
    settled(browser)
    time.sleep(0.5)  # longer than REST
    assert not begun
    turn(hidden=False)
    wait_for(lambda: begun)
    turn(hidden=True)
    turn(hidden=False)  # while it is being measured
    wait_for(lambda: shows_effects(browser))
    time.sleep(0.3)
    assert len(begun) == 1


@pytest.mark.slow
def test_two_parts_out_at_once(browser, shakespeare):
    for name in ("layer 1, head 5", "layer 3, head 2"):
        browser.part(name).click()
    settled(browser)
    hook = lens.compose(lens.zero(1, 5), lens.zero(3, 2))
    assert browser.next_tokens() == at_end(lens.next_tokens(CITIZEN, shakespeare, hook=hook))
    assert browser.text("#changes-says") == "Everything below is computed without layer 1, head 5; layer 3, head 2."
    browser.one("#undo").click()
    settled(browser)
    assert browser.next_tokens() == at_end(lens.next_tokens(CITIZEN, shakespeare))


@pytest.mark.slow
def test_patching_by_clicking(browser, shakespeare):
    expected = lens.patching(MURDERER, SENATOR, shakespeare, " M", " S").grid
    write(browser, SENATOR)
    browser.view("patching")
    settled(browser)
    write(browser, MURDERER, "#other")
    write(browser, "·M", "#answer")
    write(browser, "·S", "#wrong")
    wait_for(lambda: browser.js("Boolean(data.places)"))
    np.testing.assert_allclose(np.array(browser.numbers(".place")).reshape(16, 6).T, expected, atol=0.0051)
    for layer, token in ((2, 10), (5, 15)):
        browser.click(browser.one(f".place[data-layer='{layer}'][data-at='{token}']"))
        settled(browser)
        assert f"{expected[layer, token]:.1%} of the way" in browser.text("#patching-says")
        browser.click(browser.one(f".place[data-layer='{layer}'][data-at='{token}']"))
        settled(browser)
    write(browser, "Murderer", "#answer")
    assert "must be one token" in browser.text("#patching-says")
    write(browser, "First", "#other")
    assert "The texts have 16 and 1 tokens" in browser.text("#patching-says")
    assert browser.texts("#patching-says bdi") == ["First"]
    assert browser.js("byId('answer').value") == "Murderer" and browser.js("byId('text').value") == SENATOR


@pytest.mark.slow
def test_saliency_colours_the_tokens(browser, shakespeare):
    browser.one("#saliency").click()
    settled(browser)
    expected = lens.saliency(CITIZEN, shakespeare)
    np.testing.assert_allclose(np.array(browser.numbers(".chip .number"), float), expected.values, atol=0.0051)
    assert "·C" in browser.text("#strip-says")
    browser.all("#next-table [type=radio]")[2].click()
    settled(browser)
    piece = browser.texts("#next-table th bdi")[2]
    expected = lens.saliency(CITIZEN, shakespeare, piece.replace("·", " "))
    np.testing.assert_allclose(np.array(browser.numbers(".chip .number"), float), expected.values, atol=0.0051)
    assert piece in browser.text("#strip-says")
    wait_for(lambda: piece in browser.text("#parts-says"))


@pytest.mark.slow
def test_a_text_that_is_too_long_is_said_and_kept(browser, shakespeare):
    write(browser, CITIZEN)
    browser.js("(byId('text').value = 'word '.repeat(300), byId('text').dispatchEvent(new Event('input')))")
    settled(browser)
    assert "context holds 256: shorten it" in browser.one("#problem").text
    assert not browser.one("#next-table .adding button").is_displayed()
    browser.all(".chip")[3].click()  # the text before it can still be looked at
    settled(browser)
    assert "(token 3)" in browser.text("#next-title")
    assert browser.one("#problem").is_displayed() and not browser.one("#likeliest").is_enabled()
    browser.driver.refresh()
    settled(browser)
    assert len(browser.js("byId('text').value")) == 1500 and browser.one("#problem").is_displayed()
    write(browser, "O Romeo")
    assert not browser.one("#problem").is_displayed() and browser.texts(".chip > :first-child") == ["O", "·Rome", "o"]


@pytest.mark.slow
def test_what_is_typed_survives_a_reload(browser, driver):
    write(browser, "O Romeo")
    browser.view("patching")
    settled(browser)
    write(browser, "O Julio", "#other")
    driver.refresh()
    settled(browser)
    assert browser.js("[byId('text').value, byId('other').value]") == ["O Romeo", "O Julio"]
    assert browser.texts(".chip > :first-child") == ["O", "·Rome", "o"]
    browser.view("patching")
    settled(browser)
    assert browser.all(".place") or "The texts have" in browser.text("#patching-says")


@pytest.mark.slow
def test_two_tabs_have_texts_of_their_own(browser, driver, shakespeare):
    first = driver.current_window_handle
    write(browser, "O Romeo")
    driver.switch_to.new_window("tab")
    try:
        other = Browser(driver, browser.url)
        write(other, "The king")
        other.part("layer 0, head 0").click()
        settled(other)
        second = other.next_tokens()
        driver.switch_to.window(first)
        assert browser.next_tokens() == at_end(lens.next_tokens("O Romeo", shakespeare))
        browser.one("#likeliest").click()
        settled(browser)
        assert second == at_end(lens.next_tokens("The king", shakespeare, hook=lens.zero(0, 0)))
    finally:
        for handle in driver.window_handles:
            if handle != first:
                driver.switch_to.window(handle)
                driver.close()
        driver.switch_to.window(first)


@pytest.mark.slow
def test_the_server_goes_and_comes_back(driver, process, shakespeare):
    child, address, _ = process(env={"LENS_TOKEN": TOKEN})
    browser, port = Browser(driver, address), re.search(r":(\d+)/", address)[1]
    write(browser, "O Romeo")
    child.kill()
    child.wait()
    browser.js("byId('text').focus()")
    browser.press("!", "?")
    wait_for(lambda: "is not responding" in browser.one("#problem").text)
    browser.one("#likeliest").click()
    assert process("--port", port, env={"LENS_TOKEN": TOKEN})[1] == address
    settled(browser)
    text = browser.js("byId('text').value")
    assert text.startswith("O Romeo!?") and len(text) > len("O Romeo!?")
    assert not browser.one("#problem").is_displayed()
    assert browser.next_tokens() == at_end(lens.next_tokens(browser.js("data.ids"), shakespeare))


@pytest.mark.slow
def test_another_server_at_the_address(browser, server):
    server.token = "another-token-than-before"
    browser.one("#likeliest").click()
    wait_for(lambda: "open the address that it printed" in browser.one("#problem").text)
    server.token = TOKEN
    settled(browser)
    assert not browser.one("#problem").is_displayed()


@pytest.mark.slow
def test_a_saved_page_is_the_page_of_what_is_shown(browser, driver, tmp_path, shakespeare):
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.part("layer 1, head 5").click()
    browser.all(".chip")[9].click()
    settled(browser)
    wait_for(lambda: browser.js("Boolean(data.effects) && !data.effects.stale"))  # the last request of this page
    browser.one("#save").click()
    file = tmp_path / "page.html"
    wait_for(file.exists)
    saved = Browser(driver, file.as_uri())
    ids, hook = shakespeare.encode(CITIZEN)[:10], lens.zero(1, 5)
    assert saved.next_tokens() == at_end(lens.next_tokens(ids, shakespeare, hook=hook))
    assert saved.text("#changes-says") == "Everything below is computed without layer 1, head 5."
    saved.part("layer 2, head 0").click()
    both = lens.compose(hook, lens.zero(2, 0))
    assert saved.next_tokens() == at_end(lens.next_tokens(ids, shakespeare, hook=both))
    assert not saved.one("#text").is_displayed() and saved.requests() == [saved.url] and saved.warnings() == []


@pytest.mark.slow
def test_the_live_page_works_with_the_keyboard_alone(browser, shakespeare):
    browser.press("TAB", "TAB")  # the button that saves, the text
    assert browser.focused()[0] == "text"
    browser.press("END", " ", "C")
    settled(browser)
    browser.press("TAB", "ENTER")
    settled(browser)
    ids = shakespeare.encode(CITIZEN + " C")
    assert browser.js("data.ids") == ids + shakespeare.generate(ids, 1)
    browser.press("TAB", "TAB", "ENTER")
    settled(browser)
    assert browser.js("data.ids") == ids
    browser.press("TAB", "ARROW_LEFT", "ARROW_LEFT")  # the tokens
    settled(browser)
    assert browser.js("state.token") == len(ids) - 3
    browser.press("TAB", "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")  # the views
    settled(browser)
    assert browser.one("#patching").is_displayed()
    browser.press("TAB")
    assert browser.focused()[0] == "other"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_and_everyone_can_use_it(driver, server, scheme, width):
    browser = Browser(driver, server.address, scheme=scheme, width=width)
    write(browser, SENATOR)
    browser.part("layer 1, head 5").click()
    for view in ("next", "attention", "layers", "patching"):
        browser.view(view)
        settled(browser)
        if view == "attention":
            browser.js("byId('weight').open = true")
            settled(browser)
        if view == "patching":
            write(browser, MURDERER, "#other")
            wait_for(lambda: browser.js("Boolean(data.places)"))
        assert browser.fits()
        assert least_contrast(browser) >= 4.5  # WCAG AA
        assert browser.violations() == []


@pytest.mark.slow
def test_typing_goes_on_while_a_pass_runs_and_the_latest_text_wins(browser, explorer, shakespeare, monkeypatch):
    seen, see, go_on = [], explorer.see, threading.Event()

    def slow(asked):
        seen.append(asked["text"])
        go_on.wait(30)
        return see(asked)

    monkeypatch.setattr(explorer, "see", slow)
    browser.js("byId('text').select()")
    browser.press(*"The king and")
    assert browser.js("byId('text').value") == "The king and"  # while the first letter's pass runs
    go_on.set()
    settled(browser)
    assert seen == ["T", "The king and"]
    assert browser.next_tokens() == at_end(lens.next_tokens("The king and", shakespeare))


@pytest.mark.slow
def test_a_lens_that_takes_long_becomes_whole(browser, shakespeare, monkeypatch):
    monkeypatch.setattr("inside.explore.MOST_WORK", 0)  # one token at a time
    browser.view("layers")
    settled(browser)
    expected = lens.logit_lens(CITIZEN, shakespeare).predictions[:, :, 0].T.ravel().tolist()
    assert browser.texts("#lens-of-token .last > :first-child")[0] == expected[-1]
    wait_for(lambda: browser.texts("#lens td > :first-child") == expected)
    assert browser.js("lensIsWhole()")
