"""What the tests of several fusion networks need: frames to show, weights that are not zero."""

import torch


def count(module):
    return sum(p.numel() for p in module.parameters())


def frames(batch=2, h=8, w=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    lr = torch.rand(batch, 3, 1, h, w, generator=draw)
    hr = torch.rand(batch, 2, 1, 4 * h, 4 * w, generator=draw)
    return lr, hr, torch.rand(batch, generator=draw)


def disturb(net, seed=1):
    """Away from the start, where zeros would hide what is wrong."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return net


def apart(a, b):
    """Largest difference, as a power of ten: its size varies, not whether there is one."""
    return float(torch.log10((a - b).abs().max().clamp(min=1e-30)))
