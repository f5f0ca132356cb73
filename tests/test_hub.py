"""Models from the Hugging Face Hub: what is downloaded, what is kept, and what goes wrong on the way."""
import json
import os

import numpy as np
import pytest
from helpers import DATA, error_line
from hub_server import HubServer
from huggingface_hub import constants, hf_hub_download

from model_files import hub
from utils import available_models, find_model, load_encoder_hparams_and_params


def files_of(name):
    return {path.name: path.read_bytes() for path in (DATA / "hugging-face" / name).iterdir()}


BESIDE = {"README.md": b"# A model", "pytorch_model.bin": b"a pickle", "tf_model.h5": b"x", "onnx/model.onnx": b"x",
          "flax_model.msgpack": b"x", ".gitattributes": b"x", "model.fp16.safetensors": b"x"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub with two models, which is the one that is asked, and an empty cache."""
    with HubServer({f"me/{name}": files_of(name) | BESIDE for name in ("plain", "odd")}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def change(server, model, name, **changes):
    content = json.loads(server.models[model][name]) | changes
    server.models[model][name] = json.dumps(content).encode()


@pytest.mark.parametrize("name", ["plain", "odd"])
def test_only_the_files_that_are_needed_are_downloaded_once(server, tmp_path, name):
    first = load_encoder_hparams_and_params(f"me/{name}", tmp_path / "models")
    assert sorted(server.fetched()) == sorted(files_of(name))
    assert first.encoder.name == f"me/{name}"
    server.requests.clear()
    again = load_encoder_hparams_and_params(f"me/{name}")
    assert again.generate([1, 2, 3], 5) == first.generate([1, 2, 3], 5)
    assert server.requests == []  # the second time nothing is asked
    assert not (tmp_path / "models").exists()
    assert available_models(tmp_path / "models") == [f"me/{name}", "shakespeare"]


def test_the_converted_copy_lies_in_the_cache_beside_the_model(server, tmp_path):
    load_encoder_hparams_and_params("me/plain")
    folder = find_model("me/plain")
    assert [path.parent for path in (tmp_path / "cache").rglob("params-*.npy")] == [folder]
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("cuts", [[5000], pytest.param([3000, 4000], marks=pytest.mark.slow)])
def test_an_interrupted_download_is_resumed(server, monkeypatch, cuts):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is less is not kept
    server.cut["model.safetensors"] = list(cuts)
    for _ in range(len(cuts) + 1):  # huggingface_hub before 1.0 leaves it to the next run
        try:
            model = load_encoder_hparams_and_params("me/plain")
            break
        except ConnectionError as error:
            assert "me/plain" in str(error) and "\n" not in str(error)
    assert model.encoder.n_vocab == 300
    asked = [start for method, path, start in server.requests if method == "GET" and path.endswith("model.safetensors")]
    assert asked[0] is None and f"bytes={sum(cuts)}-" in asked
    assert len(server.fetched()) == len(set(server.fetched())) + len(cuts)  # the other files came once


def test_a_newer_version_is_taken_once_the_cache_knows_of_it(server):
    old = load_encoder_hparams_and_params("me/plain")
    weights = bytearray(server.models["me/plain"]["model.safetensors"])
    weights[-1] ^= 1
    server.models["me/plain"]["model.safetensors"], server.commit = bytes(weights), server.commit[::-1]
    assert load_encoder_hparams_and_params("me/plain").generate([1, 2], 5) == old.generate([1, 2], 5)
    hf_hub_download("me/plain", "config.json")
    new = load_encoder_hparams_and_params("me/plain")
    assert find_model("me/plain").name == server.commit
    assert not np.array_equal(new.params["wte"], old.params["wte"])


def test_shards_of_any_name(server):
    files = server.models["me/odd"]
    for name in [name for name in files if name.startswith("model-0")]:
        files[f"part-{name}"] = files.pop(name)
    index = files["model.safetensors.index.json"]
    files["model.safetensors.index.json"] = index.replace(b'"model-0', b'"part-model-0')
    assert load_encoder_hparams_and_params("me/odd").encoder.n_vocab == 320


def test_what_a_killed_download_left_is_not_downloaded_again(server):
    load_encoder_hparams_and_params("me/odd")
    shard = find_model("me/odd") / "model-00002-of-00002.safetensors"
    shard.resolve().unlink()
    shard.unlink(missing_ok=True)
    assert available_models("nowhere") == ["shakespeare"]
    server.requests.clear()
    assert load_encoder_hparams_and_params("me/odd").encoder.n_vocab == 320
    assert server.fetched() == [shard.name]


@pytest.mark.parametrize("file, changes, message", [
    ("config.json", {"activation_function": "relu"}, 'activation_function is "relu"'),
    ("config.json", {"model_type": "gpt_neo"}, "model_type"),
    ("config.json", {"vocab_size": 200}, "vocab.json has 300 tokens"),
    ("generation_config.json", None, "is not JSON"),
])
def test_another_model_is_refused_before_its_weights_are_downloaded(server, file, changes, message):
    if changes is None:
        server.models["me/plain"][file] = b"{"
    else:
        change(server, "me/plain", file, **changes)
    with pytest.raises(ValueError, match=message):
        load_encoder_hparams_and_params("me/plain")
    assert "model.safetensors" not in server.fetched() and available_models("nowhere") == ["shakespeare"]


@pytest.mark.parametrize("files, message", [
    (["config.json", "pytorch_model.bin"], r'weights only in pytorch_model.bin.* M.from_pretrained\("me/plain"\)'),
    (["adapter_config.json", "adapter_model.safetensors"], "is an adapter"),
    (["README.md"], "has no config.json"),
    (["config.json", "tf_model.h5", "model.fp16.safetensors"], "has no model.safetensors"),
])
def test_other_formats_are_refused_before_anything_is_downloaded(server, files, message):
    server.models["me/plain"] = {name: b"{}" for name in files}
    with pytest.raises(ValueError, match=message):
        load_encoder_hparams_and_params("me/plain")
    assert server.fetched() == []


@pytest.mark.parametrize("status, code, error, message", [
    (404, "RepoNotFound", FileNotFoundError, "there is no model me/mine on http.*if it is private, run hf auth login"),
    (401, "RepoNotFound", FileNotFoundError, "there is no model me/mine"),
    (403, "GatedRepo", PermissionError, "accepted its conditions: do that in a browser at http.*/me/mine, then run"),
    (400, "Odd", OSError, "me/mine on http.*: Bad request: Odd: no|me/mine on http.*400 Client Error"),
])
def test_what_the_hub_refuses(server, tmp_path, status, code, error, message):
    server.errors["me/mine"] = (status, code)
    with pytest.raises(error, match=message) as raised:
        load_encoder_hparams_and_params("me/mine")
    assert "\n" not in str(raised.value)


def test_without_a_network(server, monkeypatch):
    load_encoder_hparams_and_params("me/plain")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert load_encoder_hparams_and_params("me/plain").encoder.n_vocab == 300
    with pytest.raises(ConnectionError, match="cannot reach me/odd on http://127.0.0.1:9") as error:
        load_encoder_hparams_and_params("me/odd")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_environment_of_hugging_face_counts(server, run, tmp_path):
    env = {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(tmp_path / "here")}
    first = run("the end", "4", "--model_size", "me/odd", env=env)
    assert first.returncode == 0, first.stderr
    assert f"downloading me/odd on {server.url} to {tmp_path / 'here'}\n" in first.stderr
    offline = {**env, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    again = run("the end", "4", "--model_size", "me/odd", env=offline)
    assert again.returncode == 0 and again.stdout == first.stdout
    assert "HF_HUB_OFFLINE forbids asking the Hub" in error_line(run("x", "--model_size", "me/plain", env=offline))


@pytest.mark.parametrize("name", ["a/b", "openai-community/gpt2", "A_1/b.c-d", "x/" + "n" * 96])
def test_names_of_the_hub(name):
    assert hub.is_hub_name(name)


@pytest.mark.parametrize("name", ["a", "a/b/c", "/b", "a/", "../b", "a/..", ".a/b", "-a/b", "a-/b", "a/b--c", "a/b..c",
                                  "a/b\n", "a/b c", "a/é", "a\\b", "x/" + "n" * 97])
def test_what_is_no_name_of_the_hub(name):
    assert not hub.is_hub_name(name)


@pytest.mark.parametrize("ref", ["", "../../..", "main"])
def test_a_strange_ref_in_the_cache_leads_nowhere_else(server, tmp_path, ref):
    refs = tmp_path / "cache" / "models--me--plain" / "refs"
    os.makedirs(refs)
    (refs / "main").write_text(ref)
    assert find_model("me/plain") == tmp_path / "cache" / "models--me--plain" / "snapshots" / "main"
    assert load_encoder_hparams_and_params("me/plain").encoder.n_vocab == 300
