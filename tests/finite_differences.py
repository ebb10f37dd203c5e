"""The gradient of any function by central differences: the oracle of hand-written and traced backwards."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

STEP = 1e-5  # truncation error STEP² and rounding error u / STEP both stay near 1e-10


def central_differences(
    function: Callable[..., float], arrays: Mapping[str, NDArray[np.float64]], name: str
) -> NDArray[np.float64]:
    """Gradient of the scalar ``function(**arrays)`` with respect to one of the arrays."""
    gradient = np.empty_like(arrays[name])
    for index in np.ndindex(gradient.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = arrays[name].copy()
            moved[index] += step
            ends.append(function(**{**arrays, name: moved}))
        gradient[index] = (ends[0] - ends[1]) / (2 * STEP)
    return gradient
