"""Pictures as bytes: how a page and its sliders carry a figure."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

CSS_DPI = 100  # a figure 7.2 in wide fills the 720 px text column
LIGHT = 60_000  # bytes of a PNG at single density; maps full of noise exceed it several times


def to_image(picture: Figure | np.ndarray, density: float) -> tuple[Image.Image, float]:
    """Turn a figure, or an array (H, W) or (H, W, 3) of uint8 or within [0, 1], into an RGB image.

    `density` is the device pixels per CSS pixel that a figure gets; an array is drawn pixel by
    pixel. The density of the image is given back with it. A figure is closed.

    Examples
    --------
    >>> image, density = to_image(np.zeros((240, 480)), density=2.0)
    >>> image.size, density
    ((480, 240), 1.0)
    """
    if isinstance(picture, Figure):
        from matplotlib import pyplot as plt  # not on top: pyplot chooses a backend

        plt.close(picture)  # or the notebook would show it once more below the slider
        picture.dpi = CSS_DPI * density
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        frame = Image.fromarray(np.asarray(canvas.buffer_rgba()))
        white = Image.new("RGBA", frame.size, "white")
        return Image.alpha_composite(white, frame).convert("RGB"), density
    pixels = np.asarray(picture)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise TypeError(
            f"render() gave {type(picture).__name__} of shape {pixels.shape}: "
            "return a matplotlib Figure or an (H, W) or (H, W, 3) array"
        )
    if pixels.dtype != np.uint8:
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("render() gave an array outside [0, 1]: scale it, or return uint8")
        pixels = np.round(255 * pixels.astype(float)).astype(np.uint8)
    zoom = max(1, 480 // pixels.shape[1])  # a tiny array is shown as large, sharp pixels
    frame = Image.fromarray(pixels).convert("RGB")
    return frame.resize((frame.width * zoom, frame.height * zoom), Image.Resampling.NEAREST), 1.0


def to_webp(frame: Image.Image, quality: int) -> bytes:
    """Encode a PIL image as WebP bytes; `quality` goes from 0 to 100."""
    buffer = io.BytesIO()
    frame.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def light_png(fig: Figure) -> tuple[bytes, dict[str, int]] | None:
    """Encode a figure as PNG at twice its size, or give None if that is too heavy for a page."""
    return None if _is_heavy(fig) else _encode(fig, "png", density=2.0)


def light_jpeg(fig: Figure) -> tuple[bytes, dict[str, int]] | None:
    """Encode a figure as JPEG where `light_png` gives None."""
    return _encode(fig, "jpeg", density=1.5, quality=85) if _is_heavy(fig) else None


def notebook_shell() -> InteractiveShell | None:
    """Give the shell of a notebook, ready to show figures, or None outside of one."""
    ipython = sys.modules.get("IPython")  # whoever has a shell has loaded it
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return None
    # once loaded it tells the notebook how to show a Figure; later it would undo our formatters
    import_module("matplotlib_inline.backend_inline")
    return shell


def _is_heavy(fig: Figure) -> bool:
    return len(_encode(fig, "png", density=1.0)[0]) > LIGHT


def _encode(
    fig: Figure, fmt: str, density: float, **pil_options: Any
) -> tuple[bytes, dict[str, int]]:
    """Encode a figure; gives the bytes and the CSS width at which a page shows it."""
    buffer = io.BytesIO()
    dpi = fig.get_dpi() * density
    fig.savefig(buffer, format=fmt, dpi=dpi, bbox_inches="tight", pil_kwargs=pil_options)
    # without a height the picture keeps its shape where a phone makes it narrower
    return buffer.getvalue(), {"width": round(Image.open(buffer).width / density)}
