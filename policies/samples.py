"""Statistics of two samples, ours and theirs: tests, and the ranges that go with them. Nothing here knows what is counted.

scipy takes long to import and much memory, so it is imported where it is used. Workflow code calls nothing here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Range", "Share", "difference", "factor", "holm", "more", "shifted", "wilson", "z_of"]

K = TypeVar("K", bound=str)
WIDER, WIDENINGS, STEPS = 16.0, 8, 16
"""A factor is sought within 16 times, up to eight times over, and known to a few parts in 100,000 after 16 halvings."""


@dataclass(frozen=True)
class Share:
    """`count` of `of` that have something."""

    count: int
    of: int

    @property
    def value(self) -> float:
        return self.count / self.of


class Range(NamedTuple):
    """An estimate between its limits; None for one that the samples don't bound."""

    low: float | None
    estimate: float
    high: float | None


def z_of(alpha: float) -> float:
    """How many standard deviations leave `alpha` at one side of a normal distribution."""
    from scipy.special import ndtri

    return float(-ndtri(alpha))


def wilson(share: Share, z: float) -> tuple[float, float]:
    """The Wilson score interval of a share. Written out, for scipy's comes with an exact test that takes much longer."""
    n, z2 = share.of, z * z
    middle = (share.value + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * (share.value * (1 - share.value) / n + z2 / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(ours: Share, theirs: Share, z: float) -> Range:
    """The difference of two shares in the range that their Wilson intervals make: Newcombe 1998, method 10."""
    a, b = ours.value, theirs.value
    (a_low, a_high), (b_low, b_high) = wilson(ours, z), wilson(theirs, z)
    low = a - b - ((a - a_low) ** 2 + (b_high - b) ** 2) ** 0.5
    return Range(low, a - b, a - b + ((a_high - a) ** 2 + (b - b_low) ** 2) ** 0.5)


def more(ours: Share, theirs: Share) -> float:
    """The p-value of "our share is the higher one": Fisher's exact test, which holds for rare things and small samples too."""
    import numpy as np
    from scipy.stats import fisher_exact

    table = np.array([[ours.count, ours.of - ours.count], [theirs.count, theirs.of - theirs.count]])
    return float(fisher_exact(table, alternative="greater").pvalue)


def shifted(ours: Sequence[int], theirs: Sequence[int], to: Literal["less", "greater"]) -> float:
    """The p-value of "ours are lower" or "higher": Mann-Whitney, corrected for ties."""
    from scipy.stats import mannwhitneyu

    if len({*ours, *theirs}) == 1:
        return 1.0  # nothing but ties: scipy would divide by zero
    return float(mannwhitneyu(ours, theirs, alternative=to, method="asymptotic").pvalue)


def factor(ours: Sequence[int], theirs: Sequence[int], z: float) -> Range:
    """By what factor ours are higher: the Hodges-Lehmann estimate, in the range of those that Mann-Whitney doesn't rule out.

    Ties are left uncorrected, which makes the range wider. There must be a value above 0 among both.
    """
    import numpy as np

    mine = np.sort(np.asarray(ours, dtype=np.float64))
    other = np.sort(np.asarray(theirs, dtype=np.float64))
    pairs = len(mine) * len(other)
    far = z * (pairs * (len(mine) + len(other) + 1) / 12) ** 0.5 + 0.5

    def above(by: float) -> float:
        """In how many pairs ours is higher if it is divided by `by`, half a pair for equal ones: the less, the higher `by`."""
        found = mine / by
        return float((other.searchsorted(found, "left") + other.searchsorted(found, "right")).sum()) / 2

    start = _median(mine[mine > 0]) / _median(other[other > 0])
    low, _ = _crossing(above, pairs / 2 + far, start)
    below, beyond = _crossing(above, pairs / 2, start)
    _, high = _crossing(above, pairs / 2 - far, start)
    return Range(low, (below * beyond) ** 0.5 if below and beyond else start, high)


def holm(ps: Mapping[K, float], alpha: float, tests: int) -> frozenset[K]:
    """Which p-values count, when one that is luck may do so with probability `alpha` at most.

    Args:
        tests: how many there are in all, those without a p-value included: which have one mustn't change what others must show.
    """
    found: set[K] = set()
    for rank, name in enumerate(sorted(ps, key=lambda n: ps[n])):
        if ps[name] > alpha / (tests - rank):
            break
        found.add(name)
    return frozenset(found)


def _crossing(falling: Callable[[float], float], level: float, start: float) -> tuple[float | None, float | None]:
    """The last point found at which `falling` is above `level`, and the first at which it isn't; None where there is none."""
    low = high = start
    for _ in range(WIDENINGS):
        if falling(low) > level:
            break
        low /= WIDER
    else:
        return None, low
    for _ in range(WIDENINGS):
        if falling(high) <= level:
            break
        high *= WIDER
    else:
        return high, None
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if falling(middle) > level else (low, middle)
    return low, high


def _median(values: "NDArray[np.float64]") -> float:
    import numpy as np

    return float(np.median(values))
