"""Many texts: a question that is asked of one is asked of each, and the answer is their mean."""
import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from cli.arguments import CommandLineError
from inside.result import Baseline
from many_texts.tables import read_csv, text_of

Result = TypeVar("Result")


def is_many(text: Any) -> bool:
    """Whether a text is a list of texts; a list of whole numbers is one text's ids."""
    return not isinstance(text, str) and len(text) > 0 and not isinstance(text[0], numbers.Integral)


def over_texts(*names: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """A decorator of a question: the arguments of these names may be lists, one for each text.

    The first of them says whether they are; the others may be one for all texts. Over many texts, the result's arrays
    are means, and it has `standard_error` and `n_texts`.
    """

    def decorate(ask: Callable[..., Result]) -> Callable[..., Result]:
        signature = inspect.signature(ask)

        @functools.wraps(ask)
        def run(*args: Any, **kwargs: Any) -> Result:
            given = signature.bind(*args, **kwargs).arguments
            if not is_many(given[names[0]]):
                return ask(*args, **kwargs)
            n = len(given[names[0]])
            lists = {name: given[name] for name in names if isinstance(given.get(name), (list, tuple, np.ndarray))}
            for name, values in lists.items():
                if len(values) != n:
                    raise ValueError(f"{name} is a list of {len(values)}, but there are {n} texts")
                if 0 < sum(value is None for value in values) < n:
                    raise ValueError(f"{name} is there for some of the texts only: give one for each, or none")
            return mean_of([ask(**{**given, **{name: values[i] for name, values in lists.items()}}) for i in range(n)])

        return run

    return decorate


def mean_of(results: list[Any]) -> Any:
    """The mean of several results of one kind, with the standard error of its first array."""
    first, n = results[0], len(results)
    mean = type(first)(*(_mean_field(values) for values in zip(*results, strict=True)))
    arrays = next(values for values in zip(*results, strict=True) if isinstance(values[0], np.ndarray))
    mean.title = first.title if n == 1 else f"{first.title} and for {n - 1} more text{'s' if n > 2 else ''}: the mean"
    mean.metric = first.metric if len({result.metric for result in results}) == 1 else first.metric.partition(" of ")[0]
    mean.n_texts, mean.standard_error = n, np.std(arrays, axis=0, ddof=1) / math.sqrt(n) if n > 1 else None
    mean.baseline = [_mean_baseline(runs) for runs in zip(*(result.baseline for result in results), strict=True)]
    return mean


def _mean_field(values: tuple[Any, ...]) -> Any:
    """The mean of numbers; of pieces, those that all texts share."""
    first = values[0]
    if isinstance(first, np.ndarray):
        if len({array.shape for array in values}) > 1:
            raise ValueError("the texts have different numbers of tokens, so there is no mean for each position: give "
                             "texts with the same number of tokens, or ask about whole heads (patching: at z)")
        return np.mean(values, axis=0)
    if isinstance(first, float):
        return float(np.mean(values))
    if isinstance(first, list):
        return [pieces[0] if len(set(pieces)) == 1 else "…" for pieces in zip(*values)]
    return first


def _mean_baseline(runs: tuple[Baseline, ...]) -> Baseline:
    n_right = sum(run.right for run in runs)
    return Baseline(runs[0].name, float(np.mean([run.value for run in runs])),
                    f"the answer in {n_right} of {len(runs)} texts", None, n_right == len(runs))


def rows_of(file: str, needed: list[str], optional: list[str], given: dict[str, Any], position: int
            ) -> dict[str, list[Any]]:
    """The columns of a CSV file of texts and answers, one text in each row, for a question over many texts.

    Args:
        file: the file's name; UTF-8, its first row names the columns.
        needed, optional: names of columns.
        given: the same arguments from the command line; each must be None if the file has its column.
        position: the one on the command line, which must be -1, its default, if the file has a column of positions.

    Raises:
        CommandLineError: an argument is in both.
        ValueError: the file is not a table, lacks a column or has an empty cell.
    """
    try:
        with open(file, "rb") as lines:
            rows = list(read_csv(lines))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not rows:
        raise ValueError(f"{file} has no rows")
    columns = list(rows[0].values)
    for name, value in {**given, "position": None if position == -1 else position}.items():
        if value is not None and name in columns:
            raise CommandLineError(f"{name} comes from a column of --file {file}: leave {value!r} out")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(f"{file} has no column {missing[0]}: its columns are {', '.join(columns)}, and "
                         f"{', '.join(needed)} are needed")
    names = [name for name in (*needed, *optional) if name in columns]
    for i, row in enumerate(rows, 1):
        for name in names:
            if row.error is None and not row.values[name]:
                raise ValueError(f"{file}: the {name} of row {i} is empty")
            if wrong := text_of(row, name)[1]:
                raise ValueError(f"{file}: {wrong}")
    try:
        return {name: [int(row.values[name]) if name == "position" else row.values[name] for row in rows]
                for name in names}
    except ValueError as error:
        raise ValueError(f"{file}: a position must be a whole number ({error})") from None
