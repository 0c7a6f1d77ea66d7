"""The compiled package ``multimodal-fusion`` 0.6.0 as a peer, if it is installed.

Only its loop is timed. Its own loading builds the matrix entry by entry in Python and takes longer
than the loop; it also overwrites the caller's arrays. So the fields it would fill are set here, to
what it would have put there.
"""

from __future__ import annotations

import contextlib
import io

from .published_loop import measurement_matrix


def missing():
    """Why the package cannot be timed here, or an empty string."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import multimodal_fusion
    except ImportError as error:
        return f"multimodal-fusion is not installed ({error}): make bench installs it"
    if multimodal_fusion.ctvlib is None:
        return "multimodal-fusion is installed without its compiled part"
    return ""


class Package:
    """One problem, loaded. Square images only: it scrambles others."""

    def __init__(self, case, weights, gamma):
        from multimodal_fusion import DataFusion, ctvlib

        shape = case.haadf.shape
        self.shape = case.maps.shape
        self.fusion = DataFusion(list(case.symbols), gamma=gamma)
        self.fusion.nz, self.fusion.nPix = len(case.maps), case.haadf.size
        self.fusion.nx, self.fusion.ny = shape
        self.fusion.xx = case.maps.ravel().copy()
        self.fusion.xx0 = self.fusion.xx.copy()
        self.fusion.b = case.haadf.ravel().copy()
        self.fusion.A = measurement_matrix(weights, case.haadf.size)
        self.fusion.reg = ctvlib(*shape)

    def run(self, *, gamma, lambda_chem, lambda_tv, background, n_iter, n_iter_tv):
        """Its whole loop, from the maps; without cost curves, which would open a window."""
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            self.fusion.run(
                nIter=n_iter, lambdaEDS=lambda_chem, lambdaTV=lambda_tv, ng=n_iter_tv,
                bkg=background, plot_images=False, plot_convergence=False,
            )  # fmt: skip
        return self.fusion.xx.reshape(self.shape)
