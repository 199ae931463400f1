"""Train and measure the variants asked for, add them to `benchmarks/guard/variants.json`, and write the table anew.

What is there of other variants stays, if it was measured on the same pairs.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.guard_variants.fitted import Fitted, fit_mlp, fit_probe
from benchmarks.guard_variants.packaged import packaged
from benchmarks.guard_variants.pairs import TrainingPairs, sets_to_measure, training_pairs
from benchmarks.guard_variants.states import BaseStates, Features, MiniLmStates, kept
from softguard.core import Guard
from softguard.guards import load_guard
from softguard.guards.measuring import LabelledPair, figures
from softguard.models import processor_name
from softguard.recipes.reference_judge import is_test, train_reference_judge

OUT = Path(__file__).parent.parent / "guard"
TIMED = 40
SHOWN = ("auc", "auprc", "f1", "ece", "true_positive_rate", "false_positive_rate")
VARIANTS = ("mini", "frozen_minilm", "base_lora", "probe", "reference", "packaged")
Scorer = Callable[[str, Sequence[LabelledPair]], NDArray[np.float64]]


def measure(
    name: str, score: Scorer, sets: dict[str, list[LabelledPair]], one: Callable[[LabelledPair], object], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return a variant's figures on every set, and its latency: pairs one by one on one thread."""
    by_set = {}
    for of, pairs in sets.items():
        p, labels = score(of, pairs), np.array([x.unsafe for x in pairs], dtype=np.int64)
        graded = ~np.isnan(p)
        counts = {"pairs": len(pairs), "unsafe": int(labels.sum()), "ungraded": int((~graded).sum())}
        by_set[of] = counts | {k: None if v != v else round(v, 4) for k, v in figures(p[graded], labels[graded]).items()}
    timed = next(iter(sets.values()))[:TIMED]
    one(timed[0])
    times = []
    for pair in timed:
        start = time.perf_counter()
        one(pair)
        times.append(1000 * (time.perf_counter() - start))
    latency = {"median": round(float(np.median(times)), 2), "p90": round(float(np.quantile(times, 0.9)), 2)}
    print(name, {of: f["auc"] for of, f in by_set.items()}, latency, flush=True)
    return {"figures": by_set, "latency_ms_one_thread": latency, **facts}


def of_guard(guard: Guard) -> tuple[Scorer, Callable[[LabelledPair], object]]:
    """Return how a guard scores pairs, and one of them."""

    def score(_: str, pairs: Sequence[LabelledPair]) -> NDArray[np.float64]:
        return np.array([np.nan if v.p_safe is None else 1 - v.p_safe for v in guard.judge([p.conversation for p in pairs])])

    return score, lambda pair: guard.judge([pair.conversation])


def of_features(
    kind: str,
    extract: Callable[[Sequence[LabelledPair]], Features],
    fit: Callable[..., Fitted],
    trained: TrainingPairs,
    work: Path,
) -> tuple[Scorer, Callable[[LabelledPair], object], dict[str, Any]]:
    """Fit a small model over frozen features and return how it scores, and what it is."""
    x, held_x = (kept(work, kind, part, extract) for part in (trained.train, trained.validation))
    y, held_y = (np.array([p.unsafe for p in part], dtype=np.int64) for part in (trained.train, trained.validation))
    fitted = fit(x, y, held_x, held_y)
    facts = {"chosen": fitted.chosen, "trained_on": len(y), "parameters_beside_the_network": fitted.num_parameters}
    return (
        lambda _, pairs: fitted.p_unsafe(kept(work, kind, pairs, extract)),
        lambda pair: fitted.p_unsafe(extract([pair])),
        facts,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of answers (`softguard guard train --out`) and features")
    parser.add_argument("--only", default="mini,frozen_minilm,probe,reference,packaged", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--limit", type=int, default=250, help="pairs of each set; 0 takes all")
    parser.add_argument("--train", type=int, default=1200)
    parser.add_argument("--validation", type=int, default=250)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of variants.json and variants.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = asked.only.split(",")
    sets = sets_to_measure(asked.work, asked.data_dir, asked.limit)
    done: dict[str, Any] = {}
    if "mini" in names:
        guard = load_guard("mini")
        done["mini"] = measure("mini", *_scored(guard, sets), {"parameters": guard.num_parameters})  # type: ignore[attr-defined]
    if "reference" in names:
        # Half of BeaverTails is kept from it, PKU-SafeRLHF is what it is trained on.
        report = train_reference_judge(asked.data_dir, asked.work / "reference.toml")
        guard, seen = load_guard(str(asked.work / "reference.toml")), {n: p for n, p in sets.items() if n != "PKU-SafeRLHF"}
        assert all(is_test(p) for p in sets["BeaverTails, half"])
        done["reference"] = measure("reference", *_scored(guard, seen), {"trained_on": report["pairs"]})
    if "packaged" in names:
        for name, scores in packaged():
            done[name] = measure(name, lambda _, pairs, f=scores: f(pairs), sets, lambda pair, f=scores: f([pair]), {})  # type: ignore[misc]
    if {"frozen_minilm", "probe", "base_lora"} & set(names):
        trained = training_pairs(asked.work, asked.data_dir, asked.train, asked.validation)
    if "frozen_minilm" in names:
        score, one, facts = of_features("minilm", MiniLmStates(), fit_mlp, trained, asked.work)
        done["frozen_minilm"] = measure("frozen_minilm", score, sets, one, facts)
    if "probe" in names:
        score, one, facts = of_features("smollm2", BaseStates(), fit_probe, trained, asked.work)
        done["probe"] = measure("probe", score, sets, one, facts)
    if "base_lora" in names:
        from benchmarks.guard_variants.base_lora import train_base_lora

        generative = train_base_lora(trained, asked.work)
        facts = {"trained_on": len(trained.train), "parameters_beside_the_network": generative.num_parameters}
        done["base_lora"] = measure(
            "base_lora", lambda _, pairs: generative.p_unsafe(pairs), sets, lambda p: generative.p_unsafe([p]), facts
        )
    write(done, sets, asked.out)


def _scored(guard: Guard, sets: dict[str, list[LabelledPair]]) -> tuple[Any, ...]:
    score, one = of_guard(guard)
    return score, sets, one


def write(done: dict[str, Any], sets: dict[str, list[LabelledPair]], out: Path) -> None:
    """Add what was measured to what is there of the same pairs."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "variants.json"
    pairs = hashlib.sha256(json.dumps({n: [[p.prompt, p.response] for p in of] for n, of in sets.items()}).encode()).hexdigest()
    before = json.loads(path.read_text()) if path.exists() else {}
    known = before.get("variants", {}) if before.get("pairs_sha256") == pairs else {}
    made_by = {
        "versions": {p: version(p) for p in ("softguard", "torch", "transformers", "scikit-learn")},
        "hardware": {"processor": processor_name(), "threads": 1},
    }
    variants = known | {name: {**found, "made_by": made_by} for name, found in done.items()}
    path.write_text(json.dumps({"pairs_sha256": pairs, "variants": variants}, indent=1) + "\n")
    lines = ["| variant | set | pairs | " + " | ".join(SHOWN) + " | ms a pair |", "|---" * (len(SHOWN) + 4) + "|"]
    for name, found in variants.items():
        for of, f in found["figures"].items():
            cells = ["" if f[k] is None else f"{f[k]:.3f}" for k in SHOWN]
            lines.append(
                f"| {name} | {of} | {f['pairs']} | {' | '.join(cells)} | {found['latency_ms_one_thread']['median']:.1f} |"
            )
    (out / "variants.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
