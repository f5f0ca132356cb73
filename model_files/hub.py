"""Models from the Hugging Face Hub, in huggingface_hub's cache."""
import logging
import os
import re
from pathlib import Path

logger = logging.getLogger(__name__)


def is_hub_name(name: str) -> bool:
    """Whether `name` can be that of a model on the Hub: owner/name."""
    part = r"(?!-|\.)(?!.*(--|\.\.))[A-Za-z0-9_.-]{1,96}(?<!-)(?<!\.)"
    owner, slash, model = name.partition("/")
    return bool(slash and re.fullmatch(part, owner) and re.fullmatch(part, model))


def cached(name: str) -> Path:
    """The folder in huggingface_hub's cache that a model of the Hub has, or would have; it need not be there.

    The Hub is not asked: what was downloaded once is used as it is, until the cache learns of a newer version, as from
    `hf download owner/name config.json`. The converted weights go into it as well, so that `hf cache` shows and removes
    all of a model.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    storage = Path(HF_HUB_CACHE, "models--" + name.replace("/", "--"))
    try:
        commit = (storage / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = ""
    return storage / "snapshots" / (commit if re.fullmatch("[0-9a-f]{40}", commit) else "main")


def cached_models() -> list[str]:
    """The names of the models in the cache that have a folder there; they need not be GPT-2s."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        folders = os.listdir(HF_HUB_CACHE)
    except OSError:
        return []
    names = [folder.removeprefix("models--").replace("--", "/") for folder in folders if folder.startswith("models--")]
    return sorted(name for name in names if is_hub_name(name))


def download(name: str) -> Path:
    """Download a model from the Hub into huggingface_hub's cache: the settings first, the weights if they are GPT-2's.

    Raises:
        FileNotFoundError: there is no such model.
        ConnectionError: the Hub cannot be reached, or HF_HUB_OFFLINE forbids asking it.
        ValueError: it is not a GPT-2 that can be used; the message says why.
        OSError: the Hub refuses it, or the disk is full.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    from model_files import hugging_face
    from model_files.hugging_face import INDEX, SINGLE, SMALL_FILES

    where = f"{name} on {constants.ENDPOINT}"
    try:
        files = [file.rfilename for file in HfApi().model_info(name).siblings or []]
        hugging_face.check_format(files, name)
        if "config.json" not in files or not {SINGLE, INDEX} & {*files}:
            raise ValueError(f"{where} has no {'config.json' if 'config.json' not in files else SINGLE}: it is not a "
                             "model that transformers saved")
        logger.warning(f"downloading {where} to {constants.HF_HUB_CACHE}")
        needed = [*SMALL_FILES] if SINGLE in files else [*SMALL_FILES, INDEX]
        folder = Path(snapshot_download(name, allow_patterns=needed))
        hugging_face.get_encoder(folder, name, hugging_face.load_hparams(folder)["n_vocab"])
        needed += [SINGLE] if SINGLE in files else [path.name for path in hugging_face.weight_files(folder)]
        return Path(snapshot_download(name, allow_patterns=needed))
    except errors.OfflineModeIsEnabled:
        raise ConnectionError(f"{name} is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids asking the "
                              "Hub") from None
    except errors.GatedRepoError:
        raise PermissionError(f"{where} is only for users who accepted its conditions: do that in a browser at "
                              f"{constants.ENDPOINT}/{name}, then run hf auth login") from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(f"there is no model {where}; if it is private, run hf auth login") from None
    except errors.HfHubHTTPError as error:
        raise OSError(f"{where}: {_one_line(error)}") from None
    except ValueError:
        raise
    except Exception as error:  # of the HTTP library, which depends on huggingface_hub's version
        if isinstance(error, OSError) and error.errno:
            raise  # the disk is full, for instance
        raise ConnectionError(f"cannot reach {where} ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] + "…" * (len(text) > 200)
