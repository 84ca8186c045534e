"""Means of rows over their seeds under resampled seeds and images; scipy's bootstrap draws both."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

from efpn.metrics.resample import Resampled

LEVELS: Final = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True, eq=False)
class Scores:
    """The columns of one evaluation, or of the difference of two."""

    values: np.ndarray  # (columns,) as they are
    drawn: Callable[[np.ndarray], np.ndarray]  # (B, columns) under resamples, from the places (B, I) of their images

    def __sub__(self, other: Scores) -> Scores:
        return Scores(self.values - other.values, lambda images: self.drawn(images) - other.drawn(images))


@dataclass(frozen=True)
class Bootstrap:
    """How seeds and images are resampled."""

    resamples: int
    images: int
    seed: int  # of the resampling

    def means(self, by_seed: Mapping[int, Scores]) -> np.ndarray:
        """The mean over seeds, then those of resampled seeds and images around it; ``(1 + B, columns)``.

        Of one seed, images alone are drawn. They are drawn first, and so are the same in every call, whatever the
        seeds. A resample has no number where any seed has none in it. The resampled means are moved to lie around the
        mean itself: a resample lacks some images, and AP over rare classes is higher in it on the average.
        """
        scores, count = list(by_seed.values()), len(by_seed)

        def means(images: np.ndarray, seeds: np.ndarray | None = None, axis: int = -1) -> np.ndarray:
            every = np.stack([one.drawn(images) for one in scores], axis=axis)  # (B, columns, seeds)
            every[np.isnan(every).any(axis=axis)] = np.nan
            taken = every if seeds is None else np.take_along_axis(every, seeds[:, None], axis=axis)
            return taken.mean(axis=axis).T

        samples = [np.arange(self.images), np.arange(count)][: min(count, 2)]
        with warnings.catch_warnings(category=DegenerateDataWarning, action="ignore"):  # NaN is in scipy's own interval
            result = bootstrap(samples, means, n_resamples=self.resamples, method="percentile", rng=self.seed)
        drawn = result.bootstrap_distribution.T
        mean = np.mean([one.values for one in scores], axis=0)
        there = ~np.isnan(drawn).all(axis=0)
        drawn[:, there] += mean[there] - np.nanmean(drawn[:, there], axis=0)
        return np.vstack([mean, drawn])

    def interval(self, by_seed: Mapping[int, Scores]) -> tuple[np.ndarray, np.ndarray]:
        """The mean ``(columns,)`` over seeds, and its 95 % interval ``(2, columns)``."""
        found = self.means(by_seed)
        mean, drawn = found[0], found[1:]
        limits = np.full((2, len(mean)), np.nan)
        there = ~np.isnan(drawn).all(axis=0)
        limits[:, there] = np.nanpercentile(drawn[:, there], LEVELS, axis=0)
        return mean, limits


def remembered(one: Resampled) -> Callable[[np.ndarray], np.ndarray]:
    """The function from places of images ``(B, I)`` to columns ``(B, C)``, which keeps what it has worked out."""
    known: dict[int, np.ndarray] = {}

    def drawn(images: np.ndarray) -> np.ndarray:
        key = hash(images.tobytes())  # in the place of the images: 40 MB for the 5000 of COCO
        if key not in known:
            counts = np.stack([np.bincount(places, minlength=len(one.images)) for places in images])
            known[key] = one(counts)
        return known[key]

    return drawn
