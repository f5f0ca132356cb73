"""The model as the questions take it: (encoder, hparams, params)."""
from utils import Model


def check_model(model) -> Model:
    """`model` as a `Model`.

    Raises:
        TypeError: it is something else, for instance the params alone.
    """
    wanted = "model must be (encoder, hparams, params), as load_encoder_hparams_and_params returns it"
    if isinstance(model, dict):
        kind = "params" if "wte" in model else "hparams" if "n_head" in model else "a dict"
        raise TypeError(f"{wanted}, not {kind} alone")
    if not isinstance(model, (tuple, list)):
        raise TypeError(f"{wanted}, not {type(model).__name__}")
    if len(model) != 3:
        raise TypeError(f"{wanted}, not {len(model)} values")
    encoder, hparams, params = model
    if not isinstance(hparams, dict) or "n_head" not in hparams:
        raise TypeError(f"{wanted}: the second value must be the dict of sizes, not {type(hparams).__name__}")
    if not isinstance(params, dict) or "wte" not in params:
        raise TypeError(f"{wanted}: the third value must be the dict of weights, not {type(params).__name__}")
    return Model(encoder, hparams, params)


def model_name(model: Model) -> str:
    """What titles call the model: the name of its folder, or its sizes where it was not loaded from one."""
    model = check_model(model)
    sizes = "GPT-2 of {n_layer} layers, {n_head} heads, width {n_embd}".format(**model.hparams)
    return getattr(model.encoder, "name", None) or sizes


def check_choice(name, value, choices):
    """ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
