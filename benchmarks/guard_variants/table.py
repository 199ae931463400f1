"""What was measured, in `variants.json` and `variants.md`: one table of the variants, one of their figures by set."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from softguard.core.files import write_atomically
from softguard.guards.measuring import LabelledPair
from softguard.models import processor_name


def write(name: str, found: Mapping[str, Any], sets: Mapping[str, Sequence[LabelledPair]], out: Path) -> None:
    """Add a variant, measured or `{"not_run": reason}`, to what is there of the same pairs; figures outlive a later failure."""
    path = out / "variants.json"
    pairs = hashlib.sha256(json.dumps({n: [[p.prompt, p.response] for p in of] for n, of in sets.items()}).encode()).hexdigest()
    before = json.loads(path.read_text()) if path.exists() else {}
    known = before.get("variants", {}) if before.get("pairs_sha256") == pairs else {}
    if "not_run" not in found or name not in known:
        known[name] = {**found, "made_by": _made_by()}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"pairs_sha256": pairs, "variants": known}, indent=1) + "\n")
    write_atomically(out / "variants.md", _markdown(known))


def _made_by() -> dict[str, Any]:
    packages = ("softguard", "torch", "transformers", "scikit-learn")
    hardware = {"processor": processor_name(), "threads": torch.get_num_threads(), "threads_timed": 1}
    return {"versions": {p: version(p) for p in packages}, "hardware": hardware}


def _markdown(variants: Mapping[str, Mapping[str, Any]]) -> str:
    run = {name: v for name, v in variants.items() if "not_run" not in v}
    lines = [
        "Size is what a verdict takes beside the base model; latency is of single pairs on one thread.",
        "",
        "| variant | trained on | parameters | MB | ms, median | ms, p90 |",
        "|---|---|---|---|---|---|",
    ]
    for name, v in run.items():
        trained_on, parameters = (f"{v[k]:,}" if v.get(k) is not None else "" for k in ("trained_on", "parameters"))
        ms = v["latency_ms_one_thread"]
        lines.append(f"| {name} | {trained_on} | {parameters} | {v['megabytes']:.2f} | {ms['median']:.1f} | {ms['p90']:.1f} |")
    lines += [
        "",
        "With 95 % intervals by bootstrap over prompts; F1 and false positive rate at p_unsafe > 0.5.",
        "",
        "| variant | set | pairs | AUC | AUPRC | F1 | ECE | false positive rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {name} | {of} | {_cells(f)} |" for name, v in run.items() for of, f in v["figures"].items()]
    not_run = [f"- {name}: {v['not_run']}" for name, v in variants.items() if "not_run" in v]
    return "\n".join(lines + (["", "Not run:", *not_run] if not_run else [])) + "\n"


def _cells(f: Mapping[str, Any]) -> str:
    ungraded = f" ({f['ungraded']} ungraded)" if f["ungraded"] else ""
    cells = (_cell(f, key) for key in ("auc", "auprc", "f1", "ece", "false_positive_rate"))
    return " | ".join([f"{f['pairs']}{ungraded}", *cells])


def _cell(f: Mapping[str, Any], key: str) -> str:
    if f[key] is None:
        return ""
    ends = f.get(f"{key}_interval")
    return f"{f[key]:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
