"""The README of an export: how to run it, what was measured, what remains."""

from collections.abc import Mapping
from typing import Any

from softguard.export import Exported, StudentModel, adapter_kind


def readme(model: StudentModel, exported: Exported, found: Mapping[str, Any]) -> str:
    """Return the text. Every figure in it comes from `found`, which verify.json holds whole."""
    parts = [
        f"# {model.title}: a student of softguard, as {found['format']}",
        f"Base model: {model.lm.reference}. {_learned(model)}, trained so that the "
        "model alone answers as it would under a guard. A mitigation, not a proof of safety.",
        f"## Run it\n\n```\n{exported.command}\n```",
        "`sha256sum -c SHA256SUMS` checks the files.",
        "## What was measured\n\n" + "\n".join(f"- {line}" for line in _measured(found)),
        "## What remains\n\n" + "\n".join(f"- {line}" for line in (*exported.notes, *_remains(model, found))),
    ]
    return "\n\n".join(parts) + "\n"


def _learned(model: StudentModel) -> str:
    if not model.layout:
        return f"{model.adapter.num_parameters:,} learned numbers ({adapter_kind(model.adapter).replace('_', ' ')})"
    where = ", ".join(f"{count} {slot}" for slot, count in model.layout)
    return f"{sum(c for _, c in model.layout)} virtual tokens ({where})"


def _measured(found: Mapping[str, Any]) -> list[str]:
    out = []
    if found["runtime"]:
        out.append(f"Runtime: {found['runtime']}. All of it is in `verify.json`.")
        logits, going, answers = found["logits"], found["continuation"], found["answers"]
        out.append(f"Ids equal to training's in {found['tokens']['conversations']} conversations.")
        out.append(
            f"Log-probabilities of the {logits['top']} likeliest first tokens of {logits['prompts']} prompts: "
            f"{logits['mean_gap_nats']:.3f} nats from the student's on the mean (allowed: {logits['tolerance_mean_nats']}), "
            f"{logits['largest_gap_nats']:.2f} at most."
        )
        out.append(
            f"Greedy continuations of {going['tokens']} tokens: {going['identical']:.0%} identical, "
            f"{going['share_of_equal_tokens']:.0%} of tokens equal."
        )
        kappa = "undefined" if answers["kappa"] is None else f"{answers['kappa']:.2f}"
        out.append(
            f"Refuse or answer, {answers['prompts']} prompts of our test split: agrees with the student in memory on "
            f"{answers['agreement']:.1%}, kappa {kappa}."
        )
        for label, rate in answers["rates"].items():
            here, there, gap = rate["in_memory"], rate["runtime"], rate["difference"]
            out.append(
                f"Refused of {label.replace('_', '-')} prompts ({here['n']}): {there['value']:.1%} in the runtime, "
                f"{here['value']:.1%} in memory, difference {gap['value']:+.1%} [{gap['low']:+.1%}, {gap['high']:+.1%}]."
            )
    if "speakability" in found:
        said = found["speakability"]
        out.append(
            f"Virtual tokens cannot be generated: over {said['positions']} positions their largest logit is "
            f"{-said['largest_gap_nats']:.1f} nats below the largest real one or lower; all together at most "
            f"{said['largest_probability']:.1e} likely at temperature 1."
        )
    return out or ["Nothing: no runtime for this format was at hand. Written, not run."]


def _remains(model: StudentModel, found: Mapping[str, Any]) -> list[str]:
    out = []
    entry = found.get("refusal_id")
    if entry is not None:
        out.append(
            f"The operating point (refuse iff s > {model.threshold:.3g}) is the head row of token {entry}, whose text is the "
            "whole refusal. It is exact for greedy decoding; at a temperature, prompts near the point are refused sometimes. To "
            f"be stricter or laxer, add a logit bias to it (llama-server: `--logit-bias {entry}+1`). A grammar that does not "
            "allow the refusal's text (`json_schema`) takes the refusal away."
        )
    else:
        out.append(
            f"The operating point (refuse iff s > {model.threshold:.3g}) is not in this file: the model decides by decoding "
            f"alone. A logit bias on token {model.refusal_token} moves it."
        )
    if "names" in found:
        out.append(
            "The names of the virtual tokens are random and new in every export. They stand in the file: someone who has it can "
            "write them into a request, where the runtime parses them. Where that matters, keep the file private, or strip "
            f"`{model.names[0].split('_')[0]}` from what users send."
        )
    if found.get("facts", {}).get("head_was_tied"):
        out.append(
            f"The file is {found['facts']['growth']:.0%} larger than its base: the head was the embedding table itself and is "
            "now a copy of it. A base whose head is untied already grows by the virtual tokens alone."
        )
    return out
