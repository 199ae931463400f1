"""`guard train`: the embedded guard from prompts to weights: sample the base model's answers, pair, train, calibrate.

Its pairs are the answers that we wrote (`data.written`) and those built from prompts and sampled answers (`guards.mini_pairs`).

Answers are appended to a file in the output folder batch by batch: a kill loses one batch, and the same command goes on with the
answers. The training after them, some minutes, starts anew.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from softguard.core import REFUSAL_TEXT, Conversation
from softguard.core.files import write_atomically
from softguard.data import PromptRow, load_prompts
from softguard.data.written import answered_prompts
from softguard.guards.measuring import LabelledPair
from softguard.guards.mini_pairs import AnswerRequest, SampledAnswer, answer_requests
from softguard.guards.mini_training import MiniTraining, train_mini
from softguard.models import ChatRenderer, load_model, sample
from softguard.recipes.prompts import take

BATCH = 256
LIMITS = {"softguard": 0, "softguard_tasks": 0, "cast": 600, "catqa": 700, "gsm8k_train": 60}
"""Rows of each label taken from each set, 0 for all: permissive sets only, since the weights are shipped."""
ANSWERED = {"softguard": 0, "softguard_tasks": 0, "cast": 400, "catqa": 400, "gsm8k_train": 40}
"""How many of them get a sampled answer; the others meet refusals, openings and each other's answers."""


def train_embedded_guard(
    out: Path,
    data_dir: Path | None,
    model: str = "smollm2-135m",
    seed: int = 0,
    report: Callable[[str, int, int, dict[str, float]], None] = lambda stage, done, total, figures: None,
) -> dict[str, Any]:
    """Train `mini` into `out` and return its report.

    Args:
        out: a folder for answers and weights.
        data_dir: the folder of public sets.
        model: whose answers the pairs hold.
        seed: of everything.
        report: called with (stage, done, total, figures).
    """
    prompts = guard_prompts(data_dir, seed)
    requests = answer_requests([r for rows in prompts.values() for r in rows[1]], seed)
    answers = sample_answers(requests, out / "answers.jsonl", model, seed, lambda d, n: report("answers", d, n, {}))
    settings = MiniTraining(seed=seed)
    rows = [r for chosen, _ in prompts.values() for r in chosen]
    long = written_pairs(long=True)
    return train_mini(out, rows, answers, written_pairs(), long, settings, lambda d, n: report("guard training", d, n, {}))


def written_pairs(*, long: bool = False) -> list[LabelledPair]:
    """Return the answers that we wrote as labelled pairs; `long`: those of larger models' length."""
    kind = "written_long" if long else "written"
    return [
        LabelledPair(a.row.prompt, x.text, x.unsafe, a.row.label == "harmful", x.refusal, f"{a.row.label}:{kind}", a.row.topic)
        for a in answered_prompts(long=long)
        for x in a.answers
    ]


def guard_prompts(data_dir: Path | None, seed: int) -> dict[str, tuple[list[PromptRow], list[PromptRow]]]:
    """Return for each set the prompts that the embedded guard is trained and calibrated on, and those to be answered."""
    out = {}
    for name, limit in LIMITS.items():
        loaded = [r for r in load_prompts(name, data_dir) if r.split != "test"]
        by_label = [[r for r in loaded if r.label == label] for label in ("harmful", "look_alike", "benign")]
        chosen = [r for rows in by_label for r in take(rows, limit, seed)]
        answered = [r for rows in by_label for r in take(take(rows, limit, seed), ANSWERED[name], seed)]
        out[name] = (chosen, answered)
    return out


def sample_answers(
    requests: Sequence[AnswerRequest], path: Path, model: str, seed: int, progress: Callable[[int, int], None]
) -> list[SampledAnswer]:
    """Return the base model's answers at temperature 1; `path`, named after `model` and `seed` too, keeps them."""
    made_by = hashlib.sha256(f"{model}|{seed}".encode()).hexdigest()[:8]
    path = path.with_name(f"{path.stem}-{made_by}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = (SampledAnswer(**json.loads(x)) for x in lines if x.endswith("}\n"))  # a kill may leave the last one half written
    known = {(a.prompt, a.style): a for a in whole}
    missing = list({(r.prompt, r.style): r for r in requests if (r.prompt, r.style) not in known}.values())
    if missing:
        lm = load_model(model)
        renderer = ChatRenderer(lm.tokenizer)
        write_atomically(path, "".join(json.dumps(asdict(a)) + "\n" for a in known.values()))
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        made = sample(
            lm,
            [
                [*renderer.render(Conversation.from_prompt(r.prompt, r.system)).ids, *renderer.encode_response(r.opening)]
                for r in part
            ],
            [f"{r.style}:{r.prompt}" for r in part],
            max_new_tokens=48,
            temperature=1.0,
            seed=seed,
            refusal_token=renderer.encode_response(REFUSAL_TEXT)[0],
        )
        new = [
            SampledAnswer(r.prompt, r.style, f"{r.opening} {renderer.decode(g.ids)}".strip())
            for r, g in zip(part, made, strict=True)
        ]
        known |= {(a.prompt, a.style): a for a in new}
        with path.open("a") as file:
            file.writelines(json.dumps(asdict(a)) + "\n" for a in new)
        progress(len(requests) - len(missing) + start + len(part), len(requests))
    return [known[r.prompt, r.style] for r in requests]
