"""What stands under the tables: what their columns are."""

from __future__ import annotations

from results.analysis.convergence import LEVEL

INTERVALS = "Intervals: 95 %, for the uncertainty of the test images (accuracy: Wilson; ACR: studentised bootstrap)."
BEYOND_ACR = (
    "A smaller n takes a random subset of each image's samples, drawn once. Means over the seeds. Rank: among the "
    "methods at the same σ. All hold: the ACR of certificates that hold all at once with 95\u00a0% confidence, each at "
    "5\u00a0% divided by the number of images, or at alpha where that is less. Two-sided ACR: with all samples and the "
    "radius σ/2 (Φ⁻¹(p_A) − Φ⁻¹(p_B)), from a lower bound of p_A and an upper bound of the runner-up's p_B that hold "
    "together with probability 1 − alpha; an image whose estimation ended early, as soon as its abstention was "
    "certain, has no such radius and counts as 0, which lowers this ACR the more, the more images abstain. p_A: share "
    "of an image's samples that are classified as its label; the columns give the share of images above; where nothing "
    "was estimated, it counts as 0."
)
SOFT = (
    "Soft: the ACR of another classifier, whose answer is the class of the largest expected softmax under noise, from "
    "the same noise samples."
)
BASE = (
    "The base classifier f on the certified test images: as they are, and on one noise sample of each, drawn apart "
    "from those of the certificates. Smoothed: certified accuracy at radius 0, as ACC above. A model that was not "
    "trained with noise is right without it and at chance with it; one whose classes are numbered otherwise is at "
    "chance with both."
)
ENVELOPE = (
    "Certified accuracy at each radius at whichever σ gives most of it there (the smallest of equal ones), as papers "
    "on denoised smoothing report; means over the seeds. No one classifier has it, and the σ is chosen on these test "
    "images, which makes it a little too large: so it has no intervals. Those of its numbers at their σ are in the "
    "table of certified accuracy. Rows are compared where they are the best of the same σ."
)
SEEDS = (
    "Lowest and highest of the seeds. Where the weights of all are the same, they are seeds of the certification's "
    "noise alone, and the row says so; else they are of the training, and of the noise with it. Spread: the largest "
    "radius of an image minus its smallest, of the images that every seed certifies as their label. By some: images "
    "that some seeds certify as their label, and others do not."
)
NOT_REACHED = "–"
CONVERGENCE = (
    "Accuracy: of the base classifier on one noise sample of each test image, after an epoch; final: after the last. "
    f"Level: {100 * LEVEL:g}\u00a0% of the best final accuracy among the rows of the same σ and data, one for all of "
    "them. Epochs to level: the first epoch, counted from 1, after which the accuracy is at least the level; "
    f"{NOT_REACHED}: not reached, by one of the seeds at least. Means over the seeds; an ensemble has no epochs of its "
    "own. An epoch of a row with more noise samples per image takes more time: the table of costs has hours."
)
