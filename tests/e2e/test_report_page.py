"""The report of the committed run in a real browser: from disk, by keyboard, narrow and wide, light and dark.

Screenshots stay in `build/pictures` (or the folder that SOFTGUARD_PICTURES names) for a person to look at.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from softguard.core import Reply
from softguard.evaluation.results import EvaluationSummary
from softguard.recipes.compare import compare_runs, compare_suites, write_comparison
from softguard.recipes.evaluate import categories
from softguard.recipes.prompts import balanced, own_prompts
from softguard.recipes.report import evaluation_of, harmful_page, report_run
from softguard.runs import RunDir
from tests.unit.serving.chromium import BINARY, Page, browsing
from tests.unit.serving.test_playground import CONTRAST

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")]
ROOT = Path(__file__).parents[2]
PICTURES = Path(os.environ.get("SOFTGUARD_PICTURES", ROOT / "build" / "pictures"))
FOLLOWING = 4  # Node.DOCUMENT_POSITION_FOLLOWING, which what is contained has too
SUITE = "evaluations/malicious_instruct-trial"
NEWER = ("benign_drift_tv", "benign_exact_match", "benign_length_ratio", "truncated_rate")
"""Figures that the committed evaluation is older than: here any values, so that the page is as wide as a new one's."""


def evaluated(folder: Path) -> RunDir:
    """Return a copy of the committed run with its trial on a suite, and with the categories that its answers give."""
    run = RunDir(Path(shutil.copytree(ROOT / "benchmarks/reference", folder)))
    summary, config = evaluation_of(run), run.config
    rows = balanced(own_prompts("test"), config["evaluation"]["prompts_per_label"], config["data"]["seed"])
    replies = {
        s.system: [Reply(**json.loads(line)) for line in (folder / f"evaluations/test/{s.system}.jsonl").read_text().splitlines()]
        for s in summary.systems
    }
    systems = [
        s.model_copy(update={"metrics": {**dict.fromkeys(NEWER, s.metrics["refusal_rate"]), **s.metrics}})
        for s in summary.systems
    ]
    whole = summary.model_copy(update={"categories": categories(rows, replies), "systems": systems})
    run.write_text("evaluations/test/summary.json", whole.model_dump_json())
    run.finish_stage("evaluate")
    trial = (Path(__file__).parent / "prefill.summary.json").read_text(encoding="utf-8")
    run.write_text(f"{SUITE}/summary.json", EvaluationSummary.model_validate_json(trial).model_dump_json())
    run.finish_stage(f"evaluate {SUITE}")
    return run


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    first, second = evaluated(folder / "reference"), evaluated(folder / "again")
    runs = [first.path, second.path]
    write_comparison(compare_runs(runs), compare_suites(runs), folder / "compare.html")
    harmful_page(first, folder / "harmful.html")
    return {
        "report": report_run(first, evaluation_of(first)),
        "compare": folder / "compare.html",
        "harmful": folder / "harmful.html",
    }


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    PICTURES.mkdir(parents=True, exist_ok=True)
    with browsing(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("which", ["report", "compare"])
def test_it_fits_can_be_read_and_asks_for_nothing(tab: Page, pages, which, width, dark):
    tab.complaints.clear()
    tab.open(pages[which].as_uri(), width=width, dark=dark)
    tab.picture(PICTURES / f"{which}-{width}-{'dark' if dark else 'light'}.png")
    assert tab.eval("document.documentElement.scrollWidth") <= width
    assert tab.eval("performance.getEntriesByType('resource').length") == 0
    assert tab.complaints == []
    assert tab.eval("[...document.querySelectorAll('figure svg')].every((s) => s.getBoundingClientRect().width > 200)")
    ratios = tab.eval(CONTRAST)
    assert len(ratios) > 40
    assert min(ratios.values()) >= 4.5, {k: v for k, v in ratios.items() if v < 4.5}


def test_harmful_text_is_revealed_by_the_keyboard_alone(tab: Page, pages):
    tab.open(pages["harmful"].as_uri(), width=390)
    told = "[...document.querySelectorAll('.sample details')]"
    assert tab.eval(f"{told}.map((d) => d.open)") == [False]
    shown = "document.activeElement.tagName === 'SUMMARY' && document.activeElement.closest('.sample') !== null"
    for _ in range(40):
        tab.press("Tab")
        if tab.eval(shown):
            break
    assert tab.eval(shown)
    tab.press("Enter")
    assert tab.eval(f"{told}[0].open")
    assert tab.eval(f"{told}[0].querySelector('dd').offsetHeight") > 0
    tab.press("Enter")
    assert tab.eval(f"{told}.map((d) => d.open)") == [False]


STOPS = "[...document.querySelectorAll('a[href], summary, [tabindex]')]"
AT = f"{STOPS}.indexOf(document.activeElement)"
SEEN = """(() => {
  const style = getComputedStyle(document.activeElement), box = document.activeElement.getBoundingClientRect();
  const inside = box.left >= 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight;
  return inside && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
})()"""
"""Whether what has the focus is in the window and outlined."""


# A comparison's matrix of judges is made of samples, which the trial has not kept.
@pytest.mark.parametrize(("which", "needed"), [("report", {"SUMMARY", "scroll"}), ("compare", {"SUMMARY"})])
def test_every_control_is_reached_seen_and_worked_by_the_keyboard_alone(tab: Page, pages, which, needed):
    tab.open(pages[which].as_uri(), width=390)
    controls = tab.eval(f"{STOPS}.map((e) => e.className || e.tagName)")
    assert controls[0] == "skip"
    assert needed <= set(controls)
    for i, control in enumerate(controls):
        tab.press("Tab")
        assert tab.eval(AT) == i
        assert tab.eval(SEEN), control
        if control in ("skip", "scroll"):
            tab.picture(PICTURES / f"{which}-focus-{control}.png")
        if control == "SUMMARY":
            opened = "document.activeElement.parentElement.open"
            for expected in (True, False):
                tab.press("Enter")
                assert tab.eval(opened) == expected
        if control == "scroll":
            assert tab.eval("document.activeElement.getAttribute('aria-label')")
    tab.open(pages[which].as_uri(), width=390)
    tab.press("Tab")
    tab.press("Enter")
    tab.until("location.hash === '#results'")
    tab.press("Tab")
    assert tab.eval(f"document.querySelector('#results').compareDocumentPosition(document.activeElement) & {FOLLOWING}")


def test_the_runs_own_page_holds_no_harmful_text(pages):
    rows = [r.prompt for r in own_prompts("test") if r.label == "harmful"]
    text = pages["report"].read_text(encoding="utf-8")
    assert not any(prompt in text for prompt in rows)
    assert "[redacted" in text
