"""What the frozen base model knows: a linear probe on its states decides between answering and refusing.

python -m benchmarks.methods.probe --data-dir ../shared/data

A ceiling of a kind for what leaves the weights as they are (a refusal gate is such a probe; a soft prompt may do more): the
state at the last token of the rendered prompt, of one block, and logistic regression on it; block and penalty are those of the
best AUC on our validation split.
Twice: on our own prompts, as the studies, and on all permissively licensed ones at hand. Public prompts are those of
`benchmarks.methods.public`, with its families and resamples. Writes `benchmarks/methods/probe.json` and prints a table.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.methods.paired import Floats, auc, drawn, interval_of
from benchmarks.methods.public import PAIRS, prompts
from softguard.core.files import write_atomically
from softguard.data import PromptRow, load_prompts
from softguard.errors import SoftguardError
from softguard.models import ChatRenderer, load_model, processor_name
from softguard.models.scoring import token_budget_batches

HERE = Path(__file__).parent
BLOCKS = (10, 15, 20, 25, 30)
"""Of the 30, after which states are read."""
PENALTIES = (1e-4, 1e-3, 1e-2)
"""scikit-learn's C: small ones shrink more."""
OWN = ("softguard", "softguard_tasks", "softguard_pairs")
MORE = (*OWN, "cast", "catqa", "gsm8k_train")
States = NDArray[np.float32]


def training_prompts(names: Sequence[str], data_dir: Path | None) -> list[PromptRow]:
    """Return the training split of these sets; all of them are ours or permissively licensed."""
    return [r for name in names for r in load_prompts(name, data_dir) if r.split == "train"]


class LastStates:
    """The base model's states at the last token of a rendered prompt."""

    def __init__(self, model: str = "smollm2-135m") -> None:
        self.lm = load_model(model)
        self._renderer = ChatRenderer(self.lm.tokenizer)

    @torch.inference_mode()
    def __call__(self, rows: Sequence[PromptRow]) -> States:
        """Return (prompts, blocks, width)."""
        ids = [list(self._renderer.render(r.conversation).ids) for r in rows]
        width = self.lm.network.config.hidden_size
        out = np.zeros((len(rows), len(BLOCKS), width), dtype=np.float32)
        for batch in token_budget_batches([len(i) for i in ids], 4096):
            longest = max(len(ids[i]) for i in batch)
            padded = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in batch], device=self.lm.device)
            states = self.lm.body(inputs_embeds=self.lm.embed(padded), use_cache=False, output_hidden_states=True).hidden_states
            for row, i in enumerate(batch):
                out[i] = torch.stack([states[b][row, len(ids[i]) - 1] for b in BLOCKS]).float().cpu().numpy()
        return out


def fit(x: States, harmful: Sequence[bool], held_x: States, held: Sequence[bool]) -> tuple[object, int, dict[str, float]]:
    """Return the probe of the best validation AUC, the index of its block, and what was chosen."""
    best: tuple[float, object, int, float] | None = None
    for k in range(len(BLOCKS)):
        for penalty in PENALTIES:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500)).fit(x[:, k], list(harmful))
            found = float(roc_auc_score(list(held), probe.decision_function(held_x[:, k])))
            if best is None or found > best[0]:
                best = (found, probe, k, penalty)
    assert best is not None
    return best[1], best[2], {"validation_auc": best[0], "block": BLOCKS[best[2]], "penalty": best[3]}


def _interval(up: Floats, down: Floats, ups: Floats, downs: Floats) -> dict[str, float]:
    values = auc(up, down, ups, downs)  # the first is the prompts as they are
    return {"value": float(values[0]), **interval_of(values[1:])}


def measure(data_dir: Path | None) -> dict[str, dict]:
    """Return the figures of both probes."""
    states = LastStates()
    own = {split: [r for r in load_prompts("softguard") if r.split == split] for split in ("validation", "test")}
    asked = {key: of.rows for key, of in prompts(data_dir).items()}
    for split, rows in own.items():
        asked |= {(split, label): [r for r in rows if r.label == label] for label in ("harmful", "look_alike", "benign")}
    pairs = PAIRS | {"auc_own_test": (("test", "harmful"), ("test", "look_alike"))}
    found = {key: states(rows) for key, rows in asked.items()}
    rng = np.random.default_rng(0)
    weights = {key: drawn([r.topic or r.id for r in rows], rng) for key, rows in asked.items()}
    held_x = np.concatenate([found["validation", label] for label in ("harmful", "look_alike", "benign")])
    held = [label == "harmful" for label in ("harmful", "look_alike", "benign") for _ in asked["validation", label]]
    rows = training_prompts(MORE, data_dir)
    x = states(rows)
    out = {}
    for name, sets in (("own prompts", OWN), ("all permissive prompts", MORE)):
        kept = len(training_prompts(sets, data_dir))  # the sets of the first are the first of the second
        probe, k, chosen = fit(x[:kept], [r.label == "harmful" for r in rows[:kept]], held_x, held)
        s = {key: np.asarray(probe.decision_function(of[:, k]), dtype=np.float64) for key, of in found.items()}  # type: ignore[attr-defined]
        figures = {n: _interval(s[a], s[b], weights[a], weights[b]) for n, (a, b) in pairs.items() if a in s and b in s}
        out[name] = {"prompts": kept, **chosen, "figures": figures}
    return out


def main() -> None:
    """Fit both, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=None)
    arguments = parser.parse_args()
    try:
        found = measure(arguments.data_dir)
    except SoftguardError as error:
        sys.exit(f"error: {error}")
    made_by = {"model": "smollm2-135m", "processor": processor_name(), "torch": torch.__version__}
    write_atomically(HERE / "probe.json", json.dumps({"made_by": made_by, "probes": found}, indent=1) + "\n")
    table = Table("trained on", "prompts", "block", "figure", "AUC")
    for name, of in found.items():
        for figure, v in of["figures"].items():
            table.add_row(
                name, str(of["prompts"]), str(of["block"]), figure, f"{v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
