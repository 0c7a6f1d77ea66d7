"""NumPy in, NumPy out; torch in, torch out: the two lines every public function needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

Array: TypeAlias = "np.ndarray | torch.Tensor"  # NumPy in, NumPy out; torch in, torch out


def is_tensor(x):
    """True for a torch tensor; does not import torch for a NumPy user."""
    return type(x).__module__.partition(".")[0] == "torch"


def to_tensor(x, device=None, dtype=None):
    """Give `x` as a torch tensor; a NumPy array is copied only if it must be.

    Integers become float32. A tensor stays on its device unless `device` is given.
    """
    import torch

    if not is_tensor(x):
        x = np.asarray(x)
        if not x.dtype.isnative:
            x = x.astype(x.dtype.newbyteorder("="))
        # torch knows neither memory that must not be written nor steps backwards
        if not x.flags.writeable or min(x.strides, default=0) < 0:
            x = x.copy()
        x = torch.as_tensor(x)
    if dtype is None and not x.is_floating_point():
        dtype = torch.float32
    return x.to(device=device, dtype=dtype)


def to_numpy(x):
    """Give `x` as a NumPy array, moved from its device if needed."""
    return x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)


def like(result, example):
    """Give the tensor `result` in the kind of `example`: NumPy for NumPy, torch for torch."""
    return result if is_tensor(example) else to_numpy(result)
