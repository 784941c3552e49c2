"""The maximum-likelihood fit of a Student t about 0, for the baselines."""

from __future__ import annotations

import numpy as np

from closecast.tasks.core.kept import kept_by_figures
from closecast.tasks.core.types import Floats

# Bounds of the degrees of freedom: below them the variance is infinite, above them a t is nearly normal.
DOF = (2.1, 200.0)
# Sigma and degrees of freedom of standardized returns where too few are known, or no price moved.
UNFITTED = (1.0, 4.0)


@kept_by_figures
def fit_t(values: Floats) -> tuple[float, float]:
    """Sigma and degrees of freedom of the maximum-likelihood t about 0 of values (values,), all known.

    `UNFITTED` if all of them are 0.
    """
    from scipy.optimize import minimize

    moves = np.abs(values[values != 0])
    if not len(moves):
        return UNFITTED
    size = float(np.median(moves))
    squares = np.square(values / size)
    # Many days without a move would pull sigma to 0: the bounds keep it within 20 times the typical move.
    bounds = [(-np.log(20.0), np.log(20.0)), (1.0 / DOF[1], 1.0 / DOF[0])]
    start = np.array([0.5, 0.2])
    best = minimize(_t_loss, start, args=(squares,), jac=True, method="L-BFGS-B", bounds=bounds)
    return size * float(np.exp(best.x[0])), float(np.clip(1.0 / best.x[1], *DOF))


def _t_loss(at: Floats, squares: Floats) -> tuple[float, Floats]:
    """Mean negative log likelihood of a t about 0, and its gradient (2,), at (log sigma, 1 / dof).

    In these parameters it is smooth enough for a quasi-Newton method. `squares` (values,) are the values'.
    """
    from scipy.special import gammaln, psi

    dof, wide = 1.0 / at[1], 1.0 / at[1] - 2.0
    ratio = squares / (np.exp(2.0 * at[0]) * wide)
    logs, shares = np.log1p(ratio).mean(), (ratio / (1.0 + ratio)).mean()
    loss = gammaln(dof / 2) - gammaln((dof + 1) / 2) + 0.5 * np.log(np.pi * wide) + at[0]
    by_dof = 0.5 * (psi(dof / 2) - psi((dof + 1) / 2) + 1.0 / wide + logs - (dof + 1) * shares / wide)
    return loss + (dof + 1) / 2 * logs, np.array([1.0 - (dof + 1) * shares, -np.square(dof) * by_dof])
