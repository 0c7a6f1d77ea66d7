"""Iterations of the fusion solver, step by step in torch or as a compiled wavefront."""
