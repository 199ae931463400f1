"""The model card: the hub's own class reads it back, figures and licences are those of the run, nothing breaks out."""

import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from softguard.data import PROMPT_SETS
from softguard.data.licences import LICENCES
from softguard.evaluation.results import EvaluationSummary, MetricValue, SystemResult
from softguard.recipes.card import hub_id, model_card
from softguard.recipes.report import evaluation_of
from softguard.reports.card import CardFacts, render_card
from softguard.runs import RunDir

REFERENCE = Path(__file__).parents[3] / "benchmarks/reference"
HOSTILE = "a | b\n---\n# <script> `x`"


def facts(**more: object) -> CardFacts:
    given = {
        "name": "run",
        "base_model": "m",
        "hub_id": "org/m",
        "licence": "Apache-2.0",
        "adapter": "Soft prompt of 4 virtual tokens",
        "objective": "tv_disp",
        "guard": "mini",
        "training_sets": {"cast": (120, "Apache-2.0"), "beavertails_bad": (9, "CC BY-NC"), "mine": (5, None)},
        "threshold": 0.5,
        "refusal_text": "No.",
    }
    return CardFacts(**{**given, **more})  # type: ignore[arg-type]


def measured(name: str = "student") -> EvaluationSummary:
    rate, none = MetricValue(value=0.5, low=0.4, high=0.6, n=60), MetricValue(value=None, n=9, ungraded=9)
    row = SystemResult(system=name, metrics={"refusal_rate": rate, "sgs": none})
    return EvaluationSummary(suite="ours", systems=[row], limits=["One judge only."])


def test_the_card_of_the_committed_run_is_read_by_the_hub_and_true_to_it():
    text = model_card(REFERENCE)
    data = ModelCard(text).data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data.license == "apache-2.0"
    assert data.to_dict()["base_model_relation"] == "adapter"
    own = evaluation_of(RunDir(REFERENCE)).system("student").metrics
    told = {r.metric_type: r for r in data.eval_results}
    assert told["refusal_auc"].metric_value == own["refusal_auc"].value
    assert told["refusal_auc"].metric_args["low_95"] == own["refusal_auc"].low
    assert "| softguard\\_pairs | 970 | Apache-2.0 |" in text
    assert "0.752 (0.674–0.828)" in text
    assert "no attacks" in text.partition("## Limits")[2]


def test_what_is_not_known_is_not_claimed():
    text = render_card(facts(hub_id=None, licence=None), measured())
    header = yaml.safe_load(text.split("---")[1])
    assert not {"license", "base_model", "base_model_relation"} & set(header)
    assert "The base model's: not known" in text
    assert "Not for commercial use: beavertails\\_bad" in text
    assert "Without a known licence: mine" in text
    other = yaml.safe_load(render_card(facts(licence="Gemma Terms"), measured()).split("---")[1])
    assert (other["license"], other["license_name"]) == ("other", "Gemma Terms")


def test_a_figure_without_headline_and_other_systems_are_not_in_the_header():
    header = yaml.safe_load(render_card(facts(), measured()).split("---")[1])
    (result,) = header["model-index"][0]["results"]
    assert [m["type"] for m in result["metrics"]] == ["refusal_rate"]
    assert "model-index" not in yaml.safe_load(render_card(facts(), measured("base")).split("---")[1])


def test_hostile_names_stay_in_their_place():
    text = render_card(facts(name=HOSTILE, licence=HOSTILE, training_sets={HOSTILE: (1, HOSTILE)}), measured())
    body = ModelCard(text).text
    assert "<script>" not in body.replace("\\<script\\>", "")
    assert [line for line in body.splitlines() if line.startswith("# ")] == [r"# a \| b --- \# \<script\> \`x\`"]


def test_hub_ids_come_from_the_catalogue_or_the_reference():
    assert hub_id("hf:org/name@abc") == "org/name"
    assert hub_id("gemma3-270m") == "google/gemma-3-270m"
    assert hub_id("/some/folder") is None


@pytest.mark.parametrize("name", list(PROMPT_SETS))
def test_licences_are_those_that_the_loaders_state(name):
    module = __import__(PROMPT_SETS.get(name).__module__, fromlist=["x"])
    licence = LICENCES[name]
    assert module.__name__.endswith((".own", ".written")) or licence in (module.__doc__ or "")


def test_a_page_with_harmful_text_is_another_file_than_the_runs(tmp_path):
    from softguard.errors import DataError, RunError
    from softguard.recipes.report import harmful_page, report_run

    run = RunDir(Path(shutil.copytree(REFERENCE, tmp_path / "run")))
    page = report_run(run, evaluation_of(run)).read_text(encoding="utf-8")
    assert "not in this file" in page
    assert (run.path / "plots/safety-drift.png").exists()
    RunDir.open(run.path)
    with pytest.raises(RunError, match="another file"):
        harmful_page(run, run.path / "report.html")
    harmful_page(run, tmp_path / "asked.html")
    asked = (tmp_path / "asked.html").read_text(encoding="utf-8")
    assert "Show the harmful text" in asked
    assert "[redacted" not in asked
    samples = evaluation_of(run).samples
    changed = [s.model_copy(update={"prompt": "[redacted: 1 characters]"}) if s.redacted else s for s in samples]
    text = evaluation_of(run).model_copy(update={"samples": changed}).model_dump_json()
    (run.path / "evaluations/test/summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="evaluate anew"):
        harmful_page(run, tmp_path / "asked.html")
