"""Folders as Hugging Face keeps them: what transformers makes of them, and what is refused."""
import json
import shutil
import struct

import numpy as np
import pytest
from helpers import DATA, error_line, read_json

from lens import score, tokens
from model_files import hugging_face
from utils import available_models, find_model, load_encoder_hparams_and_params, load_hparams, load_params

EXPECTED = read_json("hugging-face/expected.json")


@pytest.fixture
def models(tmp_path):
    """A models_dir with copies of the two folders that transformers wrote, `plain` and `odd`."""
    return shutil.copytree(DATA / "hugging-face", tmp_path / "models", ignore=shutil.ignore_patterns("*.json.py"))


@pytest.fixture
def folder(models):
    return models / "plain"


def check_logits(model):
    """Whether a model loaded from some form of `plain` computes its logits."""
    np.testing.assert_allclose(model.logits(EXPECTED["plain"]["inputs"])[5:9], EXPECTED["plain"]["logits"], atol=2e-5)


def load(folder):
    return load_encoder_hparams_and_params(folder.name, folder.parent)


def change_json(path, **changes):
    """Change an object in a JSON file: a value of ... takes the name away, a name with __ goes into an object."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, value in changes.items():
        *outer, name = name.split("__")
        place = content
        for key in outer:
            place = place[key]
        if value is ...:
            del place[name]
        else:
            place[name] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def read_file(path):
    """(header, data) of a safetensors file, read without the program and without safetensors."""
    content = path.read_bytes()
    n_bytes, = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + n_bytes]), content[8 + n_bytes :]


def write_file(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_tensors(path):
    header, data = read_file(path)
    return {name: np.frombuffer(data[slice(*tensor["data_offsets"])], "<f4").reshape(tensor["shape"])
            for name, tensor in header.items() if name != "__metadata__"}


def write_tensors(path, tensors, dtype="F32"):
    """Write {name: float32 array} to a safetensors file, as numbers of another type if need be."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        if dtype == "BF16":
            content = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            content = array.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    write_file(path, header, data)


# --- what transformers makes of it --------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "odd"])
def test_ids_logits_and_greedy_ids_are_those_of_transformers(models, name, capsys):
    expected = EXPECTED[name]
    for time in ("converted", "mapped"):
        model = load(models / name)
        assert ("converting" in capsys.readouterr().err) == (time == "converted")
        assert [model.encoder.encode(text) for text in EXPECTED["texts"]] == expected["ids"]
        np.testing.assert_allclose(model.logits(expected["inputs"])[5:9], expected["logits"], atol=2e-5)
        assert [model.generate(prompt, 16) for prompt in expected["prompts"]] == expected["greedy"]
        assert [path.name for path in (models / name).glob("params-*")] and type(model.params["wte"]) is np.ndarray


def test_every_id_is_decoded(models):
    encoder = load(models / "odd").encoder
    decoded = {int(i): text for i, text in EXPECTED["odd"]["decoded"].items()}
    assert decoded.pop(310) == "t\ufffdtle" and encoder.decode([310]) == "tïtle"  # ï is taken for a byte there
    assert {i: encoder.decode([i]) for i in decoded} == decoded
    assert encoder.n_vocab == 320 and encoder.decode([311, 319, 310]) == "tïtle"  # the first two are padding
    assert list(encoder.decode_stream([319, 310])) == ["tïtle"]
    with pytest.raises(ValueError, match="ids are 0 to 319"):
        encoder.decode([320])


@pytest.mark.parametrize("name", EXPECTED["files"])
def test_added_tokens_as_older_versions_kept_them(folder, name):
    case = EXPECTED["files"][name]
    for file, content in case["files"].items():
        (folder / file).write_text(json.dumps(content))
    encoder = load(folder).encoder
    assert [encoder.encode(text) for text in EXPECTED["texts"]] == case["ids"]


def test_added_tokens_can_be_ordinary_text(models):
    encoder = load(models / "odd").encoder
    for text in EXPECTED["texts"]:
        ids = encoder.encode(text, added_tokens=False)
        assert encoder.decode(ids) == text and max(ids, default=0) < 299


def test_the_models_own_first_and_last_token(models):
    encoder = load(models / "odd").encoder
    assert encoder.new_text() == encoder.encode("<|startoftext|>") == [300]
    assert [encoder.eot_token] == encoder.encode("<|im_end|>") == [301]
    change_json(models / "odd" / "generation_config.json", eos_token_id=[302, 301], bos_token_id=None)
    encoder = load(models / "odd").encoder
    assert encoder.eot_token == 302 and encoder.new_text() == [302]
    (models / "odd" / "generation_config.json").unlink()
    change_json(models / "odd" / "config.json", eos_token_id=50256)  # as by default; this model has no such id
    assert load(models / "odd").encoder.eot_token == 299


def test_ids_without_text_and_added_tokens_in_lens(models):
    model = load(models / "odd")
    assert tokens([317, 302, 0], model).pieces == ["#317", "[PAD]", "!"]
    words = score("a new words <both> end", model, words=True).words
    assert [(word.word, word.n_tokens) for word in words] == [("a", 1), ("new words<both>end", 5)]


def test_a_text_ends_with_the_models_own_last_token(folder):
    prompt, greedy = EXPECTED["plain"]["prompts"][1], EXPECTED["plain"]["greedy"][1]
    change_json(folder / "generation_config.json", eos_token_id=greedy[5])
    model = load(folder)
    assert model.generate(prompt, 16, stop_id=model.encoder.eot_token) == greedy[: greedy.index(greedy[5])]


def test_what_generation_config_asks_for_in_vain_is_said(folder, capsys):
    path = folder / "generation_config.json"
    change_json(path, num_beams=1, repetition_penalty=1.0, suppress_tokens=[], min_length=0, eos_token_id=[5])
    load(folder)
    assert "ignored" not in capsys.readouterr().err
    change_json(path, repetition_penalty=1.3, suppress_tokens=[7], eos_token_id=[5, 6])
    load(folder)
    names = "repetition_penalty, suppress_tokens, eos_token_id (a text ends with 5 alone)"
    assert f"ignored in {path}: {names}; transformers may" in capsys.readouterr().err
    path.unlink()  # as older versions saved it
    change_json(folder / "config.json", no_repeat_ngram_size=2, repetition_penalty=1.0)
    load(folder)
    assert f"ignored in {folder / 'config.json'}: no_repeat_ngram_size; transformers may" in capsys.readouterr().err


def test_a_token_that_the_model_does_not_have(folder):
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 300}))  # the embedding was not made larger
    model = load(folder)
    assert model.encoder.n_vocab == 300 and model.encode("[PAD]") == [300] and model.decode([300]) == "[PAD]"
    with pytest.raises(ValueError, match="token id 300 is not in the vocabulary: ids are 0 to 299"):
        model.logits(model.encode("[PAD]"))


def test_other_ways_to_write_the_same_tokenizer(models):
    path, same = models / "odd" / "tokenizer.json", EXPECTED["odd"]["ids"]
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    del tokenizer["model"]["type"], tokenizer["model"]["ignore_merges"], tokenizer["pre_tokenizer"]["use_regex"]
    tokenizer["post_processor"] = {"type": "ByteLevel", "trim_offsets": False}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": []}
    path.write_text(json.dumps(tokenizer))
    (models / "odd" / "tokenizer_config.json").unlink()
    encoder = load(models / "odd").encoder
    assert [encoder.encode(text) for text in EXPECTED["texts"]] == same
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    change_json(path, pre_tokenizer={"type": "Sequence", "pretokenizers": [
        split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]})
    encoder = load(models / "odd").encoder
    assert [encoder.encode(text) for text in EXPECTED["texts"]] == same


# --- other ways to write the same weights --------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_names_types_and_what_is_beside_the_weights(folder, dtype, prefix):
    tensors = read_tensors(folder / "model.safetensors")
    tensors = {prefix + name.removeprefix("transformer."): array for name, array in tensors.items()}
    expected = {"F32": lambda x: x, "F16": lambda x: x.astype("<f2").astype("<f4"),
                "BF16": lambda x: (x.view("<u4") >> 16 << 16).view("<f4")}[dtype]
    wanted = expected(tensors[f"{prefix}h.1.mlp.c_fc.weight"])
    for i in range(2):
        tensors |= {f"{prefix}h.{i}.attn.bias": np.tri(32, dtype="f4")[None, None],
                    f"{prefix}h.{i}.attn.masked_bias": np.float32(-1e4)}
    tensors |= {"lm_head.weight": tensors[f"{prefix}wte.weight"], "v_head.summary.weight": np.ones((1, 8)),
                "multiple_choice_head.summary.bias": np.ones(1)}
    write_tensors(folder / "model.safetensors", tensors, dtype)
    params = load_params(folder, load_hparams(folder))
    w = params["blocks"][1]["mlp"]["c_fc"]["w"]
    assert w.dtype == np.float32 and w.shape == (8, 32) and np.array_equal(w, wanted)
    assert params["blocks"][0]["attn"].keys() == {"c_attn", "c_proj"}
    assert params.keys() == {"blocks", "wte", "wpe", "ln_f"}


def test_the_embedding_under_the_outputs_name(folder):
    """safetensors.torch.save_model keeps one of two names for the same weights."""
    tensors = read_tensors(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    write_tensors(folder / "model.safetensors", tensors)
    check_logits(load(folder))


def test_changed_weights_are_converted_again(folder, capsys):
    tensors = read_tensors(folder / "model.safetensors")
    for value in (1.0, 2.0):  # the second differs in a few bytes of one tensor
        tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].copy()
        tensors["transformer.wpe.weight"][3, 3] = value
        write_tensors(folder / "model.safetensors", tensors)
        assert load(folder).params["wpe"][3, 3] == value
        assert len(list(folder.glob("params-*"))) == 1
    assert capsys.readouterr().err.count("converting") == 2


def test_one_weight_changed_in_a_file_of_megabytes(tmp_path):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.truncate(10_000_000)
    before = hugging_face.fingerprint(tmp_path)
    assert hugging_face.fingerprint(tmp_path) == before
    with open(path, "r+b") as file:
        file.seek(5_000_123)
        file.write(b"x")
    assert hugging_face.fingerprint(tmp_path) != before


def test_without_a_place_for_the_copy_the_weights_are_read_each_time(folder, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model_files.weights.convert", full)
    for _ in range(2):
        check_logits(load(folder))
        assert "No space left on device" in capsys.readouterr().err
    assert not list(folder.glob("params-*"))


# --- what is not this GPT-2 ---------------------------------------------------------------------


@pytest.mark.parametrize("changes, message", [
    ({"model_type": "gpt_neo"}, 'model_type is "gpt_neo", but GPT-2 has "gpt2"'),
    ({"activation_function": "gelu"}, 'activation_function is "gelu", but GPT-2 has "gelu_new"'),
    ({"activation_function": "relu"}, "activation_function"),
    ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, but GPT-2 has 1e-05"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is true"),
    ({"scale_attn_weights": False}, "scale_attn_weights is false"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings is false"),
    ({"add_cross_attention": True}, "add_cross_attention is true"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder is true"),
    ({"pruned_heads": {"1": [0]}}, "pruned_heads"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"auto_map": {"AutoModelForCausalLM": "custom.Model"}}, "auto_map"),
    ({"architectures": ["GPT2ForSequenceClassification"]}, "architectures .* no language model"),
    ({"n_head": ...}, "has no n_head"),
    ({"n_head": 3}, "n_embd = 8 is not divisible by n_head = 3"),
    ({"num_attention_heads": 4}, "n_head is 2 and num_attention_heads is 4, but both name the same size"),
    ({"n_layer": "2"}, "n_layer must be a whole number"),
    ({"n_inner": -1}, "n_inner must be a whole number"),
    ({"vocab_size": 299}, "vocab.json has 300 tokens, but config.json says vocab_size = 299"),
    ({"vocab_size": 301}, r"transformer.wte.weight|wte.weight has shape \[300, 8\].* need \[301, 8\]"),
    ({"n_positions": 64}, r"wpe.weight has shape \[32, 8\], but the sizes in config.json need \[64, 8\]"),
    ({"n_inner": 16}, r"h.0.mlp.c_fc.weight has shape \[8, 32\]"),
    ({"n_layer": 3}, "has no tensor h.2.attn.c_attn.weight"),
    ({"n_layer": 1}, "has the tensor h.1.attn.c_attn.bias and 11 more"),
])
@pytest.mark.parametrize("before", ["new", "converted"])
def test_another_model_is_refused_by_its_setting(folder, changes, message, before):
    if before == "converted":
        load(folder)
    change_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("changes", [
    {"reorder_and_upcast_attn": True}, {"attn_pdrop": 0.5}, {"activation_function": "gelu_pytorch_tanh"},
    {"architectures": ["GPT2DoubleHeadsModel"]}, {"architectures": ...}, {"n_inner": 32}, {"dtype": "float16"},
    {"n_positions": ..., "max_position_embeddings": 32}, {"n_embd": ..., "hidden_size": 8}, {"n_ctx": 32},
    {"layer_norm_epsilon": ..., "scale_attn_weights": ..., "tie_word_embeddings": ...},
])
def test_settings_that_change_nothing(folder, changes):
    change_json(folder / "config.json", **changes)
    check_logits(load(folder))


@pytest.mark.parametrize("changes, message", [
    ({"model__type": "WordPiece"}, 'model.type is "WordPiece", but GPT-2 has "BPE"'),
    ({"model": None}, "model.type is null"),
    ({"model__dropout": 0.1}, "model.dropout is 0.1"),
    ({"model__end_of_word_suffix": "</w>"}, "model.end_of_word_suffix"),
    ({"model__continuing_subword_prefix": "##"}, "model.continuing_subword_prefix"),
    ({"model__byte_fallback": True}, "model.byte_fallback is true"),
    ({"model__ignore_merges": True}, "model.ignore_merges is true"),
    ({"normalizer": {"type": "NFC"}}, 'normalizer is {"type": "NFC"}'),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}}, "normalizer"),
    ({"pre_tokenizer": None}, "pre_tokenizer is null"),
    ({"pre_tokenizer": {"type": "Metaspace"}}, 'pre_tokenizer is {"type": "Metaspace"}'),
    ({"pre_tokenizer__add_prefix_space": True}, "pre_tokenizer.add_prefix_space is true"),
    ({"pre_tokenizer__use_regex": False}, "pre_tokenizer"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}},
     "pre_tokenizer"),
    ({"post_processor": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "[PAD]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}}, "post_processor"),
    ({"post_processor": {"type": "RobertaProcessing"}}, "post_processor"),
    ({"decoder": {"type": "WordPiece"}}, "decoder"),
    ({"model__vocab": []}, "an object model.vocab and a list model.merges"),
    ({"model__merges": [["a"]]}, r'a merge must be two tokens, not \["a"\]'),
    ({"model__merges": ["a b c"]}, "a merge must be two tokens"),
    ({"model__merges": []}, "no merge makes the token"),
    ({"added_tokens": [{"id": 299}]}, "an added token must have a text"),
    ({"added_tokens": [{"id": "299", "content": "x"}]}, "an added token must have an id"),
    ({"added_tokens": [{"id": 305, "content": "xx"}]}, "token 'xx' has 305 where 300 is expected"),
    ({"added_tokens": [7]}, "an added token must"),
])
def test_another_tokenizer_is_refused_by_its_setting(models, changes, message):
    (models / "odd" / "tokenizer_config.json").unlink()
    change_json(models / "odd" / "tokenizer.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load(models / "odd")
    assert "tokenizer.json" in str(error.value)


@pytest.mark.parametrize("changes, message", [
    ({"add_prefix_space": True}, "add_prefix_space is true, but GPT-2 has false"),
    ({"add_bos_token": True}, "add_bos_token is true"),
    ({"tokenizer_class": "RobertaTokenizer"}, 'tokenizer_class is "RobertaTokenizer"'),
])
def test_another_tokenizer_config_is_refused(folder, changes, message):
    change_json(folder / "tokenizer_config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("extra, message", [
    ({"score.weight": np.ones((2, 8))}, "has the tensor score.weight, for which a GPT-2"),
    ({"lm_head.weight": np.ones((300, 8))}, "lm_head.weight differs from wte.weight"),
    ({"h.0.crossattention.c_attn.weight": np.ones((8, 8))}, "has the tensor h.0.crossattention.c_attn.weight"),
    ({"wte.weight": np.ones((300, 8))}, "has the tensor wte.weight a second time"),
])
def test_other_tensors_are_refused(folder, extra, message):
    write_tensors(folder / "model.safetensors", read_tensors(folder / "model.safetensors") | extra)
    with pytest.raises(ValueError, match=message):
        load(folder)
    assert not list(folder.glob("params-*"))


# --- what is damaged ----------------------------------------------------------------------------


def with_header(change):
    def damage(path):
        header, data = read_file(path)
        change(header)
        write_file(path, header, data)
    return damage


def overlap(header):
    header["transformer.wpe.weight"]["data_offsets"] = [0, 32 * 8 * 4]


def beyond(header):
    header["transformer.wte.weight"]["data_offsets"][1] += 2**40


def misshapen(header):
    header["transformer.wte.weight"]["shape"] = [300, 9]


def enormous(header):
    header["transformer.wte.weight"]["shape"] = [2**40, 2**40]


def quantized(header):
    header["transformer.ln_f.weight"] |= {"dtype": "I32"}



@pytest.mark.parametrize("damage, message", [
    (with_header(overlap), "is damaged"),
    (with_header(beyond), "is damaged"),
    (with_header(misshapen), "is damaged"),
    (with_header(enormous), "is damaged"),
    (with_header(quantized), "ln_f.weight is I32; only float32, float16 and bfloat16 are read"),
    (with_header(lambda header: header.clear()), "is damaged|has no tensor"),
    (lambda path: path.write_bytes(b""), "is damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:5]), "is damaged"),
    (lambda path: path.write_bytes(path.read_bytes() + b"x"), "is damaged"),
    (lambda path: path.write_bytes(struct.pack("<Q", 2**30) + b"{}"), "is damaged"),
    (lambda path: path.write_bytes(struct.pack("<Q", 2**63) + b"{}"), "is damaged"),
    (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"), "is damaged"),
    (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
])
def test_damaged_weights_are_refused(folder, damage, message):
    damage(folder / "model.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert "model.safetensors" in str(error.value) or "has no tensor" in str(error.value)
    assert "\n" not in str(error.value) and not list(folder.glob("params-*"))


def test_an_output_of_another_type_is_refused(models):
    path = models / "odd" / "model-00003-of-00003.safetensors"
    write_tensors(path, {"lm_head.weight": np.ones((320, 8))}, "I8")
    change_json(models / "odd" / "model.safetensors.index.json", **{"weight_map__lm_head.weight": path.name})
    with pytest.raises(ValueError, match="lm_head.weight differs from wte.weight"):
        load(models / "odd")


@pytest.mark.parametrize("index, message", [
    ("{", "model.safetensors.index.json is not JSON"),
    ([], "must hold an object"),
    ({}, "has no weight_map"),
    ({"weight_map": {"wte.weight": "../plain/model.safetensors"}}, "weight_map names .* no .safetensors file in this"),
    ({"weight_map": {"wte.weight": "/etc/passwd"}}, "weight_map names"),
    ({"weight_map": {"wte.weight": 5}}, "weight_map names 5"),
    ({"weight_map": {"wte.weight": "pytorch_model.bin"}}, "weight_map names"),
])
def test_a_bad_list_of_shards_is_refused(models, index, message):
    text = index if isinstance(index, str) else json.dumps(index)
    (models / "odd" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(models / "odd")


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "tokenizer.json", "config.json"])
def test_a_missing_file_is_named(models, name):
    (models / "odd" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load(models / "odd")
    assert available_models(models) == ["plain", "shakespeare"]


@pytest.mark.parametrize("name, content, message", [
    ("config.json", "{", "config.json is not JSON"),
    ("config.json", "[" * 100_000, "config.json is not JSON"),
    ("config.json", "[]", "config.json must hold an object"),
    ("config.json", b"\xff", "config.json is not UTF-8"),
    ("generation_config.json", "{", "generation_config.json is not JSON"),
    ("vocab.json", "[]", "vocab.json must hold an object"),
    ("vocab.json", '{"a": "b"}', "the id of token 'a' is 'b'"),
    ("merges.txt", "a b c", r"^\S*merges.txt, line 1: expected two tokens"),
    ("tokenizer_config.json", "3", "tokenizer_config.json must hold an object"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "added_tokens_decoder"),
    ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "added_tokens_decoder"),
    ("added_tokens.json", '{"[PAD]": null}', "an added token must have an id"),
    ("tokenizer.json", "{}", "tokenizer.json: model.type is null"),
])
def test_malformed_files_are_named(folder, name, content, message):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_pickle_is_refused_with_the_command_that_converts_it(folder, run):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    result = run("x", "--model_size", str(folder))
    line = error_line(result)
    assert "pytorch_model.bin" in line and "from transformers import" in line and str(folder) in line
    assert find_model("plain", folder.parent) == folder and available_models(folder.parent) == ["odd", "shakespeare"]


def test_an_adapter_is_refused(models):
    for path in (models / "plain").iterdir():
        path.unlink()
    (models / "plain" / "adapter_config.json").write_text("{}")
    (models / "plain" / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match="is an adapter .* merge_and_unload"):
        load(models / "plain")


# --- in the programs ----------------------------------------------------------------------------


@pytest.mark.parametrize("program, arguments, found", [
    ("gpt2.py", ["the end", "8"], ""), ("lens.py", ["next_tokens", "the end", "--k", "3"], "probability"),
    ("lens.py", ["tokens", "[PAD]the"], "[PAD]"),
])
def test_the_programs_take_it_by_name_and_by_path(models, run, program, arguments, found):
    by_name = run(*arguments, "--model_size", "odd", "--models_dir", str(models), program=program)
    by_path = run(*arguments, "--model_size", "./odd", program=program, cwd=models)
    assert by_name.returncode == by_path.returncode == 0, by_name.stderr + by_path.stderr
    assert by_name.stdout == by_path.stdout and found in by_name.stdout
