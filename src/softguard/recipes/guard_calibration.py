"""`guard calibrate`: fit a curve to labels, say what it does on labels that it did not see, write the guard and its plots.

Half of the pairs, by prompt, fit the curve; the other half measure it. Whoever evaluates on the same set later measures a
guard that has seen half of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import tomli_w
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from softguard.core import Guard
from softguard.core.files import write_atomically
from softguard.errors import ConfigError, DataError
from softguard.guards.calibrated import CalibratedConfig, calibrated_p_unsafe
from softguard.guards.measuring import figures, reliability, reliability_svg
from softguard.guards.mini_training import calibrate as fit_temperature
from softguard.recipes.guard_check import labelled_pairs

LEAST_PAIRS = 100
"""Of the half that fits: below it a curve follows chance."""


@dataclass(frozen=True)
class Calibration:
    """The fitted curve and the figures of the half that did not fit it, before and after."""

    config: CalibratedConfig
    before: dict[str, float]
    after: dict[str, float]
    plots: tuple[Path, Path]


def calibrate_guard(
    guard: Guard,
    reference: str,
    on: str,
    out: Path,
    *,
    method: Literal["temperature", "isotonic"] = "temperature",
    data_dir: Path | None = None,
    limit: int = 0,
    seed: int = 0,
) -> Calibration:
    """Fit a curve for a guard on a labelled set, and write it as a guard's file with reliability plots beside it.

    Args:
        guard: loaded.
        reference: how it is named in the file; a relative `.toml` is looked for beside `out`.
        on: see `guard_check.labelled_pairs`.
        out: the `.toml` file.
        method: `temperature` fits a temperature and a bias (Platt), `isotonic` steps.
        data_dir: the folder of public sets.
        limit: at most as many pairs.
        seed: of their draw.

    Raises:
        ConfigError: `out` is no `.toml` file.
        DataError: too few graded pairs, or one class, in either half.

    References:
        Platt 1999; Guo et al. 2017, arXiv 1706.04599; Zadrozny, Elkan 2002 (isotonic).
    """
    if out.suffix != ".toml":
        raise ConfigError("a file that ends in .toml", str(out), "name it GUARD.toml")
    pairs = labelled_pairs(on, data_dir, limit, seed)
    verdicts = guard.judge([p.conversation for p in pairs])
    graded = [(p, v.p_safe) for p, v in zip(pairs, verdicts, strict=True) if v.p_safe is not None]
    halves = [[(p, s) for p, s in graded if crc32(p.prompt.encode()) % 2 == half] for half in (1, 0)]
    (fit_p, fit_y), (test_p, test_y) = (
        (np.array([1.0 - s for _, s in half]), np.array([p.unsafe for p, _ in half], dtype=np.int64)) for half in halves
    )
    for p, y in ((fit_p, fit_y), (test_p, test_y)):
        if len(p) < LEAST_PAIRS or not 0 < y.sum() < len(y):
            found = f"{len(p)} with {int(y.sum())} unsafe"
            raise DataError(f"at least {LEAST_PAIRS} graded pairs of both classes in each half", found, "give more labels")
    config = CalibratedConfig(guard=reference, fingerprint=guard.fingerprint, **_curve(method, fit_p, fit_y))
    mapped = np.array([calibrated_p_unsafe(float(p), config) for p in test_p])
    out.parent.mkdir(parents=True, exist_ok=True)
    plots = []
    for name, p in (("before", test_p), ("after", mapped)):
        plots.append(out.with_name(f"{out.stem}.{name}.svg"))
        write_atomically(plots[-1], reliability_svg(reliability(p, test_y), f"{guard.name} {name} calibration, {on}"))
    settings = config.model_dump(exclude_defaults=True)
    write_atomically(out, tomli_w.dumps({"kind": "calibrated", **settings}))
    return Calibration(config, figures(test_p, test_y), figures(mapped, test_y), (plots[0], plots[1]))


def _curve(method: str, p_unsafe: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    if method == "isotonic":
        found = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p_unsafe, labels)
        points = zip(found.X_thresholds_.tolist(), found.y_thresholds_.tolist(), strict=True)
        return {"points": [[round(x, 6), round(y, 6)] for x, y in points]}
    p = np.clip(p_unsafe, 1e-5, 1 - 1e-5)
    temperature, bias = fit_temperature(np.log(p / (1 - p)).tolist(), [bool(y) for y in labels])
    return {"temperature": temperature, "bias": bias}
