"""The model card of a run in Hugging Face's format: a YAML header that the hub reads, and the text for people.

One idea: the card is a view of the run's evaluation and provenance and holds no figure of its own. The header's `license` and
`base_model` are stated only where they are known. Harmful text is in no card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from softguard.evaluation.results import EvaluationSummary
from softguard.reports.markdown import plain, upright_table
from softguard.reports.verdict import verdict
from softguard.reports.wording import info

_HUB_LICENCES = {"apache-2.0", "mit"}
"""Licences that the hub knows by these identifiers; any other is `other` with its name."""
_PAPER = "arXiv 2606.09388"


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the figures.

    Attributes:
        name: of the run.
        base_model: as softguard names it; `hub_id` as the hub does, None where it is not known to be there.
        licence: of the base model.
        adapter: what was learned, in words.
        objective: by its name.
        guard: of the teacher.
        training_sets: each with its number of prompts and its licence, None where that is not known.
        threshold: refusal log-odds above which the student refuses.
        refusal_text: what it then says.
    """

    name: str
    base_model: str
    hub_id: str | None
    licence: str | None
    adapter: str
    objective: str
    guard: str
    training_sets: Mapping[str, tuple[int, str | None]]
    threshold: float | None
    refusal_text: str


def render_card(facts: CardFacts, summary: EvaluationSummary, suites: Sequence[tuple[str, EvaluationSummary]] = ()) -> str:
    """Return the card's text, header included; the hub's own class reads it back."""
    blocks = [
        f"---\n{_header(facts, summary, suites).to_yaml()}\n---",
        f"# {plain(facts.name)}",
        f"{plain(facts.adapter)} for {plain(facts.base_model)}, trained with softguard so that the model alone answers as it "
        "would under a guard. A mitigation, not a proof of safety.",
        plain(" ".join(verdict(summary, suites))),
        "## How to use it",
        f"With this folder as `RUN`:\n\n```\n{_COMMANDS}\n```",
        _operating_point(facts),
        "## Licence",
        _licence(facts),
        "## Training",
        f"Base model {plain(facts.base_model)}; guard of the teacher {plain(facts.guard)}; objective {plain(facts.objective)} "
        f"(after {_PAPER}). The base model's weights are unchanged.",
        _sets(facts),
        "## Evaluation",
        f"On {plain(summary.suite)}, each value with its 95 % interval.",
        upright_table(summary),
        "\n".join(f"- **{plain(info(n, summary).label)}**: {plain(info(n, summary).definition)}" for n in summary.metric_names()),
    ]
    for folder, suite in suites:
        blocks += [f"### {plain(suite.suite)}", f"Measured as `{folder.replace('`', '')}`.", upright_table(suite)]
        blocks += [_limits(suite)] if suite.limits else []
    none = "None were recorded, which is not to say that there are none."
    blocks += ["## Limits", _limits(summary) if summary.limits else none]
    card = ModelCard("\n\n".join(block for block in blocks if block) + "\n")
    return str(card.content)


_COMMANDS = """softguard respond RUN --in prompts.jsonl --out answers.jsonl
softguard chat RUN
softguard export RUN --to gguf --out exports/gguf"""


def _header(facts: CardFacts, summary: EvaluationSummary, suites: Sequence[tuple[str, EvaluationSummary]]) -> ModelCardData:
    known = (facts.licence or "").lower()
    named: dict[str, Any] = {"license": known} if known in _HUB_LICENCES else {"license": "other", "license_name": facts.licence}
    relation: dict[str, Any] = {"base_model_relation": "adapter"} if facts.hub_id else {}
    return ModelCardData(
        base_model=facts.hub_id,
        eval_results=[r for dataset, s in (("softguard-test", summary), *suites) for r in _results(s, dataset)] or None,
        library_name="softguard",
        model_name=facts.name,
        pipeline_tag="text-generation",
        tags=["softguard", "safety", "guardrail", "refusal"],
        **(named if facts.licence else {}),
        **relation,
    )


def _results(summary: EvaluationSummary, dataset: str) -> list[EvalResult]:
    """Return the student's figures; without a headline there is none."""
    student = summary.system("student")
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=summary.suite,
            metric_type=name,
            metric_name=info(name, summary).label,
            metric_value=value.value,
            metric_args={"low_95": value.low, "high_95": value.high, "n": value.n, "unit": value.unit},
        )
        for name, value in (student.metrics.items() if student else ())
        if value.value is not None
    ]


def _operating_point(facts: CardFacts) -> str:
    if facts.threshold is None:
        return ""
    return (
        f"It refuses where its refusal log-odds exceed {facts.threshold:.3f} (chosen on validation prompts), and then says: "
        f"{plain(facts.refusal_text)}"
    )


def _licence(facts: CardFacts) -> str:
    base = facts.licence or "not known"
    text = (
        f"The base model's: {plain(base)}; the header names that. What was learned has the terms that its publisher gives it, "
        "as far as the base model's and those of the training prompts below allow."
    )
    bound = [n for n, (_, licence) in facts.training_sets.items() if licence is not None and "NC" in licence]
    unknown = [n for n, (_, licence) in facts.training_sets.items() if licence is None or licence.startswith("no licence")]
    if bound:
        text += f" Not for commercial use: {plain(', '.join(bound))}."
    if unknown:
        text += f" Without a known licence: {plain(', '.join(unknown))}."
    return text


def _sets(facts: CardFacts) -> str:
    if not facts.training_sets:
        return "Which prompts it was trained on was not recorded."
    rows = [f"| {plain(n)} | {k:,} | {plain(licence or 'not known')} |" for n, (k, licence) in facts.training_sets.items()]
    return "\n".join(["| prompts | number | licence |", "|---|---|---|", *rows])


def _limits(summary: EvaluationSummary) -> str:
    return "\n".join(f"- {plain(limit)}" for limit in summary.limits)
