"""The published fusion loop, restated for timing.

A restatement, in code of this project, of what the program of the beginner's guide (Manassa et
al., Elemental Microscopy 2024) does: the same operations in the same order and types, with its
defects, so that it takes the same time and gives the same maps. ``--guide PATH/fusion_utils.py``
times the original projection beside it. Do not use it for data: `helpers.fusion.fuse` solves the
problem.

Its ways, kept on purpose: one flat vector for all maps; the HAADF model as a sparse matrix of
weights that went through float16; a product of two sparse matrices in every gradient; one map
after another through an anisotropic projection whose adjoint is made by rolls and drops the
border.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from scipy.sparse import csr_matrix, spdiags


def measurement_matrix(weights, n_pixels, dtype=np.float16):
    """Sum of the maps with `weights`, as a sparse (pixels, elements * pixels) matrix."""
    n_elements = len(weights)
    data = np.tile(np.asarray(weights, dtype), n_pixels).astype(np.float32)
    columns = np.arange(n_pixels)[:, None] + n_pixels * np.arange(n_elements)
    starts = np.arange(0, n_elements * n_pixels + 1, n_elements)
    return csr_matrix((data, columns.ravel(), starts), shape=(n_pixels, n_elements * n_pixels))


def run(maps, haadf, matrix, projection, roughness, *, gamma, lambda_chem, lambda_tv, background,
        n_iter, n_iter_tv, clip=True):  # fmt: skip
    """Fuse `maps` (E, H, W) with `haadf` (H, W); give the maps and the three published curves.

    `clip` cuts negative values off before the projection, as published. A proximal step must not:
    its projection knows the bound.
    """
    n_elements, *shape = maps.shape
    measured, target = maps.ravel(), haadf.ravel()
    size, pixels = measured.size, target.size
    x = measured.copy()
    curves = np.zeros((3, n_iter), np.float32)
    for k in range(n_iter):
        misfit = matrix.dot(x**gamma) - target
        slope = gamma * spdiags(x ** (gamma - 1), [0], size, size) / n_elements
        x -= slope * matrix.transpose() * misfit + lambda_chem * (1 - measured / (x + background))
        if clip:
            x[x < 0] = 0
        for e in range(n_elements):
            part = slice(e * pixels, (e + 1) * pixels)
            x[part] = projection(x[part].reshape(shape), lambda_tv, n_iter_tv).ravel()
        curves[0, k] = 0.5 * np.linalg.norm(matrix.dot(x**gamma) - target) ** 2
        curves[1, k] = np.sum(measured * np.log(x + 1e-8) - x)
        curves[2, k] = sum(roughness(image) for image in x.reshape(maps.shape))
    return x.reshape(maps.shape), curves


def published_projection(image, weight, n_sweeps):
    """Its fast gradient projection: anisotropic, and the last rows and column are left out."""
    rows, columns = image.shape
    p, q = np.zeros((rows - 1, columns)), np.zeros((rows, columns - 1))
    p_last, q_last, t = p.copy(), q.copy(), 1
    for _ in range(n_sweeps):
        x = np.clip(image - weight * _published_adjoint(p, q), 0, None)
        down = x[:-1] - np.roll(x[:-1], 1, axis=0)
        across = x[:, :-1] - np.roll(x[:, :-1], 1, axis=1)
        p_new = p + 1 / (8 * weight) * down
        q_new = q + 1 / (8 * weight) * across
        p_new = p_new / np.maximum(1, np.abs(p_new))
        q_new = q_new / np.maximum(1, np.abs(q_new))
        following = (1 + np.sqrt(1 + 4 * t**2)) / 2
        p = p_new + (t - 1) / following * (p_new - p_last)
        q = q_new + (t - 1) / following * (q_new - q_last)
        p_last, q_last, t = p_new, q_new, following
    return np.clip(image - weight * _published_adjoint(p, q), 0, None)


def _published_adjoint(p, q):
    # The border of `p` is cleared in the caller's array, that of `q` in a copy: as published.
    p[0, :] = p[-1, :] = 0
    q = np.hstack((q, np.zeros((q.shape[0], 1))))
    q[:, 0] = 0
    p = np.vstack((p, np.zeros((1, p.shape[1]))))
    return p + q - np.roll(p, -1, axis=0) - np.roll(q, -1, axis=1)


def published_roughness(image):
    """Its third curve: the Euclidean norm of the whole gradient, not a total variation."""
    return np.sqrt(np.sum(np.diff(image, axis=0) ** 2) + np.sum(np.diff(image, axis=1) ** 2))


def correct_projection(image, weight, n_sweeps):
    """Isotropic fast gradient projection from a zero dual, plainly: what the solvers must give."""
    v, h = np.zeros_like(image), np.zeros_like(image)  # duals of the differences down and across
    v_moved, h_moved, t = v, h, 1.0
    for _ in range(n_sweeps):
        x = _correct_primal(image, weight, v_moved, h_moved)
        down, across = np.zeros_like(x), np.zeros_like(x)
        down[:-1], across[:, :-1] = np.diff(x, axis=0), np.diff(x, axis=1)
        v_new, h_new = v_moved + down / (8 * weight), h_moved + across / (8 * weight)
        length = np.maximum(1, np.hypot(v_new, h_new))
        v_new, h_new = v_new / length, h_new / length
        following = (1 + np.sqrt(1 + 4 * t**2)) / 2
        v_moved = v_new + (t - 1) / following * (v_new - v)
        h_moved = h_new + (t - 1) / following * (h_new - h)
        v, h, t = v_new, h_new, following
    return _correct_primal(image, weight, v, h)


def _correct_primal(image, weight, v, h):
    above = np.vstack((np.zeros_like(v[:1]), v[:-1]))
    before = np.hstack((np.zeros_like(h[:, :1]), h[:, :-1]))
    return np.maximum(image - weight * (above - v + before - h), 0)


def load_guide(path, shape):
    """The original projection and third curve, from the guide's own ``fusion_utils.py``."""
    spec = importlib.util.spec_from_file_location("guide_fusion_utils", path)
    guide = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guide)
    library = guide.tvlib(*shape)
    return library.fgp_tv, library.tv
