"""From OpenAI's servers to NumPy: download a GPT-2 checkpoint, convert it, map it into memory.

A model is a folder with OpenAI's files: hparams.json (the sizes), encoder.json and vocab.bpe (the vocabulary), and a
TensorFlow checkpoint (the weights). Reading the checkpoint needs TensorFlow, which takes seconds to import; so the
weights are kept beside it as one plain NumPy file, which later runs map into memory in a millisecond.
"""
import base64
import contextlib
import difflib
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np

from encoder import get_encoder

DEFAULT_MODEL, BUNDLED_MODEL = "124M", "shakespeare"
MODEL_SIZES = ("124M", "355M", "774M", "1558M")
VOCABULARY_FILES = ("encoder.json", "vocab.bpe")
FILES = ("checkpoint", "encoder.json", "hparams.json", "model.ckpt.data-00000-of-00001", "model.ckpt.index",
         "model.ckpt.meta", "vocab.bpe")
BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # GPT2_BASE_URL in the environment replaces it
SHA256 = {  # of the 124M's files; the vocabulary is the same for all four sizes
    "checkpoint": "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "hparams.json": "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318",
    "model.ckpt.data-00000-of-00001": "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
    "model.ckpt.index": "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
    "model.ckpt.meta": "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # seconds
ATTEMPTS, BACKOFF = 5, 1.0  # tries without a byte of progress; seconds before the second one, doubled each time
CHUNK = 2**14  # bytes that are read at once: what is left of them is lost when the connection breaks
SILENT_WAIT = 1  # seconds for which another process may hold the lock before the wait is said
CONVERTED = re.compile(r"params-[0-9a-f]{16}\.npy(\.part)?")  # the names of converted weights


# --- the terminal -------------------------------------------------------------------------------


def notice(text):
    """Say something to the person at the terminal: on stderr, stdout being for results alone."""
    print(text, file=sys.stderr, flush=True)


def run_command_line(component, arguments=None):
    """Run a function, or one of a dict of functions by its name, on the command line's arguments with Fire.

    Fire guesses types: 123, [1, 2] and None would not arrive as text. Parameters that are annotated as str do here. An
    unknown option is refused before anything runs; every error of the user is one line on stderr and exit status 1 (2
    where the command line itself is wrong); Ctrl-C and a closed pipe end quietly, with the shell's 130 and 141.
    """
    if sys.stderr is None:  # closed by the caller: what would be said goes nowhere
        sys.stderr = open(os.devnull, "w")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed: there is nowhere to write to")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
            sys.stderr.reconfigure(errors="backslashreplace")
        _run_with_fire(component, arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        status = 141
    except CommandLineError as error:
        notice(f"error: {error}")
        status = 2
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        notice("error: " + " ".join(str(error).split() or ["out of memory"]))
        status = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # Python would try once more at exit, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


class CommandLineError(ValueError):
    """The command line has an option, a command or an argument that is not known."""


def _run_with_fire(component, arguments):
    import fire

    arguments = [argument for argument in arguments if argument != "-"]  # a file of that name is stdin, the default
    for function in component.values() if isinstance(component, dict) else [component]:
        text = [p.name for p in inspect.signature(function).parameters.values() if p.annotation is str]
        fire.decorators.SetParseFns(**dict.fromkeys(text, str))(function)
    rest, function = arguments, component
    if isinstance(component, dict):
        if not arguments:
            raise CommandLineError(f"which command? {', '.join(component)}; --help says more")
        if not arguments[0].startswith("-"):
            rest, function = arguments[1:], component.get(arguments[0])
            if function is None:
                raise CommandLineError(f"unknown command {arguments[0]!r}{_meant(arguments[0], component)}: "
                                       f"the commands are {', '.join(component)}")
    if "--help" in rest or "-h" in rest:
        arguments = arguments[: len(arguments) - len(rest)] + ["--help"]
    else:
        _check_arguments(rest, list(inspect.signature(function).parameters))
    fire.Fire(component, command=arguments, serialize=lambda result: None)


def _check_arguments(arguments, known):
    """Refuse what Fire would only complain of after the function has run, and at length."""
    n_values, i = 0, 0
    while i < len(arguments):
        argument = arguments[i]
        name = argument.lstrip("-").partition("=")[0].replace("-", "_")
        if argument.startswith("--") or re.fullmatch(r"-[a-zA-Z](=.*)?", argument, re.S):
            if not argument.startswith("--") or name not in known:
                raise CommandLineError(f"unknown option {argument!r}{_meant(name, known)}: the options are "
                                       f"{', '.join('--' + name for name in known)}; a text that begins with a dash "
                                       f"is given as --{known[0]}=TEXT")
            if "=" not in argument:
                i += 1
                if i == len(arguments) or arguments[i].startswith("--"):
                    raise CommandLineError(f"{argument} needs a value, as in {argument}=VALUE")
        else:
            n_values += 1
        i += 1
    if n_values > len(known):
        raise CommandLineError(f"{n_values} arguments are too many: a text of several words goes in quotes")


def _meant(name, known):
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# --- download -----------------------------------------------------------------------------------


def download_gpt2_files(model_size, model_dir):
    """Download the official files of a model into `model_dir`, those that are not there yet.

    A file appears under its name only when it is whole and its checksum is right; until then it grows in
    `NAME.part`, from which an interrupted download goes on. Two processes may do this at once: one waits.

    Args:
        model_size: "124M", "355M", "774M" or "1558M".
        model_dir: the folder, made where it is missing.

    Raises:
        ValueError: no such model.
        ConnectionError: the server cannot be reached, or keeps failing.
        OSError: the server refuses a file, a checksum is wrong, or the disk is full.
    """
    if model_size not in MODEL_SIZES:
        raise ValueError(f"there is no official model {model_size!r}: choose one of {', '.join(MODEL_SIZES)}")
    model_dir = Path(model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    base_url = (os.environ.get("GPT2_BASE_URL") or BASE_URL).rstrip("/")
    with _lock(model_dir):
        for name in FILES:
            if not (model_dir / name).exists():
                sha256 = SHA256[name] if model_size == "124M" or name in VOCABULARY_FILES else None
                _download(f"{base_url}/{model_size}/{name}", model_dir / name, sha256)


@contextlib.contextmanager
def _lock(folder):
    """A lock on `folder` among processes; the kernel drops it when its holder dies, however it dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        try:
            lock.acquire(timeout=SILENT_WAIT)
        except Timeout:
            notice(f"waiting for another process that is at work in {folder} ...")
            lock.acquire()
    except NotImplementedError:  # some network file systems
        raise OSError(f"{folder} is on a file system without locks, which keep processes apart: choose another "
                      "--models_dir") from None
    try:
        yield
    finally:
        lock.release()


def _download(url, path, sha256):
    """Fetch `url` to `path`, trying again after transient failures; raises as `download_gpt2_files`."""
    import requests
    from urllib3.exceptions import LocationParseError, NewConnectionError

    partial = path.with_name(path.name + ".part")
    tries, furthest = 0, _size(partial)
    while True:
        try:
            told = _download_rest(url, partial)
            break
        except LocationParseError as error:
            raise OSError(f"{url}: {error}") from None
        except requests.RequestException as error:
            reason = getattr(error.args[0] if error.args else error, "reason", error)
            reason = getattr(reason, "original_error", reason)  # behind a proxy
            unreachable = isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout)
            response = getattr(error, "response", None)
            status = response.status_code if response is not None else None
            if status is not None and status != 429 and status < 500:
                raise OSError(f"{url}: the server answers {status} {response.reason}; GPT2_BASE_URL says where to "
                              "look") from None
            # The connection may break while TLS greets, too: only a certificate that is not trusted stays so.
            if "CERTIFICATE_VERIFY_FAILED" in str(error) or isinstance(error, (
                    requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
                    requests.exceptions.MissingSchema)):
                raise OSError(f"{url}: {reason}") from None
            why = f"{status} {response.reason}" if status else _short(reason)
            if unreachable and not tries:  # after a break the network may take a moment to come back
                raise ConnectionError(f"cannot reach {url}: {why}") from None
            size = _size(partial)
            tries, furthest = (1, size) if size > furthest else (tries + 1, furthest)
            if tries >= ATTEMPTS:
                raise ConnectionError(f"{url}: gave up after {ATTEMPTS} tries: {why}; what came is kept, the next "
                                      "run goes on from there") from None
            delay = BACKOFF * 2 ** (tries - 1)
            notice(f"{path.name}: {why}; trying again in {delay:g} s")
            time.sleep(delay)
    if told["length"] is None and not sha256 and not told["md5"]:
        _remove_partial(partial)
        raise OSError(f"{url}: the server tells neither length nor checksum, so nobody can say whether the file is "
                      "whole; GPT2_BASE_URL says where to look")
    for kind, expected in (("sha256", sha256), ("md5", told["md5"])):
        if expected and expected not in _digest(partial, kind):
            _remove_partial(partial)
            raise OSError(f"{url}: the {kind.upper()} checksum of what came is wrong (the file was damaged on the way "
                          "or is another one); it was removed, try again")
    os.replace(partial, path)
    _remove_partial(partial)


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _download_rest(url, partial):
    """One try: fetch what `partial` lacks. Returns what the server told of the file, a dict with length, md5, ...

    What was told when its first byte came lies in `partial`.json: a server that says otherwise now has another
    version, and that is fetched from its start.
    """
    import requests
    from tqdm import tqdm

    said = partial.with_name(partial.name + ".json")
    told, have = {}, 0
    with contextlib.suppress(OSError, ValueError):
        told, have = json.loads(said.read_text(encoding="utf-8")), _size(partial)
    if not isinstance(told, dict) or told.keys() != {"length", "md5", "ETag", "Last-Modified"}:
        told, have = {}, 0
    if have and have == told["length"]:
        return told
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        rest = response.status_code == 206 and span and int(span[1]) == have > 0 and int(span[2]) == told["length"] \
            and all(response.headers.get(name) == told[name] for name in ("ETag", "Last-Modified"))
        if have and not rest and response.status_code in (206, 416):
            _remove_partial(partial)
            return _download_rest(url, partial)
        if response.status_code != 200 and not rest:
            raise requests.HTTPError(response=response)
        if "text/html" in response.headers.get("Content-Type", ""):
            raise OSError(f"{url}: a web page came instead of the file; a network that wants a login answers so: open "
                          "a browser and try again")
        if not rest:  # the whole file: the first try, or a server without ranges
            have = 0
            # Whom nobody asked to compress and who does it all the same, tells length and checksum of something else.
            plain = response.headers.get("Content-Encoding", "identity") == "identity"
            length = response.headers.get("Content-Length", "")
            told = {"length": int(length) if plain and length.isdigit() else None,
                    "md5": plain and response.headers.get("Content-MD5") or None,
                    "ETag": response.headers.get("ETag"), "Last-Modified": response.headers.get("Last-Modified")}
            _remove_partial(partial)
        length = told["length"]
        free = shutil.disk_usage(partial.parent).free
        if length is not None and length - have > free:
            raise OSError(f"{partial.parent}: {url} needs {length - have:,} bytes, only {free:,} are free on this "
                          "disk; make room or choose another --models_dir")
        try:
            if not rest:
                said.write_text(json.dumps(told), encoding="utf-8")
            with open(partial, "ab") as file, tqdm(total=length, initial=have, unit="B", unit_scale=True,
                                                   desc=partial.stem) as bar:
                for data in response.iter_content(CHUNK):
                    file.write(data)
                    bar.update(len(data))
                have = file.tell()
                file.flush()
                os.fsync(file.fileno())  # the name must not outlive a power cut that the content does not
        except (requests.RequestException, BrokenPipeError):  # BrokenPipeError: nobody watches the progress bar
            raise
        except OSError as error:
            raise OSError(f"{partial} cannot be written ({error.strerror or error}): what came is kept, the next run "
                          "goes on from there") from None
    if length is None and response.headers.get("Transfer-Encoding") == "chunked":
        told["length"] = have  # the last chunk says that it is the last
    if length is not None and have != length:
        raise requests.ConnectionError(f"got {have:,} of {length:,} bytes")
    return told


def _remove_partial(partial):
    for path in (partial, partial.with_name(partial.name + ".json")):
        path.unlink(missing_ok=True)


def _digest(path, kind):
    """The checksum of a file as it is written: in hex, and in the base64 of Content-MD5."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest(), base64.b64encode(digest.digest()).decode()


def _short(error):
    """What went wrong, out of a network error's text: its last phrase, without the objects that it is wrapped in."""
    phrases = re.findall(r"[^'\"()<>]{8,}", str(error))
    return phrases[-1].strip(":, ") if phrases else repr(error)


# --- a model's folder ---------------------------------------------------------------------------


def load_encoder_hparams_and_params(model_size, models_dir):
    """Everything of the model in `models_dir/model_size`; an official one that is not there is downloaded.

    Args:
        model_size: "124M", "355M", "774M", "1558M", or the name of any folder with a model in OpenAI's layout. None
            is the 124M, or, where that is not on disk and the server cannot be reached, the bundled model.
        models_dir: the folder of models.

    Returns:
        (encoder, hparams, params): `encoder.Encoder`; dict with n_vocab, n_ctx, n_embd, n_head, n_layer; and the
        weights as `load_gpt2_params_from_tf_ckpt` gives them, mapped from disk (changes stay in this process).

    Raises:
        FileNotFoundError: no such model, or a file of it is missing.
        ValueError: a name that is no folder's name, a file that is damaged, files that do not fit each other.
        OSError: as `download_gpt2_files`.
    """
    if model_size is None:
        try:
            return load_encoder_hparams_and_params(DEFAULT_MODEL, models_dir)
        except ConnectionError as error:
            notice(f"the {DEFAULT_MODEL} model is not in {models_dir} and could not be downloaded ({error}): using the "
                   f"small bundled model instead, as --model_size {BUNDLED_MODEL} does")
            return load_encoder_hparams_and_params(BUNDLED_MODEL, Path(__file__).resolve().parent / "models")
    model_dir = find_model(model_size, models_dir)
    missing = missing_files(model_dir)
    if missing and model_size in MODEL_SIZES:
        download_gpt2_files(model_size, model_dir)
    elif not model_dir.is_dir():
        raise FileNotFoundError(f"there is no model {model_size!r}: {model_dir} does not exist; the official models "
                                f"{', '.join(MODEL_SIZES)} are downloaded when they are named")
    elif missing:
        raise FileNotFoundError(f"{model_dir / missing[0]} is missing: a model is a folder with checkpoint, "
                                "encoder.json, hparams.json, vocab.bpe and the files that checkpoint names")
    hparams = load_hparams(model_dir)
    encoder = get_encoder(model_size, models_dir)
    if encoder.n_vocab != hparams["n_vocab"]:
        raise ValueError(f"{model_dir}: encoder.json has {encoder.n_vocab} tokens, but hparams.json says n_vocab = "
                         f"{hparams['n_vocab']}: they are of different models")
    return encoder, hparams, load_params(model_dir, hparams)


def find_model(model_size, models_dir):
    """The folder of a model, `models_dir/model_size`; ValueError where the name is a path or empty."""
    if not isinstance(model_size, str) or not re.fullmatch(r"[^/\\:\0]+", model_size) or set(model_size) == {"."}:
        raise ValueError(f"{model_size!r} is no model's name: it names a folder in {models_dir}, as 124M does")
    return Path(models_dir) / model_size


def missing_files(model_dir):
    """Which of the files that a model needs are not in `model_dir` (a list of names)."""
    missing = [name for name in ("checkpoint", "encoder.json", "hparams.json", "vocab.bpe")
               if not (model_dir / name).is_file()]
    if "checkpoint" not in missing:
        prefix = checkpoint_prefix(model_dir)
        if not prefix.with_name(prefix.name + ".index").is_file():
            missing.append(prefix.name + ".index")
        if not _data_files(prefix):
            missing.append(prefix.name + ".data-00000-of-00001")
    return missing


def checkpoint_prefix(model_dir):
    """The path, without .index and .data-..., of the weights that the file `checkpoint` names.

    It is the small text file that TensorFlow's Saver keeps; the weights are looked for beside it, wherever the folder
    was when it was written.
    """
    path = model_dir / "checkpoint"
    match = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', path.read_text(encoding="utf-8", errors="replace"), re.M)
    if not match:
        raise ValueError(f'{path} names no checkpoint: it should have a line model_checkpoint_path: "model.ckpt"')
    return model_dir / re.split(r"[/\\]", match[1])[-1]


def _data_files(prefix):
    return sorted(path for path in prefix.parent.iterdir()
                  if re.fullmatch(re.escape(prefix.name) + r"\.data-\d{5}-of-\d{5}", path.name))


def load_hparams(model_dir):
    """The sizes of a model from its hparams.json, checked.

    Returns:
        dict with n_vocab, n_ctx, n_embd, n_head, n_layer (int), and whatever else the file has.

    Raises:
        ValueError: the file is not JSON, or a size is missing or absurd.
    """
    path = Path(model_dir) / "hparams.json"
    try:
        hparams = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it anew") from None
    if not isinstance(hparams, dict):
        raise ValueError(f"{path} must hold an object with the model's sizes, not {type(hparams).__name__}")
    for name, most in (("n_vocab", 10**7), ("n_ctx", 10**7), ("n_embd", 10**6), ("n_head", 10**4), ("n_layer", 10**3)):
        if name not in hparams:
            raise ValueError(f"{path} has no {name}")
        if type(hparams[name]) is not int or not 1 <= hparams[name] <= most:
            raise ValueError(f"{path}: {name} must be a whole number from 1 to {most}, not {hparams[name]!r}")
    if hparams["n_embd"] % hparams["n_head"]:
        raise ValueError(f"{path}: n_embd = {hparams['n_embd']} is not divisible by n_head = {hparams['n_head']}")
    return hparams


# --- the checkpoint -----------------------------------------------------------------------------


def parameter_shapes(hparams):
    """The model's tensors in order: dict {name in the checkpoint, without "model/": shape without the leading 1}."""
    n = hparams["n_embd"]
    shapes = {"wte": (hparams["n_vocab"], n), "wpe": (hparams["n_ctx"], n)}
    for i in range(hparams["n_layer"]):
        for name, n_in, n_out in (("attn/c_attn", n, 3 * n), ("attn/c_proj", n, n),
                                  ("mlp/c_fc", n, 4 * n), ("mlp/c_proj", 4 * n, n)):
            shapes[f"h{i}/{name}/w"], shapes[f"h{i}/{name}/b"] = (n_in, n_out), (n_out,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h{i}/{name}/g"] = shapes[f"h{i}/{name}/b"] = (n,)
    return shapes | {"ln_f/g": (n,), "ln_f/b": (n,)}


def nested(arrays, n_layer):
    """(name, array) pairs to the nested dict of `load_gpt2_params_from_tf_ckpt`: h3/ln_1/g -> blocks[3].ln_1.g"""
    params = {"blocks": [{} for _ in range(n_layer)]}
    for name, array in arrays:
        *path, leaf = name.split("/")
        group = params
        if path and re.fullmatch(r"h\d+", path[0]):
            group, path = params["blocks"][int(path[0][1:])], path[1:]
        for key in path:
            group = group.setdefault(key, {})
        group[leaf] = array
    return params


def load_gpt2_params_from_tf_ckpt(tf_ckpt_path, hparams):
    """The weights of a TensorFlow checkpoint as nested NumPy dicts, read into memory.

    Args:
        tf_ckpt_path: path of the checkpoint without .index and .data-..., as TensorFlow names it.
        hparams: dict of sizes, against which every tensor is checked.

    Returns:
        dict with wte [n_vocab, n_embd], wpe [n_ctx, n_embd], blocks (a list of n_layer dicts with attn.c_attn,
        attn.c_proj, mlp.c_fc, mlp.c_proj, each w [n_in, n_out] and b [n_out], and ln_1, ln_2, each g and b [n_embd])
        and ln_f (g and b), all float32.

    Raises:
        ValueError: a tensor is missing, has another shape or type, or the file is damaged; the message names it.
        FileNotFoundError: there is no such checkpoint.
    """
    return nested(((name, np.asfortranarray(array) if _by_columns(name) else array)
                   for name, array in read_tf_checkpoint(tf_ckpt_path, hparams)), hparams["n_layer"])


def _by_columns(name):
    """Whether a tensor is kept in Fortran order, column after column: the matrices of the linear layers are.

    It is the same [n_in, n_out] array, but all weights of one output lie side by side, so that x @ w for one row is
    one unbroken dot product an output: decoding reads the weights about a sixth faster. (wte and wpe stay in C order:
    their rows are what is looked up, and the logits are the dot products of those rows.)
    """
    return name.endswith("/w")


def read_tf_checkpoint(tf_ckpt_path, hparams):
    """The model's tensors one by one, so that no more than one is in memory: yields (name, float32 array).

    Names, order and shapes are those of `parameter_shapes`; other variables of the checkpoint (an optimizer's slots)
    are passed over. Raises as `load_gpt2_params_from_tf_ckpt`.
    """
    tf_ckpt_path = str(tf_ckpt_path)
    if not os.path.isfile(tf_ckpt_path + ".index"):
        raise FileNotFoundError(f"{tf_ckpt_path}.index is missing: without it the checkpoint cannot be read")
    with _quiet():
        import tensorflow as tf

        try:
            reader = tf.train.load_checkpoint(tf_ckpt_path)
            shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{tf_ckpt_path}.index is damaged ({_first_line(error)}): fetch it anew") from None
    for name, shape in parameter_shapes(hparams).items():
        full_name = f"model/{name}"
        if full_name not in shapes:
            raise ValueError(f"{tf_ckpt_path} has no tensor {full_name}: it is not a GPT-2 of {hparams['n_layer']} "
                             "layers, as hparams.json says")
        if dtypes[full_name] != tf.float32:
            raise ValueError(f"{tf_ckpt_path}: {full_name} is {dtypes[full_name].name}, it must be float32")
        stored = tuple(shapes[full_name])
        if stored != shape and stored != (1, *shape):  # OpenAI's linear layers are convolutions of width 1
            raise ValueError(f"{tf_ckpt_path}: {full_name} has shape {list(stored)}, but hparams.json needs "
                             f"{list(shape)}")
        try:
            with _quiet():
                array = reader.get_tensor(full_name)
        except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{tf_ckpt_path}.data-* is damaged at {full_name} ({_first_line(error)}): fetch it "
                             "anew") from None
        yield name, array.reshape(shape)


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


_ONE_AT_A_TIME = threading.Lock()  # of two threads, one would take the other's silence for the streams to restore


@contextlib.contextmanager
def _quiet():
    """Discard what is written to stdout and stderr, by C++ too: TensorFlow logs before its log level can be set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _ONE_AT_A_TIME, open(os.devnull, "wb") as nowhere:
        kept = []
        for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
            with contextlib.suppress(OSError, AttributeError):  # closed: there is nothing to discard
                stream.flush()
            with contextlib.suppress(OSError):
                kept.append((fd, os.dup(fd)))
        try:
            for fd, _ in kept:
                os.dup2(nowhere.fileno(), fd)
            yield
        finally:
            for fd, copy in kept:
                os.dup2(copy, fd)
                os.close(copy)


# --- the converted weights ----------------------------------------------------------------------


def load_params(model_dir, hparams):
    """The weights of the model in `model_dir`, mapped from their converted copy, which is made where it is missing.

    The copy is `params-FINGERPRINT.npy`: all tensors one after the other in one flat float32 array. Its name holds a
    hash of what it was made from, so that a checkpoint that was changed or touched is converted anew. Where the folder
    cannot be written, the weights are read from the checkpoint into memory each time.

    Returns and raises as `load_gpt2_params_from_tf_ckpt`.
    """
    model_dir = Path(model_dir)
    prefix = checkpoint_prefix(model_dir)
    path = model_dir / f"params-{_fingerprint(prefix, hparams)}.npy"
    params = _map_params(path, hparams)
    if params is None:
        try:
            with _lock(model_dir):
                params = _map_params(path, hparams)  # another process may have made it meanwhile
                if params is None:
                    notice(f"converting {model_dir} to NumPy, once ...")
                    _convert(prefix, path, hparams)
                    params = _map_params(path, hparams)
        except OSError as error:
            notice(f"the converted weights cannot be kept in {model_dir} ({error.strerror or error}): reading the "
                   "checkpoint itself")
    return load_gpt2_params_from_tf_ckpt(prefix, hparams) if params is None else params


def _fingerprint(prefix, hparams):
    """16 hex digits that differ where the checkpoint does: its index holds a checksum of every tensor."""
    index = prefix.with_name(prefix.name + ".index")
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing: without it the checkpoint cannot be read")
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (index, *_data_files(prefix))]
    sizes = list(parameter_shapes(hparams).items())
    return hashlib.sha256(index.read_bytes() + repr(("by columns", files, sizes)).encode()).hexdigest()[:16]


def _map_params(path, hparams):
    """The nested dict over the memory-mapped file `path`, or None where it is missing or not whole."""
    shapes, head = parameter_shapes(hparams), _npy_head(hparams)
    try:
        with open(path, "rb") as file:
            if file.read(len(head)) != head:  # NumPy would try to make sense of whatever stands there
                return None
        # "c": copy on write. Processes share the pages; a weight changed in a notebook stays there.
        flat = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError):
        return None
    flat = flat.view(np.ndarray)  # np.memmap's own class would cost time in every operation

    def slices():
        start = 0
        for name, shape in shapes.items():
            stop = start + int(np.prod(shape))
            part = flat[start:stop]
            yield name, part.reshape(shape[::-1]).T if _by_columns(name) else part.reshape(shape)
            start = stop

    return nested(slices(), hparams["n_layer"])


def _npy_head(hparams):
    """The first bytes of a file of converted weights: NumPy's description of one flat float32 array."""
    n_values = sum(int(np.prod(shape)) for shape in parameter_shapes(hparams).values())
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (n_values,)})
    return head.getvalue()


def _convert(prefix, path, hparams):
    """Write the checkpoint's tensors to `path`, one at a time; it appears when it is whole."""
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            file.write(_npy_head(hparams))
            for name, array in read_tf_checkpoint(prefix, hparams):
                array = np.ascontiguousarray(array.T if _by_columns(name) else array)
                file.write(array.data.cast("B"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        for old in path.parent.iterdir():  # conversions of what this checkpoint was before
            if CONVERTED.fullmatch(old.name) and old != path:
                with contextlib.suppress(OSError):
                    old.unlink()

