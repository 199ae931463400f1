"""Public sets from a folder (`--data-dir` or SOFTGUARD_DATA). Rows about minors are dropped from the harmful ones.

Homes and licences: MaliciousInstruct (Princeton-SysML/Jailbreak_LLM), XSTest (paul-rottger/xstest, CC BY 4.0), Alpaca
(tatsu-lab, CC BY-NC: evaluation only), HarmBench (MIT), CAST (IBM/activation-steering, Apache-2.0), CatQA and HarmfulQA
(declare-lab, Apache-2.0), GSM8K (MIT).
"""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from softguard.data.prompt import Label, PromptRow, Split, mentions_minors
from softguard.data.registry import PROMPT_SETS, public_file


def _rows(source: str, label: Label, prompts: Iterable[tuple[str, str]], split: Split = "test") -> list[PromptRow]:
    """Return rows of (prompt, topic), without duplicates and, where harmful, without minors."""
    seen: dict[str, PromptRow] = {}
    for prompt, topic in prompts:
        text = prompt.strip()
        if text and text not in seen and not (label == "harmful" and mentions_minors(text)):
            seen[text] = PromptRow(f"{source}-{label}-{len(seen)}", text, label, source, topic=topic, split=split)
    return list(seen.values())


@PROMPT_SETS.register("malicious_instruct")
def malicious_instruct(data_dir: Path | None = None) -> list[PromptRow]:
    """Return MaliciousInstruct: 100 harmful questions."""
    path = public_file(data_dir, "malicious_instruct", "MaliciousInstruct.txt")
    return _rows("malicious_instruct", "harmful", ((line, "") for line in path.read_text().splitlines()))


@PROMPT_SETS.register("alpaca_heldout")
def alpaca_heldout(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the last 2,000 Alpaca instructions without input: benign, evaluation only."""
    path = public_file(data_dir, "alpaca", "alpaca_instructions_no_input.json")
    return _rows("alpaca", "benign", ((r["instruction"], "") for r in json.loads(path.read_text())[-2000:]))


@PROMPT_SETS.register("xstest")
def xstest(data_dir: Path | None = None) -> list[PromptRow]:
    """Return XSTest: safe prompts as look-alikes, unsafe contrasts as harmful; `topic` is the prompt type."""
    path = public_file(data_dir, "xstest", "xstest_prompts.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    safe = ((r["prompt"], r["type"]) for r in rows if r["label"] == "safe")
    unsafe = ((r["prompt"], r["type"]) for r in rows if r["label"] == "unsafe")
    return _rows("xstest", "look_alike", safe) + _rows("xstest", "harmful", unsafe)


@PROMPT_SETS.register("harmbench")
def harmbench(data_dir: Path | None = None) -> list[PromptRow]:
    """Return HarmBench's standard and contextual test behaviours."""
    path = public_file(data_dir, "harmbench", "harmbench_behaviors_text_test.csv")
    with path.open(newline="") as file:
        return _rows("harmbench", "harmful", ((r["Behavior"], r["SemanticCategory"]) for r in csv.DictReader(file)))


@PROMPT_SETS.register("cast")
def cast(data_dir: Path | None = None) -> list[PromptRow]:
    """Return IBM CAST: harmful commands and harmless ones, for training."""
    path = public_file(data_dir, "ibm_cast_harmful", "condition_harmful_train.json")
    pairs = json.loads(path.read_text())
    harmful = _rows("cast", "harmful", ((r["harmful"], "") for r in pairs), "train")
    return harmful + _rows("cast", "benign", ((r["harmless"], "") for r in pairs), "train")


@PROMPT_SETS.register("catqa")
def catqa(data_dir: Path | None = None) -> list[PromptRow]:
    """Return CatQA and HarmfulQA: harmful questions by category, for training."""
    found: list[tuple[str, str]] = []
    for name in ("catqa_english.json", "harmfulqa.json"):
        path = public_file(data_dir, "catqa_red_instruct", name)
        for category, inner in json.loads(path.read_text()).items():
            found += [(q, category) for q in _strings(inner)]
    return _rows("catqa", "harmful", found, "train")


@PROMPT_SETS.register("gsm8k_train")
def gsm8k_train(data_dir: Path | None = None) -> list[PromptRow]:
    """Return GSM8K's training questions: benign."""
    path = public_file(data_dir, "gsm8k", "train.jsonl")
    return _rows("gsm8k", "benign", ((json.loads(x)["question"], "") for x in path.read_text().splitlines()), "train")


def _strings(node: object) -> list[str]:
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [s for child in children for s in _strings(child)]
