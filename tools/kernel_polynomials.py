"""Compute the polynomials of math.h: Chebyshev interpolation with 50 digits. Needs mpmath.

``python tools/kernel_polynomials.py`` prints them with their largest relative errors.
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 50


def interpolate(f: Callable[[mp.mpf], mp.mpf], degree: int) -> list[mp.mpf]:
    """Coefficients, lowest power first, of the polynomial equal to f at the Chebyshev nodes of [-1, 1]."""
    size = degree + 1
    angles = [mp.pi * (k + mp.mpf(1) / 2) / size for k in range(size)]
    values = [f(mp.cos(angle)) for angle in angles]
    total = [mp.mpf(0)] * size
    previous, current = [mp.mpf(0)] * size, [mp.mpf(1)] + [mp.mpf(0)] * degree  # T_{j-1}, T_j
    for j in range(size):
        weight = sum(v * mp.cos(j * angle) for v, angle in zip(values, angles, strict=True))
        weight *= mp.mpf(1 if j == 0 else 2) / size
        total = [t + weight * c for t, c in zip(total, current, strict=True)]
        doubled = [mp.mpf(0), *((1 if j == 0 else 2) * c for c in current[:-1])]
        previous, current = (
            current,
            [d - (0 if j == 0 else p) for d, p in zip(doubled, previous, strict=True)],
        )
    return total


def report(name: str, coefficients: list[mp.mpf], error: mp.mpf, digits: int) -> None:
    """Print one polynomial and its largest relative error."""
    print(f"{name}: relative error {mp.nstr(error, 3)}")
    print(", ".join(mp.nstr(c, digits) for c in coefficients))


def exponential(degree: int, digits: int) -> None:
    """Find q with e^r - 1 = r + r² q(r) for |r| <= ln2 / 2."""
    most = mp.log(2) / 2 * mp.mpf("1.002")

    def q(r: mp.mpf) -> mp.mpf:
        return (mp.expm1(r) - r) / r**2 if abs(r) > mp.mpf("1e-12") else mp.mpf(1) / 2

    scaled = interpolate(lambda t: q(t * most), degree)
    coefficients = [c / most**i for i, c in enumerate(scaled)]
    grid = [most * i / 500 for i in range(-500, 501) if i]
    error = max(abs((r + r * r * mp.polyval(coefficients[::-1], r)) / mp.expm1(r) - 1) for r in grid)
    report(f"q, degree {degree}", coefficients, error, digits)


def normal_tail(k: int, degree: int, digits: int) -> None:
    """Find f with f(t) = (x + k) exp(x²/2) (1 - Phi(x)), t = (x - k) / (x + k), x >= 0."""

    def f(t: mp.mpf) -> mp.mpf:
        x = k * (1 + t) / (1 - t)
        if x > 1000:
            return (x + k) / x / mp.sqrt(2 * mp.pi) * (1 - 1 / x**2 + 3 / x**4)
        return mp.exp(x * x / 2) * mp.erfc(x / mp.sqrt(2)) / 2 * (x + k)

    coefficients = interpolate(f, degree)
    grid = [mp.mpf(i) / 200 for i in range(-200, 200)]
    error = max(abs(mp.polyval(coefficients[::-1], t) / f(t) - 1) for t in grid)
    report(f"f, k {k}, degree {degree}", coefficients, error, digits)


if __name__ == "__main__":
    exponential(4, 9)
    exponential(10, 18)
    normal_tail(4, 10, 9)
    normal_tail(5, 23, 18)
