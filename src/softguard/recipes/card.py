"""`card`: the model card of a run, from its evaluation, provenance and config alone; no model is loaded."""

from pathlib import Path
from typing import Any

from softguard.data.licences import set_licence
from softguard.errors import SourceError
from softguard.recipes.report import evaluation_of, shown_together
from softguard.reports.card import CardFacts, render_card
from softguard.runs import RunDir
from softguard.sources.catalogue import find_entry
from softguard.sources.references import parse_hub


def model_card(path: Path) -> str:
    """Return the card of the evaluated run at `path`.

    Raises:
        RunError: no run, or one without an evaluation.
    """
    run = RunDir.open(path)
    summary = evaluation_of(run)
    config, made_by = run.config, summary.provenance
    model = made_by.get("model", {})
    reference = str(model.get("reference") or config["model"]["name"])
    facts = CardFacts(
        name=path.resolve().name,
        base_model=reference,
        hub_id=hub_id(reference),
        licence=model.get("licence"),
        adapter=_adapter(config.get("adapter", {})),
        objective=str(config.get("objective", {}).get("kind", "not recorded")),
        guard=str(made_by.get("guard", {}).get("name") or config["teacher"]["guard"]),
        training_sets=_sets(made_by.get("training_prompts", {})),
        threshold=summary.threshold,
        refusal_text=str(config["teacher"]["refusal_text"]),
    )
    return render_card(facts, *shown_together(run, summary))


def hub_id(reference: str) -> str | None:
    """Return a base model's name on the Hugging Face hub, None where the reference does not tell."""
    entry = find_entry(reference)
    if entry is not None:
        return entry.hub or None
    try:
        return parse_hub(reference).repository
    except SourceError:
        return None


def _adapter(config: dict[str, Any]) -> str:
    kind = str(config.get("kind", "adapter")).replace("_", " ").capitalize()
    count = config.get("num_virtual_tokens")
    return f"{kind} of {count} virtual tokens" if count else kind


def _sets(counts: dict[str, int]) -> dict[str, tuple[int, str | None]]:
    """Return prompts by set from counts by `set/label`."""
    out: dict[str, tuple[int, str | None]] = {}
    for key, count in counts.items():
        name = key.rpartition("/")[0]
        out[name] = (out.get(name, (0, None))[0] + count, set_licence(name))
    return out
