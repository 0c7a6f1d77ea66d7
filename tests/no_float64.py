"""A device without float64, such as Apple's GPU, that any machine can stand for.

Within ``device()`` a tensor that is moved to ``mps`` keeps its numbers on the CPU, says that it is
on ``mps``, and refuses what the real one refuses: a result in double precision, and arithmetic
with a tensor that stayed on the CPU. For torch's own code it is a tensor on ``meta``.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

WIDE = (torch.float64, torch.complex128)
HOSTED = (torch.tensor, torch.as_tensor, torch.asarray)  # made from what is on the host
INDEXED = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
aten = torch.ops.aten
# What takes a tensor of the host beside one of the device: moves, and indices.
MIXED = (
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)


class OnDevice(torch.Tensor):
    """A tensor on the stand-in; `held` has its numbers."""

    @staticmethod
    def __new__(cls, held):
        if held.dtype in WIDE:
            raise TypeError(f"the device has no {held.dtype}: compute it on the host")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held):
        self.held = held.resolve_conj().resolve_neg()  # a wrapper has no such marks

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self):
        return torch.device("mps")

    def __repr__(self):
        return f"OnDevice({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return apply(func, args, kwargs or {})


class Operations(TorchDispatchMode):
    """Sees every operation, also those that make a tensor of nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return apply(func, args, kwargs or {})


class Names(TorchFunctionMode):
    """Lets torch's own code read ``meta`` where a caller says ``mps``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.device:
            return func(*args, **kwargs or {})
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        if func is torch.Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | (kwargs or {})).to("meta")
        if func in INDEXED:
            args = (args[0], _index(args[1]), *args[2:])
        args, kwargs = tree_map(_meta, (args, kwargs or {}))
        if func in HOSTED and kwargs.get("device") == torch.device("meta"):
            return func(*args, **{k: v for k, v in kwargs.items() if k != "device"}).to("meta")
        return func(*args, **kwargs)


def _index(value):
    """Lists and arrays as tensors of the host: torch takes them to ``meta`` without numbers."""
    if isinstance(value, tuple):
        return tuple(_index(part) for part in value)
    return torch.tensor(value) if isinstance(value, (list, np.ndarray)) else value


def _meta(value):
    if not isinstance(value, (str, torch.device)):
        return value
    return torch.device("meta") if str(value) in ("mps", "mps:0") else value


def apply(func, args, kwargs):
    """Run one operation on the numbers, and say where its result is."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, OnDevice) for tensor in tensors)
    if any(t.is_meta and not isinstance(t, OnDevice) for t in tensors):
        raise RuntimeError(f"{func}: a tensor without numbers, made past the stand-in")
    if there and func not in MIXED:
        stayed = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim]
        if stayed:
            shape = tuple(stayed[0].shape)
            raise RuntimeError(f"{func}: a tensor of shape {shape} is still on the CPU")
    held_args, held_kwargs = tree_map_only(OnDevice, lambda t: t.held, (args, kwargs))
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == "meta"
        held_kwargs["device"] = torch.device("cpu")
    out = func(*held_args, **held_kwargs)
    if there:
        out = tree_map_only(torch.Tensor, OnDevice, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


@contextmanager
def device():
    """Stand for a machine whose torch has the device."""
    here = mock.patch("torch.backends.mps.is_available", lambda: True)
    # inference mode takes no such tensors
    plain = lambda on=True: torch.no_grad() if on else nullcontext()  # noqa: E731
    tracked = mock.patch("torch.inference_mode", plain)
    with here, tracked, Operations(), Names():
        yield torch.device("mps")
