"""The embedded image set: ten procedurally drawn classes on backgrounds whose spectrum falls like a photograph's."""

from __future__ import annotations

from functools import cache

import numpy as np

from bench.data.imageset import ImageSet, Split
from bench.settings.registries import register_dataset

SIZE = 32
CLASSES = 10
COUNTS: dict[Split, int] = {"train": 2000, "test": 500}
SEED = 20190208
CHUNK = 100
"""Images drawn at once: so many stay in a core's cache."""


@cache
def draw_synthetic(split: Split) -> ImageSet:
    """The split's images, the same on every machine: as many of each class, in random order. They are kept, being few,
    whatever other data is loaded in between.

    An image is 1/f background noise of random colour plus one soft-edged figure of its class (disc, ring, bars,
    cross, …) with random place, size, colour and strength. Classes differ in shape more than in colour.
    """
    random = np.random.default_rng(np.random.SeedSequence([SEED, 0 if split == "train" else 1]))
    count = COUNTS[split]
    labels = random.permutation(np.arange(count) % CLASSES)  # every tenth image must not be of one class
    centres = SIZE / 2 - 0.5 + random.uniform(-4, 4, (2, count, 1, 1))
    radii = random.uniform(9, 13, (count, 1, 1))
    colours = _colours(random, labels)[:, :, None, None]
    pixels = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        figures = _figures(labels[part], centres[:, part], radii[part])[:, None]
        images = 0.5 + _background(random, len(figures)) + figures * colours[part]
        pixels[part] = np.round(np.clip(images, 0, 1) * 255)
    return ImageSet(pixels, labels, CLASSES)


register_dataset("synthetic")(draw_synthetic)


def _background(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3, size, size): amplitude 1/f, as in photographs; mostly grey, so that channels correlate."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :])
    frequency[0, 0] = 1 / SIZE
    white = random.standard_normal((count, 4, SIZE, SIZE))
    fields = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(SIZE, SIZE))
    fields /= fields.std(axis=(1, 2, 3), keepdims=True)
    return 0.12 * fields[:, :1] + 0.06 * fields[:, 1:]


def _colours(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """(count, 3): a hue near the class's own, of random strength and either sign."""
    angle = 2 * np.pi * (labels / CLASSES + random.normal(0, 0.12, len(labels)))
    hue = np.stack([np.cos(angle + shift) for shift in (0, 2 * np.pi / 3, 4 * np.pi / 3)], axis=1)
    light = random.uniform(0.2, 0.6, (len(labels), 1))
    strength = random.uniform(0.3, 0.6, (len(labels), 1))
    return strength * (hue + light)


def _figures(labels: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(count, size, size) in [0, 1]: one figure per image, at centres (2, count, 1, 1) of radii (count, 1, 1)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    y, x = (rows - centres[0]) / radii, (columns - centres[1]) / radii
    distance, square = np.hypot(x, y), np.maximum(abs(x), abs(y))
    inside = [
        1 - distance,  # disc
        0.3 - abs(distance - 0.7),  # ring
        np.minimum(0.35 - abs(x), 1 - abs(y)),  # upright bar
        np.minimum(0.35 - abs(y), 1 - abs(x)),  # level bar
        np.maximum(np.minimum(0.25 - abs(x), 1 - abs(y)), np.minimum(0.25 - abs(y), 1 - abs(x))),  # cross
        np.minimum(0.35 - abs(abs(x) - 0.65), 1 - abs(y)),  # two bars
        0.22 - abs(square - 0.78),  # frame
        np.minimum(1 - square, np.where(x * y > 0, 1, -1) * np.minimum(abs(x), abs(y))),  # two quarters
        np.minimum(1 - square, 0.3 - abs(abs(x) - abs(y))),  # saltire
        np.minimum(1 + y, (1 - y) / 2 - abs(x)),  # triangle
    ]
    depth = np.choose(labels[:, None, None], inside)
    soft: np.ndarray = 1 / (1 + np.exp(-np.clip(depth * 12, -30, 30)))
    return soft
