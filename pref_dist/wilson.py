"""How sure a share is: the interval of a binomial share."""

import math

Z_95 = 1.959963984540054  # of the normal distribution, two-sided


def wilson_interval(count: float, total: float, z: float = Z_95) -> tuple[float, float]:
    """Return the score interval of a binomial share (Wilson 1927); it stays inside 0 and 1 and needs no large total."""
    share = count / total
    centre = share + z * z / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At 0 and at 1 a rounding would put the share beside its own interval.
    return min(share, max(0.0, (centre - reach) / scale)), max(share, min(1.0, (centre + reach) / scale))
