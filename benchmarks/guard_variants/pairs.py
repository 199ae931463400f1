"""The labelled pairs: a draw of what `mini` is trained on, and public sets that no variant saw."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from benchmarks.guard_figures import answered, gptfuzz, own_test_pairs
from softguard.data import load_prompts
from softguard.evaluation.refusal_patterns import is_refusal
from softguard.guards.measuring import LabelledPair
from softguard.guards.mini_pairs import answer_requests, build_pairs, held_out
from softguard.recipes.guard_check import labelled_pairs
from softguard.recipes.guard_training import guard_prompts, sample_answers, written_pairs

NEUTRAL = "Please write a short text."
"""OpenAI's moderation set has texts without a request: this one, which asks for no harm, stands before them."""


@dataclass(frozen=True)
class TrainingPairs:
    """A draw of the training pairs, and of those held out by topic, on which variants choose and are calibrated."""

    train: Sequence[LabelledPair]
    validation: Sequence[LabelledPair]


def training_pairs(work: Path, data_dir: Path, train: int, validation: int, seed: int = 0) -> TrainingPairs:
    """Return a seeded draw of `mini`'s own pairs, permissive and ours."""
    prompts = guard_prompts(data_dir, seed)
    requests = answer_requests([r for rows in prompts.values() for r in rows[1]], seed)
    answers = sample_answers(requests, work / "answers.jsonl", "smollm2-135m", seed, lambda *_: None)
    rows = [r for chosen, _ in prompts.values() for r in chosen]
    pairs = build_pairs([r for r in rows if r.split == "train"], answers, seed) + written_pairs()
    kept, held = [p for p in pairs if not held_out(p)], [p for p in pairs if held_out(p)]
    rng = random.Random(f"{seed}:variants")
    return TrainingPairs(rng.sample(kept, min(train, len(kept))), rng.sample(held, min(validation, len(held))))


def sets_to_measure(work: Path, data_dir: Path, limit: int) -> dict[str, list[LabelledPair]]:
    """Return the sets by name, seeded draws of at most `limit` pairs; 0 takes all.

    "refusals" are answers that decline and are labelled safe, of the first three sets.
    """
    beaver = [p for p in labelled_pairs("beavertails", data_dir) if crc32(p.prompt.encode()) % 2 == 0]
    safe_rlhf, fuzz = labelled_pairs("safe_rlhf", data_dir), gptfuzz(data_dir)
    sets = {
        "BeaverTails, half": beaver,
        "PKU-SafeRLHF": safe_rlhf,
        "GPTFuzz": fuzz,
        "OpenAI moderation, texts": openai_texts(data_dir),
        "refusals of harmful requests": [p for p in beaver + safe_rlhf + fuzz if not p.unsafe and is_refusal(p.response)],
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
