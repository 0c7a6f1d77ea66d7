"""Interactive figures: live widgets beside a kernel, pre-rendered frames on a built page.

A page writes one call. With a kernel, ipywidgets controls call `render` again at every move.
On a built page (``HELPERS_STATIC=1``) the same call is rendered over the grid of values into
WebP frames behind plain ``<input type="range">`` elements, with nothing to load from outside.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral, Real
from typing import Any, TypeAlias

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ._pictures import notebook_shell, to_image, to_webp

__all__ = ["FrameGrid", "FrameSlider", "Parameter"]

Value: TypeAlias = float | str
Render: TypeAlias = Callable[..., Figure | np.ndarray]

QUALITIES = (85, 70, 55, 40)  # WebP qualities to try until the frames fit

STYLE = """
.frames{margin:1.5em 0;max-width:100%}
.frames .view{overflow-x:auto}
.frames img{display:block;max-width:100%;height:auto;border-radius:4px;
background:#fff!important;padding:0!important}
.frames .knobs{max-width:45rem}
.frames label{display:flex;flex-wrap:wrap;align-items:center;gap:0 .8em;margin:.2em 0}
.frames input{flex:1 1 12rem;min-width:0;height:44px;margin:0;accent-color:#2a8fd0;cursor:pointer}
.frames label span:first-child{min-width:7em}
.frames .value{min-width:5.5em;text-align:right;font-variant-numeric:tabular-nums}
.frames button{min-height:44px;min-width:5.5em;font:inherit;color:inherit;cursor:pointer;
background:transparent;border:1px solid currentColor;border-radius:4px}
.frames figcaption{max-width:45rem;margin-top:.4em}
@media (max-width:32em){.frames input{order:3;flex-basis:100%}.frames .value{margin-left:auto}}
@media (prefers-reduced-motion:reduce){.frames button{display:none}}
"""

# Ids would clash when two pages are joined into one, so everything is found from the script.
SCRIPT = """
(function(d){var f=document.currentScript.parentNode,m=f.querySelector('img'),
r=[].slice.call(f.querySelectorAll('input')),b=f.querySelector('button'),t;
d.src[d.start]=m.src;
function show(){var k=0;r.forEach(function(e,j){var s=d.text[j][+e.value];
k=k*d.text[j].length+ +e.value;e.setAttribute('aria-valuetext',s);
e.parentNode.querySelector('.value').textContent=s});
if(m.src!==d.src[k])m.src=d.src[k];m.alt=d.alt[k]}
function stop(){clearInterval(t);t=0;if(b)b.textContent='Play'}
r.forEach(function(e){e.addEventListener('input',function(){stop();show()})});
if(b)b.addEventListener('click',function(){if(t)return stop();b.textContent='Pause';
t=setInterval(function(){r[0].value=(+r[0].value+1)%d.text[0].length;show()},700)});
f.querySelector('.knobs').hidden=false;show()})
"""


@dataclass(frozen=True)
class Parameter:
    """One slider: the values of the built page and, if wider, the range beside a kernel.

    Parameters
    ----------
    values : sequence of numbers or strings
        The grid of the built page. One value alone makes no slider there: the parameter is fixed.
    label, unit : str
        Written before and after the value.
    default : optional
        One of `values`; the middle one if left out.
    live : (lo, hi), optional
        Range of a continuous slider when a kernel runs; without it, it steps over `values`.
        Integers make it step by one. Positive ranges of more than a decade are logarithmic.

    Examples
    --------
    >>> Parameter([0.005, 0.02, 0.08], label="weight", unit="nm").texts()
    ['0.005 nm', '0.02 nm', '0.08 nm']
    """

    values: Sequence[Value]
    label: str = ""
    unit: str = ""
    default: Value | None = None
    live: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        name = self.label or "parameter"
        values: tuple[Any, ...] = tuple(
            v.item() if isinstance(v, np.generic) else v for v in self.values
        )
        if not values:
            raise ValueError(f"{name} has no values: give at least one")
        if len(set(values)) < len(values):
            raise ValueError(f"{name} has repeated values {values}: give each once")
        default = values[len(values) // 2] if self.default is None else self.default
        if default not in values:
            raise ValueError(f"default {default!r} of {name} is not among its values {values}")
        if self.live is not None:
            low, high = self.live
            if not low <= min(values) <= max(values) <= high:
                raise ValueError(f"live range {self.live} of {name} does not hold {values}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "default", default)

    def texts(self) -> list[str]:
        """Give the values as a reader sees them, with the unit."""
        return [f"{text} {self.unit}".strip() for text in format_values(self.values)]

    def control(self) -> widgets.Widget:
        """Make the ipywidgets control of this parameter, set to its default."""
        style = {"description_width": "initial"}
        common: dict[str, Any] = {
            "description": self.label,
            "continuous_update": False,
            "style": style,
        }
        if self.live is None:
            options = list(zip(self.texts(), self.values, strict=True))
            return widgets.SelectionSlider(options=options, value=self.default, **common)
        low, high = self.live
        common["description"] = f"{self.label} ({self.unit})" if self.unit else self.label
        if all(isinstance(v, Integral) for v in (*self.values, low, high)):
            return widgets.IntSlider(value=self.default, min=low, max=high, **common)
        if low > 0 and high > 10 * low:
            low, high = math.log10(low), math.log10(high)
            step, form = (high - low) / 100, ".3g"
            common |= {"min": low, "max": high, "step": step, "readout_format": form}
            return widgets.FloatLogSlider(value=self.default, **common)
        step = (high - low) / 100
        return widgets.FloatSlider(value=self.default, min=low, max=high, step=step, **common)


class FrameGrid:
    """A figure that follows sliders: live with a kernel, pre-rendered on a built page.

    Parameters
    ----------
    render : callable
        ``render(*values)``, one value per parameter in their order, gives a matplotlib Figure, or
        an (H, W) or (H, W, 3) array, uint8 or within [0, 1]. Frames are cached, so it must
        depend on nothing but its arguments; all figures have the same size.
    parameters : dict of name -> sequence of values or `Parameter`
        A sequence stands for ``Parameter(values, label=name)``.
    alt : str or callable
        Text for those who do not see the frame; a callable gets the same values as `render`.
    caption : str
        Sentence below the figure.
    static : bool, optional
        Force one of the two lives. Left out: static when ``HELPERS_STATIC=1`` or without a kernel.
    animate : bool
        Add a play button over the first slider to the built page (not where the reader asks for
        reduced motion).
    max_frames, max_bytes : int
        Limits of the built page. Image quality is lowered first to respect `max_bytes`.

    Raises
    ------
    ValueError
        Empty or repeated values, a default that is not among them, or too many frames.

    Examples
    --------
    >>> import numpy as np
    >>> grid = FrameGrid(lambda a, b: np.full((8, 8), a * b),
    ...                  {"a": [0.1, 0.5], "b": [0.2, 0.4, 0.8]}, alt="a gray square")
    >>> grid.n_frames
    6
    """

    def __init__(
        self,
        render: Render,
        parameters: Mapping[str, Parameter | Sequence[Value]],
        *,
        alt: str | Callable[..., str],
        caption: str = "",
        static: bool | None = None,
        animate: bool = False,
        max_frames: int = 60,
        max_bytes: int = 700_000,
    ) -> None:
        self.parameters: dict[str, Parameter] = {}
        for name, given in parameters.items():
            p = given if isinstance(given, Parameter) else Parameter(tuple(given), label=name)
            self.parameters[name] = p if p.label else Parameter(**(vars(p) | {"label": name}))
        if not self.parameters:
            raise ValueError("no parameters: give at least one name with its values")
        sizes = [len(p.values) for p in self.parameters.values()]
        self.n_frames = math.prod(sizes)
        if self.n_frames > max_frames:
            product = " x ".join(map(str, sizes))
            raise ValueError(
                f"{product} = {self.n_frames} frames, more than max_frames={max_frames}: give "
                "fewer values, and the wide range as Parameter(..., live=(lo, hi))"
            )
        self.render = render
        self.alt: Callable[..., str] = alt if callable(alt) else lambda *values: alt
        self.caption = caption
        asked = os.environ.get("HELPERS_STATIC", "0") not in ("", "0")
        self.static = (asked or notebook_shell() is None) if static is None else static
        self.animate = animate
        self.max_bytes = max_bytes
        self._live_frame = lru_cache(maxsize=128)(self._encode_live)

    @cached_property
    def controls(self) -> dict[str, widgets.Widget]:
        """The live ipywidgets controls by name; setting ``.value`` on one renders again."""
        controls = {name: p.control() for name, p in self.parameters.items()}
        for control in controls.values():
            control.layout = {"width": "auto", "max_width": "720px"}
            control.observe(self._on_move, names="value")
        return controls

    @cached_property
    def image(self) -> widgets.Image:
        """The ipywidgets Image that shows the current frame."""
        data, width = self._current_frame()
        layout = {"max_width": "100%"}
        return widgets.Image(value=data, format="webp", width=str(width), layout=layout)

    @cached_property
    def widget(self) -> widgets.VBox:
        """The whole live figure as one ipywidgets box."""
        caption = widgets.HTML(html.escape(self.caption))
        return widgets.VBox([self.image, self._message, *self.controls.values(), caption])

    @cached_property
    def _message(self) -> widgets.HTML:
        return widgets.HTML()

    def _on_move(self, change: Any) -> None:
        try:
            self.image.value = self._current_frame()[0]
            self._message.value = ""
        except Exception as error:  # a reader must see it: front ends swallow callback errors
            self._message.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"

    def _current_frame(self) -> tuple[bytes, int]:
        return self._live_frame(*(control.value for control in self.controls.values()))

    def _encode_live(self, *values: Value) -> tuple[bytes, int]:
        frame, density = to_image(self.render(*values), density=1.5)
        return to_webp(frame, quality=90), round(frame.width / density)

    def _frames(self) -> tuple[list[Image.Image], float]:
        """Render every frame of the grid, last parameter fastest, and their pixel density."""
        frames: list[Image.Image] = []
        for values in itertools.product(*(p.values for p in self.parameters.values())):
            frame, density = to_image(self.render(*values), density=2.0)
            if frames and frame.size != frames[0].size:
                raise ValueError(
                    f"frame at {values} is {frame.size} px but the first is {frames[0].size}: "
                    "let render() give every figure the same figsize"
                )
            frames.append(frame)
        return frames, density

    def _encode_static(self) -> tuple[list[str], tuple[int, int]]:
        frames, density = self._frames()
        width, height = (round(n / density) for n in frames[0].size)
        for scale in (1.0, 0.5):
            small = [f.reduce(round(1 / scale)) if scale < 1 else f for f in frames]
            for quality in QUALITIES:
                blobs = [base64.b64encode(to_webp(f, quality)).decode() for f in small]
                total = sum(map(len, blobs))
                if total <= self.max_bytes:
                    return blobs, (width, height)
        raise ValueError(
            f"{len(frames)} frames take {total} bytes at the lowest quality, more than max_bytes="
            f"{self.max_bytes}: use fewer values or a smaller figure"
        )

    def _repr_html_(self) -> str:
        """Make the static figure: one HTML fragment that needs nothing else."""
        parameters = list(self.parameters.values())
        blobs, (width, height) = self._encode_static()
        grid: list[tuple] = list(itertools.product(*(p.values for p in parameters)))
        alts = [self.alt(*values) for values in grid]
        start = grid.index(tuple(p.default for p in parameters))
        # Fixed parameters have no slider; leaving them out does not move any frame's number.
        sliding = [p for p in parameters if len(p.values) > 1]
        sources: list[str | None] = [f"data:image/webp;base64,{blob}" for blob in blobs]
        shown, sources[start] = sources[start], None  # it stands in the <img> already
        data = {"src": sources, "start": start, "alt": alts, "text": [p.texts() for p in sliding]}
        at = ", ".join(f"{p.label} = {p.texts()[p.values.index(p.default)]}" for p in parameters)
        knobs = "".join(map(_range_input, sliding))
        if self.animate and sliding:
            knobs += '<button type="button">Play</button>'
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        return (
            f'<figure class="frames"><style>{STYLE}</style>'
            f'<div class="view"><img class="dark-light" src="{shown}" '
            f'alt="{html.escape(alts[start])}" width="{width}" height="{height}"></div>'
            f"<noscript><p>Shown at {html.escape(at)}; the sliders need JavaScript.</p></noscript>"
            f'<div class="knobs" hidden>{knobs}</div>{caption}'
            f"<script>{SCRIPT.strip()}({_script_json(data)})</script></figure>"
        )

    def _still_html(self) -> str:
        """Show the default frame alone, for a front end that cannot draw widgets."""
        values = tuple(p.default for p in self.parameters.values())
        data, width = self._live_frame(*values)
        source = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
        note = "This front end draws no ipywidgets: set HELPERS_STATIC=1 for sliders without them."
        return (
            f'<figure><img src="{source}" alt="{html.escape(self.alt(*values))}" width="{width}">'
            f"<figcaption>{html.escape(self.caption)} <em>{note}</em></figcaption></figure>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        text = {"text/plain": repr(self)}
        if self.static:
            return text | {"text/html": self._repr_html_()}
        return self.widget._repr_mimebundle_() | text | {"text/html": self._still_html()}

    def __repr__(self) -> str:
        axes = ", ".join(f"{n}: {len(p.values)} values" for n, p in self.parameters.items())
        return f"{type(self).__name__}({axes})"


class FrameSlider(FrameGrid):
    """A figure that follows one slider: `FrameGrid` with a single parameter.

    Parameters
    ----------
    render : callable
        ``render(value)`` gives a matplotlib Figure or an image array.
    values : sequence
        Values of the built page; the live slider steps over them unless `live_range` is given.
    label, unit, default
        See `Parameter`.
    live_range : (lo, hi), optional
        Range of a continuous live slider.
    **options
        `alt`, `caption`, `static`, `animate`, `max_frames`, `max_bytes` of `FrameGrid`.

    Examples
    --------
    >>> import numpy as np
    >>> slider = FrameSlider(lambda v: np.full((8, 8), v), [0.1, 0.5, 0.9], label="gray",
    ...                      alt=lambda v: f"a square of gray {v}")
    >>> slider
    FrameSlider(gray: 3 values)
    """

    def __init__(
        self,
        render: Render,
        values: Iterable[Value],
        *,
        label: str,
        unit: str = "",
        default: Value | None = None,
        live_range: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        parameter = Parameter(tuple(values), label, unit, default, live_range)
        super().__init__(render, {label: parameter}, **options)

    @property
    def control(self) -> widgets.Widget:
        """The live ipywidgets control."""
        return self.controls[next(iter(self.parameters))]


def format_values(values: Sequence[Value]) -> list[str]:
    """Numbers as short texts that stay distinct: three digits, more only where they are needed.

    Examples
    --------
    >>> format_values([0.005, 0.0199999, 1500.0, 2e-6, 30, "isotropic"])
    ['0.005', '0.02', '1500', '2e-6', '30', 'isotropic']
    """
    for digits in range(3, 18):
        texts = [_format_value(v, digits) for v in values]
        if len(set(texts)) == len(texts):
            break
    return texts


def _format_value(value: Value, digits: int) -> str:
    if not isinstance(value, Real) or isinstance(value, Integral) or not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0 or 1e-4 <= abs(rounded) < 1e6:
        return np.format_float_positional(rounded, trim="-")
    return np.format_float_scientific(rounded, trim="-", exp_digits=1)


def _range_input(parameter: Parameter) -> str:
    label, texts = html.escape(parameter.label), parameter.texts()
    index = parameter.values.index(parameter.default)
    return (
        f'<label><span>{label}</span><input type="range" min="0" max="{len(texts) - 1}" step="1" '
        f'value="{index}" autocomplete="off" aria-label="{label}" '
        f'aria-valuetext="{html.escape(texts[index])}">'
        f'<span class="value" aria-hidden="true">{html.escape(texts[index])}</span></label>'
    )


def _script_json(data: dict[str, Any]) -> str:
    # "<" could close the script element or open a comment inside it
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
