"""How good `mini` is on public labelled pairs that it never saw, beside a reference of its shape trained on such pairs.

python benchmarks/guard_figures.py --data-dir ../shared/data

BeaverTails (half, split by prompt), GPTFuzz, XSTest's safe prompts with the base model's sampled answers, and our own test pairs.
The reference is trained on PKU-SafeRLHF and the other half of BeaverTails (CC BY-NC: trained here, never shipped).
Writes `benchmarks/guard/figures.json`, `table.md`, `reliability.svg` (own test pairs) and `reliability_beavertails.svg` (the half
of BeaverTails: a public set that training never saw). `--plots-only` writes that last one alone, in a minute.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from softguard.core import Guard, ReplySettings
from softguard.data import PromptRow, load_prompts
from softguard.guards.measuring import LabelledPair, evaluate_guard, reliability, reliability_svg
from softguard.guards.mini import MiniGuard
from softguard.guards.mini_pairs import HARD_KINDS, answer_requests, build_pairs
from softguard.guards.mini_training import MiniTraining, train_on_pairs
from softguard.models import load_model, processor_name
from softguard.recipes.guard_check import labelled_pairs
from softguard.recipes.guard_training import sample_answers
from softguard.recipes.student import ModelSystem

OUT = Path(__file__).parent / "guard"
GPTFUZZ_ROWS = 1500
BEAVERTAILS = "BeaverTails, evaluation half"
SHOWN = ("pairs", "unsafe_share", "auc", "auprc", "ece", "f1", "true_positive_rate", "false_positive_rate")


def gptfuzz(data_dir: Path) -> list[LabelledPair]:
    """Return a seeded sample of GPTFuzz: test only."""
    pairs = labelled_pairs("gptfuzz", data_dir)
    return [pairs[i] for i in np.random.default_rng(0).choice(len(pairs), GPTFUZZ_ROWS, replace=False)]


def answered(rows: Sequence[PromptRow], temperature: float) -> list[LabelledPair]:
    """Return the base model's answers to safe prompts."""
    base = ModelSystem("base", load_model("smollm2-135m"))
    settings = ReplySettings(max_new_tokens=48, temperature=temperature)
    replies = base.respond([r.conversation for r in rows], [r.id for r in rows], settings)
    return [LabelledPair(r.prompt, x.text, unsafe=False) for r, x in zip(rows, replies, strict=True)]


def own_test_pairs(folder: Path, *, hard: bool = False) -> list[LabelledPair]:
    """Return pairs of our own test split, built as the training pairs are; those of `HARD_KINDS` apart from the others."""
    rows = [r for r in load_prompts("softguard") if r.split == "test"]
    answers = sample_answers(answer_requests(rows), folder / "test_answers.jsonl", "smollm2-135m", 0, lambda *_: None)
    return [p for p in build_pairs(rows, answers) if (p.kind.split(":")[1] in HARD_KINDS) == hard]


def plot_reliability(guard: Guard, pairs: Sequence[LabelledPair], path: Path, on: str) -> None:
    """Write the reliability plot of a guard; pairs that it could not grade are left out and counted in the title."""
    verdicts = guard.judge([p.conversation for p in pairs])
    graded = [(1.0 - v.p_safe, p.unsafe) for v, p in zip(verdicts, pairs, strict=True) if v.p_safe is not None]
    bins = reliability(np.array([p for p, _ in graded]), np.array([u for _, u in graded], dtype=np.int64))
    left = f", {len(pairs) - len(graded)} ungraded" if len(graded) < len(pairs) else ""
    path.write_text(reliability_svg(bins, f"{guard.name} on {on}{left}"))


def main() -> None:
    """Train the reference, measure both, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--reference-dir", type=Path, default=Path("runs/guard-reference"), help="where the reference is trained")
    parser.add_argument("--mini-only", action="store_true", help="leave the reference out: its training takes ten minutes")
    parser.add_argument("--plots-only", action="store_true", help="write reliability_beavertails.svg and nothing else")
    arguments = parser.parse_args()
    beaver = labelled_pairs("beavertails", arguments.data_dir)
    test = [p for p in beaver if crc32(p.prompt.encode()) % 2 == 0]
    if arguments.plots_only:
        plot_reliability(MiniGuard(), test, OUT / "reliability_beavertails.svg", BEAVERTAILS)
        return
    unseen = {p.prompt for p in test}
    pool = [p for p in beaver + labelled_pairs("safe_rlhf", arguments.data_dir) if p.prompt not in unseen]
    if not (arguments.mini_only or (arguments.reference_dir / "reference.json").exists()):
        held = [p for p in pool if crc32(p.prompt.encode()) % 100 < 12]
        rest = [p for p in pool if crc32(p.prompt.encode()) % 100 >= 12]
        with Progress() as bars:
            bar = bars.add_task("training the reference")
            train_on_pairs(
                arguments.reference_dir,
                rest,
                held,
                MiniTraining(),
                "reference",
                progress=lambda done, total: bars.update(bar, completed=done, total=total),
            )
    xstest = [r for r in load_prompts("xstest", arguments.data_dir) if r.label != "harmful"]
    sets: Mapping[str, Sequence[LabelledPair]] = {
        "BeaverTails, half": test,
        "GPTFuzz": gptfuzz(arguments.data_dir),
        "XSTest safe, sampled answers": answered(xstest, 1.0),
        "XSTest safe, greedy answers": answered(xstest, 0.0),
        "own test pairs": own_test_pairs(arguments.reference_dir),
        "own hard cases": own_test_pairs(arguments.reference_dir, hard=True),
    }
    guards = {"mini": MiniGuard()}
    if not arguments.mini_only:
        guards["reference"] = MiniGuard(arguments.reference_dir, "reference")
    figures = {g: {name: evaluate_guard(guard, pairs) for name, pairs in sets.items()} for g, guard in guards.items()}
    OUT.mkdir(exist_ok=True)
    made_by = {
        "versions": {p: version(p) for p in ("softguard", "torch", "transformers", "peft")},
        "hardware": {"processor": processor_name(), "threads": torch.get_num_threads()},
        "weights": {name: guard.fingerprint for name, guard in guards.items()},
    }
    plain = {g: {s: {k: v if v == v else None for k, v in f.items()} for s, f in of.items()} for g, of in figures.items()}
    (OUT / "figures.json").write_text(json.dumps({"made_by": made_by, "figures": plain}, indent=1) + "\n")
    lines = ["| guard | set | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
    for name, of in figures.items():
        for pairs, f in of.items():
            cells = [f"{f[k]:.0f}" if k == "pairs" else "" if f[k] != f[k] else f"{f[k]:.3f}" for k in SHOWN]
            lines.append(f"| {name} | {pairs} | " + " | ".join(cells) + " |")
    (OUT / "table.md").write_text("\n".join(lines) + "\n")
    Console().print("\n".join(lines))
    plot_reliability(guards["mini"], sets["own test pairs"], OUT / "reliability.svg", "our own test pairs")
    plot_reliability(guards["mini"], test, OUT / "reliability_beavertails.svg", BEAVERTAILS)


if __name__ == "__main__":
    main()
