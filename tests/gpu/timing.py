"""How long work takes on a device that answers before it has finished."""

import time

import torch


def seconds(work):
    """Run once to warm up and once to time; give the result of the second."""
    work()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return result, time.perf_counter() - begin
