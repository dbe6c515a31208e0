"""Right and wrong answers to questions about images, with a known truth and a wanted design effect.

Images differ in their number of questions. A design effect above 1 comes from images that differ in difficulty
(beta-distributed); one below 1 from images that each mix an easy and a hard kind of question.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answers:
    """One test set: the scores of two equally good models, and the image of each question."""

    a: np.ndarray
    b: np.ndarray
    images: np.ndarray


def sizes(rng, images):
    """Questions per image: 1 to 21 for up to 96 images (11 on average), else 1 + Poisson(1.2)."""
    return rng.integers(1, 22, images) if images <= 96 else 1 + rng.poisson(1.2, images)


MANY_SIZES = {True: np.arange(1, 22), False: sizes(np.random.default_rng(0), 100_000)}


def answers(rng, *, images, design_effect, accuracy):
    """A test set of ``images`` images on which both models are right with probability ``accuracy``."""
    size = sizes(rng, images)
    index = np.repeat(np.arange(images), size)
    many = MANY_SIZES[images <= 96]
    if design_effect > 1:
        correlation = (design_effect - 1) / ((many**2).mean() / many.mean() - 1)
        spread = (1 - correlation) / correlation
        ability = rng.beta(accuracy * spread, (1 - accuracy) * spread, size=(2, images))
        chances = ability[:, index]
    else:
        odd = (many % 2 == 1).mean() / many.mean()
        shift = np.sqrt((1 - design_effect) * accuracy * (1 - accuracy) / (1 - odd))
        # Kinds alternate within an image; which one comes first is chance. Models are good at opposite kinds.
        first = np.repeat(np.cumsum(size) - size, size)
        kind = (np.arange(index.size) - first + rng.integers(0, 2, images)[index]) % 2
        sign = 2 * kind - 1
        chances = accuracy + shift * np.stack([sign, -sign])
    a, b = (rng.random(chances.shape) < chances).astype(float)
    return Answers(a, b, index)
