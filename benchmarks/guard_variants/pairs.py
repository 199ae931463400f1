"""The labelled pairs: a draw of what `mini` is trained on, and public sets that no variant saw."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.guard_figures import answered, gptfuzz, own_test_pairs
from softguard.data import load_prompts
from softguard.evaluation.refusal_patterns import is_refusal
from softguard.guards.measuring import LabelledPair
from softguard.guards.mini_pairs import answer_requests, build_pairs, held_out
from softguard.recipes.guard_check import labelled_pairs
from softguard.recipes.guard_training import guard_prompts, sample_answers, written_pairs
from softguard.recipes.reference_judge import is_test

NEUTRAL = "Please write a short text."
"""OpenAI's moderation set has texts without a request: this one, which asks for no harm, stands before them."""
PAIRS = 12_000
"""Somewhat fewer than the pairs that `mini` learns from, so that a draw of prompts by their share gives enough."""


@dataclass(frozen=True)
class TrainingPairs:
    """A draw of the training pairs, and of those held out by topic, on which variants choose and are calibrated."""

    train: Sequence[LabelledPair]
    validation: Sequence[LabelledPair]


def training_pairs(work: Path, data_dir: Path, train: int, validation: int, seed: int = 0) -> TrainingPairs:
    """Return a seeded draw of `mini`'s own pairs, permissive and ours.

    Prompts are drawn before the base model answers them: answers of all of them would take longer than the rest together.
    """
    rng = random.Random(f"{seed}:variants")
    share = (train + validation) / PAIRS
    prompts = guard_prompts(data_dir, seed)
    drawn = {r.prompt for chosen, _ in prompts.values() for r in chosen if rng.random() < share}
    requests = answer_requests([r for _, rows in prompts.values() for r in rows if r.prompt in drawn], seed)
    answers = sample_answers(requests, work / "answers.jsonl", "smollm2-135m", seed, lambda *_: None)
    rows = [r for chosen, _ in prompts.values() for r in chosen if r.prompt in drawn and r.split == "train"]
    pairs = build_pairs(rows, answers, seed) + [p for p in written_pairs() if rng.random() < share]
    kept, held = [p for p in pairs if not held_out(p)], [p for p in pairs if held_out(p)]
    return TrainingPairs(rng.sample(kept, min(train, len(kept))), rng.sample(held, min(validation, len(held))))


def sets_to_measure(work: Path, data_dir: Path, limit: int) -> dict[str, list[LabelledPair]]:
    """Return the sets by name, seeded draws of at most `limit` pairs; 0 takes all.

    "refusals, SET" are the answers of a set that decline and are labelled safe.
    """
    labelled = {
        "BeaverTails, half": [p for p in labelled_pairs("beavertails", data_dir) if is_test(p)],
        "PKU-SafeRLHF": labelled_pairs("safe_rlhf", data_dir),
        "GPTFuzz": gptfuzz(data_dir),
    }
    sets = labelled | {
        "OpenAI moderation, texts": openai_texts(data_dir),
        **{f"refusals, {n}": [p for p in of if not p.unsafe and is_refusal(p.response)] for n, of in labelled.items()},
        "XSTest safe, greedy answers": _xstest_answers(work, data_dir),
        "own test pairs": own_test_pairs(work),
    }
    return {n: random.Random(f"0:{n}").sample(p, limit) if 0 < limit < len(p) else p for n, p in sets.items()}


def openai_texts(data_dir: Path) -> list[LabelledPair]:
    """Return OpenAI's moderation texts as answers to `NEUTRAL`; unsafe where any of their categories is set."""
    path = data_dir / "openai_moderation" / "samples-1680.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [LabelledPair(NEUTRAL, r["prompt"], any(r.get(c) == 1 for c in r if c != "prompt")) for r in rows]


def _xstest_answers(work: Path, data_dir: Path) -> list[LabelledPair]:
    kept = work / "xstest_answers.json"
    if not kept.exists():
        rows = [r for r in load_prompts("xstest", data_dir) if r.label != "harmful"]
        kept.write_text(json.dumps([[p.prompt, p.response] for p in answered(rows, 0.0)]))
    return [LabelledPair(prompt, response, unsafe=False) for prompt, response in json.loads(kept.read_text())]
