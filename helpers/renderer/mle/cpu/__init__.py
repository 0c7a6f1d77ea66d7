"""Compiled (numba) loops of the fits, used when they can be."""
