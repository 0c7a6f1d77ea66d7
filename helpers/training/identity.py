"""Identity of a run: what decides its result, in words to compare and digests to be sure."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from .._arrays import is_tensor, to_numpy

PRIVATE = "_backward_", "_forward_", "_state_dict_", "_load_state_", "_non_persistent", "_is_full"
PLAIN: tuple[type, ...] = (bool, int, float, complex, str, bytes, type(None), slice, range)
PLAIN += (type(...), PurePath, Enum, torch.dtype, torch.device, np.dtype)
PACKAGE = __name__.partition(".")[0]


def fingerprint(obj: Any, *, trained: bool = True) -> str:
    """Short digest of a value and of all that it is made of, the same in another process.

    Arrays, tensors, generators and modules count by their numbers; functions by their name, code,
    defaults, closure, and the globals they read; partials, dataclasses and other objects by their
    class and attributes. Values that are cached by `functools.cached_property` do not count:
    whether they were asked for decides nothing. With ``trained=False`` what a training changes is
    left out: parameters that have a gradient, and running statistics.

    Examples
    --------
    >>> from functools import partial
    >>> weak, same, strong = (fingerprint(partial(np.multiply, w)) for w in (0.1, 0.1, 0.2))
    >>> weak == same, weak == strong
    (True, False)
    """
    walk = _Walk(trained)
    walk.add(obj)
    return walk.digest.hexdigest()


def told(obj: Any, *, trained: bool = True) -> str:
    """Name and digest of what stands in an identity, such as ``poisson(read_noise=1.5) #3f29``."""
    return f"{name_of(obj)} #{fingerprint(obj, trained=trained)}"


def name_of(obj: Any) -> str:
    """Name of a function or of the class of an object, with the settings that are bound to it."""
    if isinstance(obj, functools.partial):
        settings = ", ".join(f"{key}={value}" for key, value in obj.keywords.items())
        return f"{name_of(obj.func)}({settings})"
    return getattr(obj, "__name__", type(obj).__name__)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what differs between two identities; empty where nothing does."""
    names = [name for name in {**now, **then} if _plain(then.get(name)) != _plain(now.get(name))]
    return ", ".join(f"{name} {then.get(name)}, not {now.get(name)}" for name in names)


def _plain(value: Any) -> Any:
    """Lists for tuples: a file may know only one of them."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _home(obj: Any) -> str:
    """Module of what belongs to this package; a script is called otherwise when it is imported."""
    module = getattr(obj, "__module__", None) or ""
    return module if module.partition(".")[0] == PACKAGE else ""


def _changes(name: Any, value: Any) -> bool:
    """True for what a training changes, in the dictionaries of a module."""
    parameter = isinstance(value, torch.nn.Parameter) and value.requires_grad
    return parameter or name in ("running_mean", "running_var", "num_batches_tracked")


class _Walk:
    """A digest that objects are added to."""

    def __init__(self, trained: bool) -> None:
        self.trained = trained
        self.digest = hashlib.blake2b(digest_size=8)
        self.known: dict[int, str] = {}
        self.kept: list[Any] = []  # an object that is gone gives its id to another one

    def say(self, *words: Any) -> None:
        self.digest.update(("\0".join(map(str, words)) + "\1").encode())

    def add(self, obj: Any) -> None:
        """Add the digest of an object; equal objects have the same, whether shared or copied."""
        if isinstance(obj, PLAIN):
            self.say(type(obj).__name__, repr(obj))
            return
        if id(obj) not in self.known:
            self.known[id(obj)] = "itself"  # where an object holds itself
            self.kept.append(obj)
            outer, self.digest = self.digest, hashlib.blake2b(digest_size=8)
            self.describe(obj)
            self.known[id(obj)], self.digest = self.digest.hexdigest(), outer
        self.say(self.known[id(obj)])

    def describe(self, obj: Any) -> None:
        """Say what an object is made of."""
        if is_tensor(obj) and not isinstance(obj, torch.nn.Module | torch.Generator):
            self.tensor(obj)
        elif isinstance(obj, np.ndarray | np.generic):
            self.array(np.asarray(obj))
        elif isinstance(obj, Mapping):
            for key in sorted(obj, key=str):
                if self.trained or not _changes(key, obj[key]):
                    self.add(key)
                    self.add(obj[key])
        elif isinstance(obj, set | frozenset):
            self.say("set", sorted(fingerprint(each) for each in obj))
        elif isinstance(obj, list | tuple):
            self.say("sequence", len(obj))
            for each in obj:
                self.add(each)
        elif isinstance(obj, functools.partial):
            self.say("partial")
            for part in (obj.func, obj.args, obj.keywords):
                self.add(part)
        elif isinstance(obj, torch.Generator):
            self.tensor(obj.get_state())
        elif isinstance(obj, np.random.Generator):
            self.add(obj.bit_generator.state)
        elif inspect.ismethod(obj):
            self.say("method", obj.__name__)
            self.add(obj.__self__)
        elif inspect.isfunction(obj):
            self.function(obj)
        elif isinstance(obj, type) or inspect.isbuiltin(obj) or inspect.ismodule(obj):
            self.say("name", _home(obj), getattr(obj, "__qualname__", repr(obj)))
        else:
            self.object(obj)

    def tensor(self, tensor: torch.Tensor) -> None:
        if tensor.dtype == torch.bfloat16:  # NumPy has no such numbers
            tensor = tensor.float()
        self.array(to_numpy(tensor.detach()))

    def array(self, array: np.ndarray) -> None:
        self.say("array", array.dtype.str, array.shape)
        if array.dtype.hasobject:
            self.add(array.tolist())
        else:
            self.digest.update(np.ascontiguousarray(array).tobytes())

    def function(self, function: Any) -> None:
        """Functions of this package by their name; those of others also by their code."""
        self.say("function", _home(function), function.__qualname__)
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # a cell that is still empty
                self.add(cell.cell_contents)
        if not _home(function):
            self.code(function.__code__, function.__globals__)

    def code(self, code: Any, names: Mapping[str, Any]) -> None:
        self.digest.update(code.co_code)
        self.say(*code.co_names)
        for constant in code.co_consts:
            if inspect.iscode(constant):
                self.code(constant, names)
            else:
                self.add(constant)
        for name in code.co_names:
            if name in names and not inspect.ismodule(names[name]):
                self.add(names[name])

    def object(self, obj: Any) -> None:
        """Class and attributes; what says nothing of itself counts by its class alone."""
        kind = type(obj)
        self.say("object", _home(kind), kind.__qualname__)
        self.say(getattr(obj, "__name__", ""))
        slots = [getattr(each, "__slots__", ()) for each in kind.__mro__]
        names = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
        found = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
        found |= getattr(obj, "__dict__", {})
        # the seed of weights that are trained is no more than where they began
        started = isinstance(obj, torch.nn.Module) and not self.trained
        beside = ("training", "seed") if started else ("training",)
        for name in sorted(found):
            cached = isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)
            if not cached and not name.startswith(PRIVATE) and name not in beside:
                self.say(name)
                self.add(found[name])
