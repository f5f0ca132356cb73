"""Models' folders: found by name, path or Hub name, in OpenAI's layout or in Hugging Face's."""
import os
import re
from pathlib import Path
from typing import Any

from model_files import hub, official_files
from model_files.official_files import MODEL_ALIASES, MODEL_SIZES, read_hparams

MODELS_DIR = Path(__file__).resolve().parent.parent / "models"  # wherever the program is started from
DEFAULT_MODEL, BUNDLED_MODEL = "124M", "shakespeare"
HUGGING_FACE_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                      "adapter_config.json")  # a folder of that layout has one of them


def find_model(model_size: str | os.PathLike[str], models_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a model by its name, as `load_encoder_hparams_and_params` takes it.

    A path is the folder itself, and must be there. "owner/name" is a folder in the Hugging Face Hub's cache. Else it is
    one in `models_dir`: a folder of exactly that name comes first, then other names of the official models, then names
    that differ in case. A model that can be downloaded need not be on disk.
    """
    models_dir = MODELS_DIR if models_dir is None else Path(models_dir)
    path = path_of(model_size)
    if path is not None:
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder {str(model_size)!r}: give the path of a model's folder, or a "
                                    "model's name, such as 124M")
        return Path(os.path.abspath(path))
    if is_hub_name(model_size):
        return hub.cached(str(model_size))
    if not isinstance(model_size, str) or not re.fullmatch(r"[^/\\:\0]+", model_size):
        raise ValueError(f"{model_size!r} is not a model's name: give that of a folder in {models_dir}, such as 124M, "
                         "owner/name for one on the Hugging Face Hub, or a folder's path, such as ./mine")
    names = [*_folders(models_dir), *MODEL_SIZES, BUNDLED_MODEL]
    same = [name for name in names if name.casefold() == model_size.casefold()]
    if model_size in names:
        name = model_size
    elif model_size.lower() in MODEL_ALIASES:
        name = MODEL_ALIASES[model_size.lower()]
    elif same:
        name = same[0]
    elif (models_dir / model_size).is_dir():  # in a folder that cannot be listed
        name = model_size
    else:
        import difflib

        available = available_models(models_dir)
        close = difflib.get_close_matches(model_size, [*available, *MODEL_SIZES, *MODEL_ALIASES], n=1)
        here = f"; the folder here is ./{model_size}" if os.path.isdir(model_size) else ""
        where = f"{models_dir}{'' if models_dir.is_dir() else ', which is not a folder'}"
        raise FileNotFoundError(f"there is no model {model_size!r} in {where}"
                                f"{f' (did you mean {close[0]!r}?)' if close else ''}{here}; available: "
                                f"{', '.join(available)}; can be downloaded: {', '.join(MODEL_SIZES)}, and owner/name "
                                "from the Hugging Face Hub")
    bundled = name == BUNDLED_MODEL and not (models_dir / name).is_dir()
    return (MODELS_DIR if bundled else models_dir) / name


def path_of(model_size: object) -> Path | None:
    """The path that names a model's folder: one that is absolute or begins with . or ~, or that of a folder that is
    there. None if it is a name."""
    if isinstance(model_size, os.PathLike):
        return Path(model_size)
    if not isinstance(model_size, str):
        return None
    first, *more = re.split("[/" + re.escape(os.sep) + "]", model_size)
    path = os.path.expanduser(model_size) if more else model_size
    return Path(path) if os.path.isabs(path) or first in (".", "..") or more and os.path.isdir(path) else None


def is_hub_name(model_size: object) -> bool:
    """Whether it is a Hub name, owner/name, and no folder of that path is there."""
    return isinstance(model_size, str) and path_of(model_size) is None and hub.is_hub_name(model_size)


def available_models(models_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """The names of the models that can be loaded without a download: those in `models_dir`, the bundled one, and those
    from the Hugging Face Hub that are in its cache."""
    models_dir = MODELS_DIR if models_dir is None else Path(models_dir)
    names = {BUNDLED_MODEL}
    for name in [*_folders(models_dir), *hub.cached_models()]:
        try:
            folder = hub.cached(name) if "/" in name else models_dir / name
            if not missing_files(folder) and load_hparams(folder):
                names.add(name)
        except (OSError, ValueError):  # not readable, damaged, or not a GPT-2
            continue
    return [*(name for name in MODEL_SIZES if name in names), *sorted(names.difference(MODEL_SIZES))]


def _folders(models_dir: Path) -> list[str]:
    """The names of the folders in `models_dir`; none if it does not exist or cannot be listed."""
    try:
        return sorted(name for name in os.listdir(models_dir) if os.path.isdir(models_dir / name))
    except OSError:
        return []


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder has Hugging Face's layout. With an hparams.json, it is OpenAI's.

    What reads that layout is imported only then: most models start without it, and sooner.
    """
    return not (folder / "hparams.json").exists() and any((folder / name).exists() for name in HUGGING_FACE_FILES)


def missing_files(model_dir: str | os.PathLike[str]) -> list[Path]:
    """Which of the files that a model needs are not in `model_dir`."""
    model_dir = Path(model_dir)
    if is_hugging_face(model_dir):
        from model_files import hugging_face

        return hugging_face.missing_files(model_dir)
    return official_files.missing_files(model_dir)


def load_hparams(model_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The sizes of a model from its hparams.json, or Hugging Face's config.json, checked.

    Returns:
        dict with n_vocab, n_ctx, n_embd, n_head, n_layer (int), and whatever else hparams.json has.

    Raises:
        ValueError: the file is not JSON, a size is missing or out of range, or a setting in config.json is not GPT-2's.
    """
    model_dir = Path(model_dir)
    if is_hugging_face(model_dir):
        from model_files import hugging_face

        return hugging_face.load_hparams(model_dir)
    try:
        return read_hparams(model_dir / "hparams.json")
    except ValueError as error:
        raise ValueError(f"{model_dir / 'hparams.json'}: {error}") from None
