"""Linear decomposition (thesis section 4.2): keep the principal directions that the noise does not drown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from results.errors import BenchError

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Spectrum:
    """Principal components of a set of images in pixel space."""

    mean: Tensor
    """(pixels,), float64."""
    variances: Tensor
    """(components,), float64, falling; pixel values in [0, 1]."""
    directions: Tensor
    """(pixels, components), float64, orthonormal columns."""

    def keep(self, threshold: float) -> Tensor:
        """The directions whose variance exceeds `threshold`, (pixels, kept)."""
        return self.directions[:, self.variances > threshold]

    def decomposition(self, sigma: float, ratio: float) -> LinearDecomposition:
        """The decomposition that keeps the directions whose variance exceeds ratio · σ².

        Raises:
            BenchError: no direction is above the threshold.
        """
        basis = self.keep(ratio * sigma**2)
        if basis.shape[1] == 0:
            raise BenchError(
                f"the linear decomposition keeps nothing: the largest variance of the training images is "
                f"{float(self.variances[0]):.3g}, the threshold {ratio:g} · {sigma:g}² = {ratio * sigma**2:.3g}"
            )
        return LinearDecomposition(self.mean, basis)


def spectrum_of(images: Tensor) -> Spectrum:
    """PCA of images (count, channel, height, width), uint8: mean-centred, not augmented, variances over count − 1.

    Raises:
        BenchError: fewer than two images.
    """
    count = len(images)
    if count < 2:
        raise BenchError(f"the linear decomposition needs at least 2 training images, got {count}")
    pixels = images.flatten(1).double() / 255
    mean = pixels.mean(dim=0)
    centred = pixels - mean
    if count >= pixels.shape[1]:
        variances, directions = torch.linalg.eigh(centred.T @ centred / (count - 1))
    else:  # the covariance has the eigenvalues of the smaller matrix of inner products between images
        variances, combinations = torch.linalg.eigh(centred @ centred.T / (count - 1))
        real = variances > variances[-1] * 1e-10
        variances, combinations = variances[real], combinations[:, real]
        directions = centred.T @ combinations / (variances * (count - 1)).sqrt()
    return Spectrum(mean, variances.flip(0), directions.flip(1))


def check_orthonormal(basis: Tensor) -> None:
    """Raise BenchError unless the columns of W, (pixels, kept), are orthonormal: ‖WᵀW − I‖₂ at most 1e-5. Noise that is
    drawn behind the projection has the distribution of projected noise only then."""
    basis = basis.detach().double()
    gram = basis.T @ basis - torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    # the Frobenius norm is the larger one, and quick
    off = float(gram.norm())
    if not off <= TOLERANCE:
        off = float(torch.linalg.matrix_norm(gram, 2)) if gram.isfinite().all() else math.nan
    if not off <= TOLERANCE:
        raise BenchError(f"the basis of a linear decomposition must be orthonormal: ‖WᵀW − I‖₂ = {off:.3g}")


class LinearDecomposition(nn.Module):
    """x -> μ + W Wᵀ (x − μ), a fixed layer; W (pixels, kept) has orthonormal columns."""

    mean: Tensor
    basis: Tensor

    def __init__(self, mean: Tensor, basis: Tensor) -> None:
        """mean: (pixels,); basis: (pixels, kept). Both are kept as float32 buffers and so travel with the weights.

        Raises:
            BenchError: as `check_orthonormal`.
        """
        super().__init__()
        check_orthonormal(basis.float())
        self.register_buffer("mean", mean.float().contiguous())
        self.register_buffer("basis", basis.float().contiguous())

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channel, height, width) -> the same shape, in float32 whatever the precision of the network."""
        with torch.autocast(images.device.type, enabled=False):
            coordinates = (images.float().flatten(1) - self.mean) @ self.basis  # (batch, kept)
            return (self.mean + coordinates @ self.basis.T).view(-1, *images.shape[1:])
