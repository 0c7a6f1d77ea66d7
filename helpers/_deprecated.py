"""Old names that work for one release, with a warning that says the new one."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def renamed(**old_to_new: str) -> Callable[[F], F]:
    """Decorate a function or a class that also takes the old names of its keyword arguments.

    Raises
    ------
    TypeError
        A call gives an argument by both its names. While decorating: a new name that is not an
        argument, or an old one that still is.

    Notes
    -----
    Write it above ``@dataclass``: the class itself comes back, its ``__init__`` translates.

    Examples
    --------
    >>> @renamed(rate="learning_rate")
    ... def train(*, learning_rate=1e-3):
    ...     return learning_rate
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     train(rate=0.5)
    0.5
    >>> print(caught[0].message)
    train: rate is now learning_rate, and the old name goes with the next release
    """

    def decorate(function: F) -> F:
        parameters = inspect.signature(function).parameters
        for old, new in old_to_new.items():
            if new not in parameters or old in parameters:
                raise TypeError(f"{function.__name__} has {list(parameters)}: {old} -> {new}?")
        if isinstance(function, type):
            # a dataclass may be frozen, its class is not
            function.__init__ = _translating(function.__init__, function.__name__, old_to_new)  # type: ignore[misc]
            return function
        return _translating(function, function.__name__, old_to_new)

    return decorate


def renamed_attribute(new: str) -> Any:
    """Give an attribute its old name: ``crlb = renamed_attribute("crlb_std")`` in a class body.

    Examples
    --------
    >>> class Fits:
    ...     crlb = renamed_attribute("crlb_std")
    ...     crlb_std = 3.0
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     Fits().crlb
    3.0
    >>> print(caught[0].message)
    Fits: crlb is now crlb_std, and the old name goes with the next release
    """
    return _OldName(new)


class _OldName:
    """Read-only attribute that gives another one."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = name

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:  # dir(), help() and dataclasses look at the class
            return self
        warn(owner.__name__, self.old, self.new)
        return getattr(instance, self.new)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(f"{self.old} is now {self.new}: set that")


def _translating(function: F, name: str, old_to_new: dict[str, str]) -> F:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for old in old_to_new.keys() & kwargs.keys():
            new = old_to_new[old]
            if new in kwargs:
                raise TypeError(f"{name}: {old} is the old name of {new}: give {new} alone")
            warn(name, old, new)
            kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def warn(where: str, old: str, new: str) -> None:
    """Say the new name to the caller of the one that calls this."""
    message = f"{where}: {old} is now {new}, and the old name goes with the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
