"""Values of a config against type hints: what fits is converted (list to tuple, a name to its enum member)."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


class Misfit(Exception):
    """A value does not fit its hint; the text says what was expected."""


def fitted(value: Any, hint: Any) -> Any:
    """The value as its hint has it. Hints that a config cannot check (classes, Any) let everything pass.

    Raises Misfit. A whole number is a number, a number without fraction (1e4) a whole number; true is neither.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, arguments)
    if origin is typing.Literal:
        return _literal(value, arguments)
    if origin is typing.Annotated:
        return fitted(value, arguments[0])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _member(value, hint)
    if hint in _WORDS:
        return _scalar(value, hint)
    kind = origin or hint
    if kind in (list, tuple, Sequence, Iterable):
        return _sequence(value, kind, arguments)
    if kind in (dict, Mapping) and not isinstance(value, Mapping):
        raise Misfit("keys with values")
    return value


def _scalar(value: Any, hint: type) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is float and whole:
        return float(value)
    if (hint is int and not whole) or not isinstance(value, hint):
        raise Misfit(_WORDS[hint])
    return value


def _one_of(value: Any, hints: Sequence[Any]) -> Any:
    expected = []
    for hint in hints:
        try:
            return fitted(value, hint)
        except Misfit as misfit:
            expected.append(str(misfit))
    raise Misfit(" or ".join(expected))


def _literal(value: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return value
    raise Misfit(" or ".join(str(choice) for choice in choices))


def _member(value: Any, kind: type[Enum]) -> Enum:
    for member in kind:
        if value is member or value in (member.name, member.value, f"{kind.__name__}.{member.name}"):
            return member
    raise Misfit(" or ".join(str(member.value) for member in kind))


def _sequence(value: Any, kind: Any, hints: Sequence[Any]) -> Any:
    if not isinstance(value, list | tuple):
        raise Misfit("a list")
    if kind is tuple and hints and hints[-1] is not Ellipsis:
        if len(hints) != len(value):
            raise Misfit(f"a list of {len(hints)} values")
        each = list(hints)
    else:
        each = [hints[0] if hints else Any] * len(value)
    try:
        items = [fitted(item, hint) for item, hint in zip(value, each, strict=True)]
    except Misfit as misfit:
        raise Misfit(f"a list, each of it {misfit}") from None
    return tuple(items) if kind is tuple else items
