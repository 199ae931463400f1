"""`guard train`: the embedded guard from prompts to weights: sample the base model's answers, pair, train, calibrate.

Answers are appended to `answers.jsonl` in the output folder batch by batch: a kill loses one batch, the same command goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from softguard.core import REFUSAL_TEXT, Conversation
from softguard.data import PromptRow, load_prompts
from softguard.guards.mini_pairs import AnswerRequest, SampledAnswer, answer_requests
from softguard.guards.mini_training import MiniTraining, train_mini
from softguard.models import ChatRenderer, load_model, sample
from softguard.recipes.prompts import take

BATCH = 64
LIMITS = {"softguard": 0, "cast": 400, "catqa": 500, "gsm8k_train": 60}
"""Rows of each label taken from each set, 0 for all: permissive sets only, since the weights are shipped."""


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
    requests = answer_requests(prompts, seed)
    answers = sample_answers(requests, out / "answers.jsonl", model, seed, lambda d, n: report("answers", d, n, {}))
    settings = MiniTraining(seed=seed)
    return train_mini(out, prompts, answers, settings, lambda d, n: report("guard training", d, n, {}))


def guard_prompts(data_dir: Path | None, seed: int) -> list[PromptRow]:
    """Return the prompts that the embedded guard is trained and calibrated on."""
    rows: list[PromptRow] = []
    for name, limit in LIMITS.items():
        loaded = load_prompts(name, data_dir)
        for label in ("harmful", "look_alike", "benign"):
            rows += take([r for r in loaded if r.label == label and r.split != "test"], limit, seed)
    return rows


def sample_answers(
    requests: Sequence[AnswerRequest], path: Path, model: str, seed: int, progress: Callable[[int, int], None]
) -> list[SampledAnswer]:
    """Return the base model's answers at temperature 1, resuming from `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    answers = [SampledAnswer(**json.loads(line)) for line in lines if line.endswith("}")]
    answers = [a for a, r in zip(answers, requests, strict=False) if (a.prompt, a.style) == (r.prompt, r.style)]
    if len(answers) == len(requests):
        return answers
    lm = load_model(model)
    renderer = ChatRenderer(lm.tokenizer)
    refusal_token = renderer.encode_response(REFUSAL_TEXT)[0]
    path.write_text("".join(json.dumps(asdict(a)) + "\n" for a in answers))
    while len(answers) < len(requests):
        part = requests[len(answers) : len(answers) + BATCH]
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
            refusal_token=refusal_token,
        )
        new = [
            SampledAnswer(r.prompt, r.style, f"{r.opening} {renderer.decode(g.ids)}".strip())
            for r, g in zip(part, made, strict=True)
        ]
        answers += new
        with path.open("a") as file:
            file.writelines(json.dumps(asdict(a)) + "\n" for a in new)
        progress(len(answers), len(requests))
    return answers
