"""The sigma of GARCH(1,1) with Student t innovations: Bollerslev (1987)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from tasks.core.types import Floats


@dataclass(frozen=True)
class Garch:
    """Fitted parameters; `omega` and the variance before the first return are in percent squared."""

    omega: float
    alpha: float
    beta: float
    dof: float
    first_variance: float

    def sigma(self, returns: Floats) -> Floats:
        """Sigma of the day after the first 0, 1, ... log returns, shape (returns + 1,); NaN if infinite."""
        from arch.univariate import GARCH

        # arch bounds its variances by statistics of the whole sample; without bounds, no day depends on
        # the days after it. The recursion does not use the last entry's own return.
        bounds = np.tile([0.0, np.inf], (len(returns) + 1, 1))
        parameters = np.array([self.omega, self.alpha, self.beta])
        empty = np.full(len(returns) + 1, np.nan)
        percent = np.append(100.0 * returns, 0.0)
        variance = GARCH(p=1, q=1).compute_variance(parameters, percent, empty, self.first_variance, bounds)
        return np.asarray(np.sqrt(np.where(variance < np.inf, variance, np.nan)) / 100.0)


def fit_garch(returns: Floats) -> Garch | None:
    """Fit on log returns (days,), all of them known; None where the optimizer does not converge."""
    from arch import arch_model

    sample = 100.0 * returns
    if not np.ptp(sample) > 0:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The optimizer tries impossible values on its way; its flag tells whether it converged.
        warnings.simplefilter("ignore")
        model = arch_model(sample, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=True)
        result = model.fit(disp="off", show_warning=False)
    omega, alpha, beta, dof = result.params.to_numpy(dtype=np.float64).tolist()
    if result.convergence_flag != 0 or not np.isfinite([omega, alpha, beta, dof]).all():
        return None
    # arch multiplies returns that are too small for the optimizer by `scale`.
    return Garch(omega / result.scale**2, alpha, beta, dof, float(model.volatility.backcast(sample)))
