"""Figure 3 of the paper: gradient regularisation (4) in the plane, and the outlier whose class it changes.

The original classifier is one of our own, since the paper prints none: a straight boundary, and a Gaussian bump at each
point, so that it takes the label of every point, the outlier's too, with large gradients. The labels change across a
wave around the straight boundary. The minimiser of (4), with
the original classifier in the place of the labels, is found on a grid; a Gaussian average is known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.special import erf

from heatserve.benchmarks.records.line import Plane, Polyline

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class BumpClassifier:
    """erf(n·x/(√2·width)) and a Gaussian bump at each point, such that it is the label there.

    Args:
        points: [N, 2].
        labels: −1 or 1, [N].
        width: standard deviation by which the straight boundary is rounded off.
        bump: standard deviation of the bumps.
    """

    points: _Array
    labels: _Array
    width: float
    bump: float

    def average(self, xy: _Array, variance: float = 0.0) -> _Array:
        """Its average at xy [..., 2] over Gaussian noise of a variance in each direction; 0: itself. Closed form."""
        spread = self.bump**2 / (self.bump**2 + variance)
        return np.asarray(self._straight(xy, variance) + spread * self._bumps(xy, variance) @ self._heights)

    def average_on(self, axis: _Array, variance: float = 0.0) -> _Array:
        """The same on a square grid with the coordinates `axis` in both directions, [y, x]."""
        grid = np.stack(np.meshgrid(axis, axis), axis=-1)
        spread = self.bump**2 + variance
        x, y = np.exp(-np.square(axis[:, None, None] - self.points) / (2 * spread)).transpose(2, 0, 1)  # [grid, N] each
        bumps = (y * self._heights) @ x.T  # a bump is a product of one in x and one in y
        return np.asarray(self._straight(grid, variance) + self.bump**2 / spread * bumps)

    @property
    def _heights(self) -> _Array:
        residual = self.labels - self._straight(self.points, 0.0)
        return np.linalg.solve(self._bumps(self.points, 0.0), residual)

    def _straight(self, xy: _Array, variance: float) -> _Array:
        return np.asarray(erf(xy @ NORMAL / np.sqrt(2 * (self.width**2 + variance))))

    def _bumps(self, xy: _Array, variance: float) -> _Array:
        """A bump of height 1 at each point, averaged, less the factor `spread`; [..., N]."""
        squares = np.square(xy[..., None, :] - self.points).sum(-1)
        return np.asarray(np.exp(-squares / (2 * (self.bump**2 + variance))))


NORMAL = np.array([0.6, 0.8])
"""From the blue stars to the red circles."""
OUTLIER = (-0.35, -0.3)
"""A red circle among the stars."""
PLANE_SIGMA = 0.15
_EACH = 30
"""Stars, and as many circles."""
_CLEAR = 0.12
"""Least distance between two points."""
_WAVE, _FREQUENCY, _BESIDE = 0.09, 7.0, 0.05
"""How far the labels' boundary is from the straight one at most, how fast it turns, and the least distance to it."""
_HALF_WIDTH = 2.0
_SPACING = 0.01


def solve_plane(*, seed: int = 0) -> Plane:
    """Figure 3. The seed decides all points but the outlier."""
    points, labels = _points(seed)
    f = BumpClassifier(points, labels, width=0.08, bump=0.09)
    axis = np.linspace(-_HALF_WIDTH, _HALF_WIDTH, round(2 * _HALF_WIDTH / _SPACING) + 1)
    original, exact = f.average_on(axis), f.average_on(axis, 2 * PLANE_SIGMA**2)
    smoothed = regularised(original, PLANE_SIGMA, _SPACING)
    inner = np.abs(axis) <= 1 + _SPACING / 2
    shown = np.ix_(inner, inner)
    nearest = tuple(np.rint((points.T[::-1] + _HALF_WIDTH) / _SPACING).astype(int))
    return Plane(
        sigma=PLANE_SIGMA,
        half_width=_HALF_WIDTH,
        spacing=_SPACING,
        points=_as_points(points),
        labels=_classes(labels),
        outlier=len(labels) - 1,
        original=_classes(f.average(points)),
        smoothed=_classes(smoothed[nearest]),
        original_boundary=boundary_lines(axis[inner], original[shown]),
        smoothed_boundary=boundary_lines(axis[inner], smoothed[shown]),
        exact_boundary=boundary_lines(axis[inner], exact[shown]),
        steepest=_steepest(original[shown]),
        smoothed_steepest=_steepest(smoothed[shown]),
        largest_error=float(np.abs(smoothed - exact)[shown].max()),
    )


def regularised(f: _Array, sigma: float, spacing: float) -> _Array:
    """The minimiser v of Σ (v − f)² + σ²‖∇v‖² on a square grid with no flow through its edges, [N, N].

    Its gradient vanishes where v + σ²Lv = f. L, the second differences with their sign changed, multiplies each wave
    cos(πj(i + ½)/N) by (2 − 2·cos(πj/N))/spacing² in each direction.
    """
    waves = (2 - 2 * np.cos(np.pi * np.arange(len(f)) / len(f))) / spacing**2
    return np.asarray(idctn(dctn(f, norm="ortho") / (1 + sigma**2 * (waves[:, None] + waves)), norm="ortho"))


def boundary_lines(axis: _Array, values: _Array) -> tuple[Polyline, ...]:
    """The lines along which values [y, x] are 0, in points to four digits; closed ones end where they begin."""
    from contourpy import contour_generator

    lines = contour_generator(axis, axis, values).lines(0.0)
    return tuple(_as_points(np.asarray(line)) for line in lines)


def _points(seed: int) -> tuple[_Array, _Array]:
    """Stars and circles on their sides of the wave, the outlier last: [N, 2] and labels [N]."""
    random = np.random.default_rng(seed)
    chosen: dict[int, list[_Array]] = {-1: [], 1: []}
    while any(len(found) < _EACH for found in chosen.values()):
        point = random.uniform(-0.95, 0.95, 2)
        along = NORMAL[1] * point[0] - NORMAL[0] * point[1]
        side = float(point @ NORMAL - _WAVE * np.sin(_FREQUENCY * along))
        taken = [np.array(OUTLIER), *chosen[-1], *chosen[1]]
        near = min(float(np.linalg.norm(point - other)) for other in taken)
        own = chosen[1 if side > 0 else -1]
        if abs(side) > _BESIDE and near > _CLEAR and len(own) < _EACH:
            own.append(point)
    points = np.array([*chosen[-1], *chosen[1], OUTLIER])
    return points, np.array([-1.0] * _EACH + [1.0] * (_EACH + 1))


def _steepest(values: _Array) -> float:
    return float(np.hypot(*np.gradient(values, _SPACING)).max())


def _classes(values: _Array) -> tuple[int, ...]:
    return tuple(np.where(values < 0, -1, 1).tolist())


def _as_points(points: _Array) -> Polyline:
    return tuple((x, y) for x, y in np.round(points, 4).tolist())
