"""Named tuples that carry a title for their picture."""
from typing import TypeVar

T = TypeVar("T")


def titled(named_tuple: type[T]) -> type[T]:
    """Class decorator: give a named tuple an attribute `title`, a str, which is not one of its fields.

    So a result unpacks to its arrays, and its picture still says which model and text they are of.
    """
    return type(named_tuple.__name__, (named_tuple,),
                {"title": "", "__doc__": named_tuple.__doc__, "__module__": named_tuple.__module__})


def with_title(result: T, title: str) -> T:
    """The result, with its title set."""
    result.title = title  # type: ignore[attr-defined]
    return result
