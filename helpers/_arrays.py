"""NumPy in, NumPy out; torch in, torch out: the two lines every public function needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Array: TypeAlias = np.ndarray | torch.Tensor
"""What public functions take."""

ArrayT = TypeVar("ArrayT", np.ndarray, torch.Tensor)
"""The same kind out as in."""

Number = TypeVar("Number", float, np.ndarray, torch.Tensor)

Function = TypeVar("Function", bound=Callable[..., Any])

Device: TypeAlias = str | torch.device | None


def is_tensor(x: object) -> TypeIs[torch.Tensor]:
    """Tell whether `x` is a torch tensor."""
    return isinstance(x, torch.Tensor)


def to_tensor(
    x: ArrayLike | torch.Tensor, device: Device = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Give `x` as a torch tensor; a NumPy array is copied only if it must be.

    Integers become float32, and float64 too on a device that has none, as Apple's. A tensor stays
    on its device unless `device` is given.
    """
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
    if dtype is None and x.dtype == torch.float64 and _lacks_float64(device):
        dtype = torch.float32
    return x.to(device=device, dtype=dtype)


def _lacks_float64(device: Device) -> bool:
    return str(device or "").partition(":")[0] == "mps"


def wide(t: torch.Tensor) -> torch.Tensor:
    """Give a tensor in double precision, on the host if its device has none, as Apple's."""
    return (t.cpu() if _lacks_float64(t.device) else t).double()


def in_float32(function: Function) -> Function:
    """Make a function of tensors work in float32 where torch's autocast asks for fewer bits.

    For places and cameras: bfloat16 has 8 bits, so that above 256 pixels it knows even ones only.

    Examples
    --------
    >>> x = torch.ones(2, 2)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     (x @ x).dtype, in_float32(torch.matmul)(x, x).dtype
    (torch.bfloat16, torch.float32)
    """

    @functools.wraps(function)
    def exact(*args: Any, **options: Any) -> Any:
        device = next((each.device.type for each in args if is_tensor(each)), "")
        if device not in ("cpu", "cuda"):  # autocast knows no others in every version of torch
            return function(*args, **options)
        with torch.autocast(device, enabled=False):
            return function(*map(_float32, args), **{k: _float32(v) for k, v in options.items()})

    result: Any = exact
    return result


def bits_of(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The context of a forward pass in "float32", or in "bfloat16" where that loses nothing."""
    if precision == "float32":
        return nullcontext
    if precision != "bfloat16":
        raise ValueError(f"precision is {precision!r}: use 'float32' or 'bfloat16'")
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"bfloat16 is for cuda and the cpu: use float32 on {device.type}")
    return functools.partial(torch.autocast, device.type, torch.bfloat16)


def _float32(x: Any) -> Any:
    return x.float() if is_tensor(x) and x.dtype in (torch.bfloat16, torch.float16) else x


def to_numpy(x: ArrayLike | torch.Tensor) -> np.ndarray:
    """Give `x` as a NumPy array, moved from its device if needed."""
    return x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)


@overload
def like(result: torch.Tensor, example: ArrayT) -> ArrayT: ...
@overload
def like(result: torch.Tensor, example: Array | None) -> Array: ...
def like(result: torch.Tensor, example: Array | None) -> Array:
    """Give the tensor `result` in the kind of `example`: NumPy for NumPy, torch for torch."""
    return result if is_tensor(example) else to_numpy(result)


def like_any(result: torch.Tensor, examples: Iterable[object]) -> Any:
    """Give the tensor `result` as it is if any example is a tensor, else as a NumPy array."""
    return result if any(map(is_tensor, examples)) else to_numpy(result)
