"""One step ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from novellus_lab.monitoring.detect.running import RunningScale

if TYPE_CHECKING:
    from collections.abc import Sequence


class LinearForecast:
    """A linear forecast from given features, learnt by recursive least squares with forgetting.

    S. Haykin, Adaptive Filter Theory, chapter 10. An error moves the weights by five times the usual
    error at most, so that an outlier doesn't teach much.
    """

    __slots__ = ("_covariance", "_scale", "_weights")
    _FORGETTING = 0.9995
    _CLIP = 5.0
    _LARGEST_TRACE = 1e4

    def __init__(self, features: int) -> None:
        self._weights = np.zeros(features)
        self._covariance = np.eye(features) * 10.0
        self._scale = RunningScale(1000)

    def error(self, features: Sequence[float], value: float) -> float:
        """The forecast's error in units of its usual error; the value is then learnt."""
        x = np.asarray(features)
        error = value - float(x @ self._weights)
        scale = self._scale.value + 1e-6
        step = error
        if self._scale.seen > 30:
            step = max(-self._CLIP * scale, min(self._CLIP * scale, error))
        self._scale.add(error)
        spread = self._covariance @ x
        gain = spread / (self._FORGETTING + float(x @ spread))
        self._weights += gain * step
        self._covariance -= np.outer(gain, spread)
        self._covariance /= self._FORGETTING
        trace = float(np.trace(self._covariance))
        if trace > self._LARGEST_TRACE:
            self._covariance *= self._LARGEST_TRACE / trace
        return abs(error) / scale
