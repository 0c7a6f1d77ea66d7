"""One process, or one of several that torchrun has started: who is who, and who does what."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed

from ...devices import pick_device


class Processes:
    """The processes that train together, as a context: joined on entry, left on exit.

    ``torchrun`` names them in the environment (RANK, WORLD_SIZE, LOCAL_RANK). They talk by NCCL on
    GPUs, where each takes its own, and by gloo otherwise. Without torchrun there is one process,
    and nothing to join.

    Examples
    --------
    >>> with Processes("cpu") as processes:
    ...     processes.size, processes.share(8)
    (1, slice(0, 8, None))
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0)) if self.size > 1 else 0
        self.device = pick_device(device)
        if self.size > 1 and self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        self._joined = False

    def __enter__(self) -> Processes:
        if self.size > 1 and not distributed.is_initialized():
            cuda = self.device.type == "cuda"
            if cuda:
                torch.cuda.set_device(self.device)
            distributed.init_process_group("nccl" if cuda else "gloo")
            self._joined = True
        return self

    def __exit__(self, *error: Any) -> None:
        if self._joined:
            distributed.destroy_process_group()

    @property
    def cuda_devices(self) -> list[torch.device]:
        """The GPUs whose random numbers must be put back: this process's own, or none."""
        return [self.device] if self.device.type == "cuda" else []

    def share(self, batch: int) -> slice:
        """The slice of a batch of that many samples which is this process's."""
        if batch % self.size:
            raise ValueError(
                f"a batch of {batch} cannot be shared by {self.size} processes: give a multiple"
            )
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        """The network, with gradients that are averaged over the processes."""
        return net if self.size == 1 else torch.nn.parallel.DistributedDataParallel(net)

    def mean(self, value: torch.Tensor) -> float:
        """A scalar tensor's mean over the processes, as a float."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.size
        return float(value)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            distributed.barrier()
