"""Fuse a fast, coarse x-ray camera with a slow, sharp one."""
