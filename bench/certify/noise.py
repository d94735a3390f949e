"""Noise samples of an image, batch after batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.machine.normals import NormalStream, prepare
from bench.machine.randomness import Role
from bench.models.decomposition import LinearDecomposition, check_orthonormal


class NoiseSamples:
    """Draws x + ε, ε ~ N(0, σ²I), on a device; never clipped. ε depends on (seed, role, index), on the number of the
    sample and on the pixel, and on nothing else: it is the same on every device."""

    def __init__(
        self,
        sigma: float,
        device: torch.device,
        decomposition: LinearDecomposition | None = None,
        precision: str = "fp32",
    ) -> None:
        """
        Args:
            sigma: standard deviation, in pixel units.
            decomposition: gives μ + W Wᵀ (x + ε − μ) in place of x + ε.
            precision: of the product with W, "fp32" or "bf16"; μ is added in float32.

        Raises:
            ValueError: the decomposition's basis is not orthonormal.
        """
        if decomposition is not None:
            check_orthonormal(decomposition.basis)  # weights may have been loaded into it
        prepare(device)  # not within the seconds of the first image
        self.sigma = sigma
        self.device = device
        self._decomposition = decomposition
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._kept_pixels: tuple[torch.Size, LinearDecomposition] | None = None

    def batches(self, image: Tensor, batch: int, seed: int, role: Role, index: int) -> Iterator[Tensor]:
        """Batches (batch, *image.shape) without end; images (channel, height, width) come channels-last in memory."""
        image = image.to(self.device, torch.float32)
        centre = image.permute(1, 2, 0) if image.ndim == 3 else image
        shape = centre.shape
        kept = self._kept(image) if self._decomposition is not None else None
        if kept is not None:
            basis = kept.basis.to(self._dtype)
            centre = (centre.flatten() - kept.mean) @ kept.basis
        stream, centre = NormalStream(seed, role, index), centre.contiguous()
        for number in count():
            noisy = stream.around(centre, self.sigma, number * batch, batch)
            if kept is not None:
                # W is orthonormal, so Wᵀε is N(0, σ²I): k numbers a sample have the distribution that 3072 would give.
                noisy = F.linear(noisy.to(self._dtype), basis).float().add_(kept.mean).view(-1, *shape)
            yield noisy.permute(0, 3, 1, 2) if image.ndim == 3 else noisy

    def itself(self, image: Tensor) -> Tensor:
        """The image without noise, as the classifier would see it: μ + W Wᵀ (x − μ) where there is a decomposition."""
        image = image.to(self.device, torch.float32)
        if self._decomposition is None:
            return image
        kept, pixels = self._kept(image), image.permute(1, 2, 0)
        centre = (pixels.flatten() - kept.mean) @ kept.basis
        projected = F.linear(centre.to(self._dtype), kept.basis.to(self._dtype)).float().add_(kept.mean)
        return projected.view(pixels.shape).permute(2, 0, 1)

    def _kept(self, image: Tensor) -> LinearDecomposition:
        """The decomposition on the device, for pixels in the order (height, width, channel)."""
        layer = self._decomposition
        assert layer is not None
        if self._kept_pixels is None or self._kept_pixels[0] != image.shape:
            order = torch.arange(image.numel()).view(image.shape).permute(1, 2, 0).flatten()
            permuted = LinearDecomposition(layer.mean.cpu()[order], layer.basis.cpu()[order])
            self._kept_pixels = image.shape, permuted.to(self.device)
        return self._kept_pixels[1]
