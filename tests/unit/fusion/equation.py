"""The cost of a fusion and its gradient, written again from the equation, and a scene to fuse."""

import numpy as np

from helpers.fusion import element_weights

NUMBERS = [21, 66, 8, 38]
KINDS = ("isotropic", "anisotropic")
SOLVERS = ("accelerated", "tutorial")


def scene(n_elements=3, shape=(40, 31), seed=0):
    """Blocky maps with shot noise and many zeros, and a HAADF image that nearly fits, up to 1."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((n_elements, -(-shape[0] // 6), -(-shape[1] // 6)))
    truth = np.kron(blocks, np.ones((6, 6)))[:, : shape[0], : shape[1]]
    maps = rng.poisson(4 * truth) / 4
    haadf = np.tensordot(element_weights(NUMBERS[:n_elements]), truth**1.6, 1)
    haadf += 0.05 * rng.standard_normal(shape)
    return haadf / abs(haadf).max(), maps / max(maps.max(), 1)


def cost(x, haadf, maps, weights, gamma=1.6, lambda_haadf=None, lambda_chem=0.08, lambda_tv=0.15,
         background=0.24, kind="isotropic", **others):  # fmt: skip
    """Give the three terms of the stated equation, in float64."""
    x, maps = np.asarray(x, float), np.asarray(maps, float)
    lambda_haadf = 1 / len(x) if lambda_haadf is None else lambda_haadf
    residual = haadf - sum(w * m**gamma for w, m in zip(weights, x, strict=True))
    down, right = np.diff(x, axis=1), np.diff(x, axis=2)
    down, right = np.pad(down, ((0, 0), (0, 1), (0, 0))), np.pad(right, ((0, 0), (0, 0), (0, 1)))
    length = np.hypot(down, right) if kind == "isotropic" else abs(down) + abs(right)
    return (
        lambda_haadf / 2 * (residual**2).sum(),
        lambda_chem * (x - maps * np.log(x + background)).sum(),
        lambda_tv * length.sum(),
    )


def gradient(x, haadf, maps, weights, gamma=1.6, lambda_chem=0.08, background=0.24):
    """Gradient of the first two terms, by hand."""
    w = np.asarray(weights)[:, None, None]
    misfit = (w * x**gamma).sum(0) - haadf
    return w * gamma * x ** (gamma - 1) * misfit / len(x) + lambda_chem * (
        1 - maps / (x + background)
    )


def array(maps):
    return np.stack(list(maps.values())) if isinstance(maps, dict) else np.asarray(maps)
