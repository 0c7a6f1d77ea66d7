r"""A renderer with an encoder in front of it: images in, the same images without noise out."""

from __future__ import annotations

import torch
from torch import nn

from .._arrays import Array, is_tensor, to_numpy, to_tensor
from ..noise._checks import NoiseModel
from .encoders.networks import ConvEncoder, UNet
from .encoders.per_image import PerImage
from .feedback import Feedback
from .mappers import Mapper
from .renderers.base import Renderer

__all__ = ["FitModel"]


class FitModel(nn.Module):
    r"""Encoder, mapper and renderer, and the likelihood that judges them.

    Parameters
    ----------
    encoder : ConvEncoder, UNet or PerImage
        Image to numbers without unit.
    mapper : Direct, Stacked, Centroid or ImageMapper
        Numbers to named physical parameters.
    renderer : helpers.renderer.renderers.base.Renderer
        Parameters to expected images. Its weights are learned along, unless they are frozen with
        ``requires_grad_(False)``.
    noise : Poisson, SCMOS, PoissonGauss or EMCCD
        Likelihood of an image given the expected one.
    feedback : Concat, Difference or Correlate, optional
        Shows the encoder what the renderer has learned so far.

    Raises
    ------
    ValueError
        Parts that do not go together, with the reason.
    TypeError
        A class in place of an instance.

    Notes
    -----
    With the encoder :math:`e`, the mapper :math:`m` and the renderer :math:`r` the loss of images
    :math:`d` is the negative log-likelihood for each pixel,

    .. math:: \mathcal L = -\frac{1}{n} \sum \log p\big(d \,\big|\, r(m(e(d)))\big) .

    No truth enters. The model connects its parts: the mapper asks the renderer for its parameters,
    and the encoder makes as many numbers as the mapper wants. An encoder belongs to the model it
    was given to last. See :doc:`/book/renderer/02_learn_without_labels`.

    Examples
    --------
    >>> from helpers.noise import Poisson
    >>> from helpers.renderer.encoders import ConvEncoder
    >>> from helpers.renderer.mappers import Direct
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> model = FitModel(ConvEncoder((24, 40)), Direct(), Gaussian2D((24, 40)), Poisson())
    >>> images = torch.poisson(torch.full((5, 24, 40), 10.0))
    >>> model(images).shape, sorted(model.estimate(images))
    (torch.Size([5, 24, 40]), ['background', 'photons', 'sigma', 'x', 'y'])
    """

    def __init__(
        self,
        encoder: ConvEncoder | UNet | PerImage,
        mapper: Mapper,
        renderer: Renderer,
        noise: NoiseModel,
        feedback: Feedback | None = None,
    ) -> None:
        super().__init__()
        parts = {"encoder": encoder, "mapper": mapper, "renderer": renderer, "noise": noise}
        for name, part in (parts | {"feedback": feedback}).items():
            if isinstance(part, type):
                raise TypeError(f"{name} is the class {part.__name__}: give an instance of it")
        if not hasattr(noise, "nll"):
            raise TypeError(f"noise is {type(noise).__name__}: give one of helpers.noise")
        _check_shapes(encoder, renderer)
        if mapper.takes not in encoder.gives:
            makes = {"vectors": "a few numbers for each image", "maps": "maps"}
            fits = {"vectors": "ConvEncoder or PerImage", "maps": "UNet or PerImage"}
            raise ValueError(
                f"{type(encoder).__name__} gives {makes[encoder.gives[0]]}, but "
                f"{type(mapper).__name__} takes {makes[mapper.takes]}: use {fits[mapper.takes]}"
            )
        if feedback is not None and not encoder.reads_images:
            raise ValueError(f"{type(encoder).__name__} looks at no image: leave feedback out")
        channels = mapper.connect(renderer)
        if not channels:
            raise ValueError("there is nothing to find: name at least one parameter in fit")
        extra = 0 if feedback is None else feedback.connect(renderer)
        shape = renderer.pixel_shape
        if shape != renderer.image_shape and encoder.reads_images:
            raise ValueError(
                f"{type(renderer).__name__} wants maps {shape}, larger than its images "
                f"{renderer.image_shape}: use PerImage, or no margin"
            )
        encoder.connect(mapper.takes, channels, 1 + extra, shape)
        self.encoder, self.mapper, self.renderer, self.noise = encoder, mapper, renderer, noise
        self.feedback, self.channels = feedback, list(channels)

    def forward(self, images: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        r"""Expected images.

        Parameters
        ----------
        images : tensor (B, \*image_shape)
            In photo-electrons.
        index : integer tensor, optional
            Which images they are, for `PerImage`; without it all of them, in order.

        Returns
        -------
        tensor (B, \*image_shape)
        """
        return self.renderer.expected(self.renderer.complete(self._find(images, index)))

    def estimate(self, images: Array, index: torch.Tensor | None = None) -> dict[str, Array]:
        """Physical parameters.

        Parameters
        ----------
        images, index
            As for a call of the model.

        Returns
        -------
        dict of array or tensor
            By name: (B,), or (B, K) for several emitters. NumPy for NumPy; for a tensor, tensors
            that can be differentiated.
        """
        if is_tensor(images):
            found = self._find(images, index)
        else:
            with torch.no_grad():
                weight = next(self.parameters())
                found = self._find(to_tensor(images, weight.device, weight.dtype), index)
                found = {name: to_numpy(value) for name, value in found.items()}
        emitters = self.mapper.emitters
        own = {param.name for param in self.mapper.own}
        return {n: v[:, 0] if n in own and emitters == 1 else v for n, v in found.items()}

    def loss(self, images: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Negative log-likelihood of the images, a mean over all pixels.

        A rate that is not positive, as a template that rings can make, counts as 1e-6.
        """
        return self.noise.nll(self(images, index).clamp(min=1e-6), images, reduction="mean")

    def _find(self, images, index):
        if tuple(images.shape[1:]) != self.renderer.image_shape:
            wanted = ", ".join(map(str, self.renderer.image_shape))
            raise ValueError(f"images are {tuple(images.shape)}: give (B, {wanted})")
        if not bool(torch.isfinite(images).all()):
            raise ValueError("NaN or infinity among the images: mask or replace them first")
        if self.encoder.channels != self.channels:
            raise ValueError(
                "the encoder was given to another model since, and finds other parameters now: "
                "make a new FitModel"
            )
        if self.encoder.reads_images:
            inputs = images if self.feedback is None else self.feedback(images, self.renderer)
            raw = self.encoder(inputs)
        else:
            raw = self.encoder(self._indices(images) if index is None else index)
        return self.mapper(raw)

    def _indices(self, images):
        n = getattr(self.encoder, "n_images", 0)
        if len(images) != n or self.encoder.field:
            raise ValueError(
                f"{len(images)} images for a PerImage of {n}: say in `index` which they are"
            )
        return torch.arange(n, device=images.device)


def _check_shapes(encoder, renderer):
    if len(renderer.image_shape) == 3 and encoder.reads_images:
        raise ValueError(
            f"{type(encoder).__name__} reads images (Y, X), but {type(renderer).__name__} makes "
            f"volumes {renderer.image_shape}: use PerImage"
        )
    if encoder.image_shape not in (None, renderer.image_shape):
        raise ValueError(
            f"the encoder is for images {encoder.image_shape}, the renderer makes "
            f"{renderer.image_shape}: give both the same shape"
        )
