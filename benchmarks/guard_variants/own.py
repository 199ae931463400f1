"""Our own variants by name: how each is made from the training pairs."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.guard_variants.fitted import Fitted, fit_mlp, fit_probe
from benchmarks.guard_variants.pairs import TrainingPairs, training_pairs
from benchmarks.guard_variants.states import BaseStates, Features, MiniLmStates, kept
from benchmarks.guard_variants.variant import Scorer, Variant
from softguard.core import Guard
from softguard.guards import load_guard
from softguard.guards.linear import LinearGuard
from softguard.guards.measuring import LabelledPair
from softguard.guards.mini import WEIGHTS, MiniGuard
from softguard.guards.mini_training import MiniTraining, train_on_pairs
from softguard.recipes.reference_judge import train_reference_judge
from softguard.sources import resolve

FLOAT32 = 4
"""Bytes; what is fitted by scikit-learn is counted so, as it would be shipped."""


class Bench:
    """Where variants find their pairs and keep their work; the pairs are made when the first one asks."""

    def __init__(self, data_dir: Path, work: Path, train: int, validation: int) -> None:
        self.data_dir, self.work, self._train, self._validation = data_dir, work, train, validation

    @cached_property
    def trained(self) -> TrainingPairs:
        """The draw that all variants but `mini` and `reference` learn from."""
        return training_pairs(self.work, self.data_dir, self._train, self._validation)


def mini(bench: Bench) -> Variant:
    """Return what we ship."""
    guard = load_guard("mini")
    assert isinstance(guard, MiniGuard)
    trained_on = sum(json.loads((WEIGHTS / "mini.json").read_text())["report"]["train_pairs"].values())
    return _mini(guard, WEIGHTS / "mini.safetensors", trained_on)


def mini_same_draw(bench: Bench) -> Variant:
    """Return mini's training on the variants' draw."""
    folder = bench.work / "mini_same_draw"
    train_on_pairs(folder, bench.trained.train, bench.trained.validation, MiniTraining(), "mini")
    return _mini(MiniGuard(folder), folder / "mini.safetensors", len(bench.trained.train))


def frozen_minilm(bench: Bench) -> Variant:
    """Return the MLP over MiniLM's features."""
    states = MiniLmStates()
    return _of_features("minilm", states, fit_mlp, bench, states.num_parameters, megabytes_of(resolve("minilm-l6").path))


def probe(bench: Bench) -> Variant:
    """Return the linear probe over the base model's states."""
    return _of_features("smollm2", BaseStates(), fit_probe, bench, 0, 0.0)


def base_lora(bench: Bench) -> Variant:
    """Return the base model with an adapter that says yes or no."""
    from benchmarks.guard_variants.base_lora import train_base_lora

    guard = train_base_lora(bench.trained, bench.work)
    size = megabytes_of(bench.work / "base_lora")
    facts = {"trained_on": len(bench.trained.train)}
    return Variant(guard.p_unsafe, lambda pair: guard.p_unsafe([pair]), guard.num_parameters, size, facts)


def reference(bench: Bench) -> Variant:
    """Return the reference judge; BeaverTails' half is kept from it, PKU-SafeRLHF is not."""
    path = bench.work / "reference.toml"
    report = train_reference_judge(bench.data_dir, path)
    guard = load_guard(str(path))
    assert isinstance(guard, LinearGuard)
    size, facts = megabytes_of(path.with_suffix(".safetensors")), {"trained_on": report["pairs"]}
    return Variant(*_of_guard(guard), guard.num_parameters, size, facts, seen=("PKU-SafeRLHF",))


OWN: dict[str, Callable[[Bench], Variant]] = {
    f.__name__: f for f in (mini, mini_same_draw, frozen_minilm, probe, reference, base_lora)
}


def megabytes_of(path: Path) -> float:
    """Return the size of a file, or of the files of a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 1e6


def _of_guard(guard: Guard) -> tuple[Scorer, Callable[[LabelledPair], object]]:
    def score(pairs: Sequence[LabelledPair]) -> NDArray[np.float64]:
        verdicts = guard.judge([p.conversation for p in pairs])
        return np.array([np.nan if v.p_safe is None else 1 - v.p_safe for v in verdicts])

    return score, lambda pair: guard.judge([pair.conversation])


def _mini(guard: MiniGuard, weights: Path, trained_on: int) -> Variant:
    size = megabytes_of(resolve("minilm-l6").path) + megabytes_of(weights)
    return Variant(*_of_guard(guard), guard.num_parameters, size, {"trained_on": trained_on})


def _of_features(
    kind: str,
    extract: Callable[[Sequence[LabelledPair]], Features],
    fit: Callable[..., Fitted],
    bench: Bench,
    network_parameters: int,
    network_megabytes: float,
) -> Variant:
    """Fit a small model over frozen features; the features of measured pairs are kept, those of timed ones are not."""
    parts = (bench.trained.train, bench.trained.validation)
    x, held_x = (kept(bench.work, kind, part, extract) for part in parts)
    y, held_y = (np.array([p.unsafe for p in part], dtype=np.int64) for part in parts)
    fitted = fit(x, y, held_x, held_y)
    return Variant(
        lambda pairs: fitted.p_unsafe(kept(bench.work, kind, pairs, extract)),
        lambda pair: fitted.p_unsafe(extract([pair])),
        network_parameters + fitted.num_parameters,
        network_megabytes + FLOAT32 * fitted.num_parameters / 1e6,
        {"trained_on": len(y), "chosen": fitted.chosen},
    )
