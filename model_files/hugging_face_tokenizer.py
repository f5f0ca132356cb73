"""GPT-2's tokenizer as Hugging Face keeps it: tokenizer.json, or vocab.json and merges.txt, and lists of added tokens.

tokenizer.json can describe any tokenizer; what is not GPT-2's byte-level BPE is refused by the setting that says so.
"""
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from encoder import END_OF_TEXT, AddedToken, Encoder, read_json, read_merges

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
         "special_tokens_map.json")
# How tokenizer.json gives the pattern if it gives it in full: OpenAI's own alternatives, in their order.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ANY_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")  # of transformers 4 and 5: what tokenizer.json says


def get_encoder(folder: Path, name: str, n_vocab: int, eos_token: int | None, bos_token: int | None) -> Encoder:
    """The tokenizer of the model in `folder`: tokenizer.json, or vocab.json and merges.txt if there is none; the
    other files may add tokens.

    Args:
        folder: Path of the model's folder.
        name: what to call it.
        n_vocab: how many token ids the model has.
        eos_token, bos_token: the ids that end and begin a text; None is that of <|endoftext|>.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is not GPT-2's byte-level BPE (the setting is named), a file is malformed, or the vocabulary
            does not fit the model.
    """
    path, settings = folder / "tokenizer.json", read_settings(folder / "tokenizer_config.json")
    for setting in ("add_prefix_space", "add_bos_token", "add_eos_token", "do_lower_case", "split_special_tokens"):
        if settings.get(setting):
            raise not_gpt2(folder / "tokenizer_config.json", setting, settings[setting], False)
    if path.is_file():
        vocabulary, merges, listed = _read_tokenizer(path)
    else:
        path = folder / "vocab.json"
        vocabulary, merges, listed = read_object(path), read_merges(folder / "merges.txt"), []
        kind = settings.get("tokenizer_class")
        if kind not in (None, "GPT2Tokenizer", "GPT2TokenizerFast", *ANY_TOKENIZER):
            raise not_gpt2(folder / "tokenizer_config.json", "tokenizer_class", kind, "GPT2Tokenizer")
    if len(vocabulary) > n_vocab:
        raise ValueError(f"{path} has {len(vocabulary)} tokens, but config.json says vocab_size = {n_vocab}: they "
                         "belong to different models")
    try:
        added = _added_tokens(folder, settings, vocabulary, listed)
        return Encoder(vocabulary, merges, name, added_tokens=added, n_vocab=n_vocab, eot_token=eos_token,
                       bos_token=bos_token)
    except ValueError as error:
        raise ValueError(f"{path} is not GPT-2's kind of vocabulary: {error}") from None


def _read_tokenizer(path: Path) -> tuple[dict[str, int], Iterable[tuple[str, str]], list[dict[str, Any]]]:
    """(vocabulary, merges, added tokens) from a tokenizer.json; ValueError if it encodes in another way than GPT-2."""
    tokenizer = read_object(path)
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise not_gpt2(path, "model.type", model.get("type") if isinstance(model, dict) else model, "BPE")
    for setting, good in (("dropout", (None, 0)), ("continuing_subword_prefix", (None, "")),
                          ("end_of_word_suffix", (None, "")), ("byte_fallback", (False,)), ("ignore_merges", (False,))):
        if model.get(setting, good[0]) not in good:
            raise not_gpt2(path, f"model.{setting}", model[setting], good[0])
    if _steps(tokenizer.get("normalizer"), "normalizers"):
        raise not_gpt2(path, "normalizer", tokenizer["normalizer"], None)
    *before, last = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers") or [{}]
    if last.get("type") != "ByteLevel":
        raise not_gpt2(path, "pre_tokenizer", tokenizer.get("pre_tokenizer"), {"type": "ByteLevel"})
    if last.get("add_prefix_space", False):
        raise not_gpt2(path, "pre_tokenizer.add_prefix_space", last["add_prefix_space"], False)
    split = [{"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}]
    if before != ([] if last.get("use_regex", True) else split):  # a ByteLevel with use_regex splits by that pattern
        raise not_gpt2(path, "pre_tokenizer", tokenizer["pre_tokenizer"], {"type": "ByteLevel", "use_regex": True})
    for step in _steps(tokenizer.get("post_processor"), "processors"):
        if step.get("type") != "ByteLevel" and not (step.get("type") == "TemplateProcessing" and _adds_nothing(step)):
            raise not_gpt2(path, "post_processor", tokenizer["post_processor"], {"type": "ByteLevel"})
    if [step.get("type") for step in _steps(tokenizer.get("decoder"), "decoders")] not in ([], ["ByteLevel"]):
        raise not_gpt2(path, "decoder", tokenizer["decoder"], {"type": "ByteLevel"})
    vocabulary, merges, added = model.get("vocab"), model.get("merges"), tokenizer.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(merges, list) or not isinstance(added, list):
        raise ValueError(f"{path} must have an object model.vocab and a list model.merges")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) if isinstance(merge, list) else ()
             for merge in merges]
    for merge, pair in zip(merges, pairs):
        if len(pair) != 2 or not all(isinstance(token, str) and token for token in pair):
            raise ValueError(f"{path}: a merge must be two tokens, not {short(merge)}")
    return vocabulary, pairs, added  # type: ignore[return-value]  # of two str each, as was just checked


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer, which may be none, one, or a sequence, also of sequences."""
    if part is None:
        return []
    if not isinstance(part, dict):
        return [{"type": part}]
    inner = part.get(name)
    if part.get("type") != "Sequence" or not isinstance(inner, list):
        return [part]
    return [step for part in inner for step in _steps(part, name)]


def _adds_nothing(template: dict[str, Any]) -> bool:
    """Whether a template adds no ids to those of the text."""
    match template.get("single"):
        case [{"Sequence": _, **others}]:
            return not others
    return False


def _added_tokens(folder: Path, settings: dict[str, Any], vocabulary: dict[str, int],
                  listed: list[dict[str, Any]]) -> dict[str, AddedToken]:
    """{text: `AddedToken`}: those in a list with their ids, and those with a role (bos_token, ...), which get the next
    ids if they are in no list and not in the vocabulary."""
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        if not isinstance(decoder, dict) or not all(re.fullmatch("[0-9]{1,9}", i) for i in decoder):
            raise ValueError(f"added_tokens_decoder must map ids to tokens, not be {short(decoder)}")
        listed = [*listed, *({**_as_object(token), "id": int(i)} for i, token in decoder.items())]
    else:  # as they were kept before
        settings = settings | read_settings(folder / "special_tokens_map.json")
        old = read_settings(folder / "added_tokens.json")
        roles = {_text(token) for token in _tokens_with_roles(settings)}
        listed = [*({"content": text, "id": i, "normalized": text not in roles} for text, i in old.items()), *listed]
    tokens = {_text(token): _added_token(_as_object(token)) for token in listed}
    tokens = dict(sorted(tokens.items(), key=lambda item: item[1].id))
    if END_OF_TEXT in vocabulary and settings.get("tokenizer_class") not in ANY_TOKENIZER:  # GPT2Tokenizer's defaults
        settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT) | settings
    for token in _tokens_with_roles(settings):
        text, next_id = _text(token), len(vocabulary.keys() | tokens.keys())
        tokens.setdefault(text, _added_token({"id": vocabulary.get(text, next_id), **_as_object(token)}))
    return {text: token for text, token in tokens.items() if text}


def _tokens_with_roles(settings: dict[str, Any]) -> list[Any]:
    tokens = [settings.get(f"{role}_token") for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    for setting in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(setting)
        tokens += more if isinstance(more, list) else more.values() if isinstance(more, dict) else [more]
    return [token for token in tokens if token is not None]


def _as_object(token: Any) -> dict[str, Any]:
    return token if isinstance(token, dict) else {"content": token}


def _text(token: Any) -> str:
    text = _as_object(token).get("content")
    if not isinstance(text, str):
        raise ValueError(f"an added token must have a text, but {short(token)} has none")
    return text


def _added_token(token: dict[str, Any]) -> AddedToken:
    added = AddedToken(*(token.get(field, False) for field in AddedToken._fields))
    if type(added.id) is not int or not all(type(flag) is bool for flag in added[1:]):
        raise ValueError(f"an added token must have an id and flags, not {short(token)}")
    return added


# --- settings in JSON ---------------------------------------------------------------------------


def not_gpt2(path: Path, setting: str, value: Any, wanted: Any) -> ValueError:
    return ValueError(f"{path}: {setting} is {short(value)}, but GPT-2 has {short(wanted)}: it cannot be used here")


def read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object, not {type(value).__name__}")
    return value


def read_settings(path: Path) -> dict[str, Any]:
    """As `read_object`, but an empty dict if there is no such file."""
    return read_object(path) if path.is_file() else {}


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
