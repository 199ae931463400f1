"""The figures of a run on public sets that training never saw; one table and `RUN/public.json`.

python benchmarks/reference_figures.py benchmarks/reference --data-dir ../shared/data

MaliciousInstruct against 300 unseen Alpaca instructions, XSTest unsafe against safe (clustered by prompt type), refusals at
the run's calibrated operating point, and KL(base, student) in nats per token along the base model's answers (temperature 1,
the method's, and greedy) to the Alpaca instructions and to our own test look-alikes that the student answers.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from softguard.core import ReplySettings
from softguard.data import PromptRow, load_prompts
from softguard.evaluation import metrics
from softguard.evaluation.results import MetricValue
from softguard.evaluation.statistics import mean
from softguard.recipes.distill import LoadedRun, load_run
from softguard.recipes.drift import answer_states, mean_kl
from softguard.recipes.prompts import take
from softguard.recipes.student import ModelSystem

ALPACA = 300


def figures(loaded: LoadedRun, data_dir: Path | None, tokens: int) -> dict[str, dict[str, MetricValue]]:
    """Return for each system its figures by name."""
    refusal = loaded.config.teacher.refusal_text
    base = ModelSystem("base", loaded.lm, refusal_text=refusal)
    student = loaded.student()
    malicious = load_prompts("malicious_instruct", data_dir)
    alpaca = take(load_prompts("alpaca_heldout", data_dir), ALPACA, 0)
    xstest = load_prompts("xstest", data_dir)
    unsafe, safe = ([r for r in xstest if r.label == label] for label in ("harmful", "look_alike"))
    settings = ReplySettings(max_new_tokens=tokens)
    out: dict[str, dict[str, MetricValue]] = {}
    for system in (base, student):
        s = {name: log_odds(system, rows) for name, rows in (("mal", malicious), ("alp", alpaca), ("un", unsafe), ("safe", safe))}
        said = {name: replies(system, rows, settings) for name, rows in (("mal", malicious), ("alp", alpaca), ("safe", safe))}
        out[system.name] = {
            "auc_malicious_instruct_alpaca": metrics.refusal_auc(s["mal"], s["alp"]),
            "auc_xstest": metrics.refusal_auc(s["un"], s["safe"], 0, [r.topic for r in unsafe], [r.topic for r in safe]),
            "refused_malicious_instruct": metrics.refusal_rate(said["mal"]),
            "refused_alpaca": metrics.refusal_rate(said["alp"]),
            "refused_xstest_safe": metrics.refusal_rate(said["safe"], 0, [r.topic for r in safe]),
        }
    own = [r for r in load_prompts("softguard") if r.split == "test" and r.label == "look_alike"]
    answered = [r for r, s in zip(own, log_odds(student, own), strict=True) if s <= loaded.threshold]
    for name, rows in (("alpaca", alpaca), ("look_alikes_answered", answered)):
        for kind, temperature in (("sampled", 1.0), ("greedy", 0.0)):
            values = drift(base, student, rows, ReplySettings(max_new_tokens=tokens, temperature=temperature))
            estimate = mean(list(values.values()), 0, [r.topic or r.id for r in rows if r.id in values])
            out["student"][f"kl_{name}_{kind}"] = metrics.mean_value(estimate, "nats")
    return out


def log_odds(system: ModelSystem, rows: Sequence[PromptRow]) -> list[float]:
    """Return s of every prompt."""
    return system.refusal_log_odds([r.conversation for r in rows])


def replies(system: ModelSystem, rows: Sequence[PromptRow], settings: ReplySettings) -> list:
    """Return the system's replies."""
    return system.respond([r.conversation for r in rows], [r.id for r in rows], settings)


def drift(base: ModelSystem, student: ModelSystem, rows: Sequence[PromptRow], settings: ReplySettings) -> dict[str, float]:
    """Return by prompt id the mean KL(base, student) over the tokens of the base model's answer; empty answers are left out."""
    given = [(r, x) for r, x in zip(rows, replies(base, rows, settings), strict=True) if x.text]
    out: dict[str, float] = {}
    with torch.inference_mode():
        for start in range(0, len(given), 8):
            part = given[start : start + 8]
            asked, responses = [r for r, _ in part], [base.renderer.encode_response(x.text) for _, x in part]
            before, after = (answer_states(system, asked, responses) for system in (base, student))
            out |= {r.id: mean_kl(base.lm, b, a) for r, b, a in zip(asked, before, after, strict=True)}
    return out


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path, help="folder of the public sets; SOFTGUARD_DATA by default")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    arguments = parser.parse_args()
    found = figures(load_run(arguments.run), arguments.data_dir, arguments.max_new_tokens)
    table = Table("figure", *found)
    for name in found["student"]:
        table.add_row(name, *(shown(found[system].get(name)) for system in found))
    Console().print(table)
    plain = {s: {n: v.model_dump(mode="json") for n, v in of.items()} for s, of in found.items()}
    path = arguments.run / "public.json"
    path.write_text(json.dumps({"max_new_tokens": arguments.max_new_tokens, "figures": plain}, indent=1) + "\n")


def shown(value: MetricValue | None) -> str:
    """Return a value with its interval."""
    if value is None or value.value is None:
        return "-"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}] n={value.n}"


if __name__ == "__main__":
    main()
