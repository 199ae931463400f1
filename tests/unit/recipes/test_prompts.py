"""Which rows a run gets."""

from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from softguard.data import PROMPT_SETS, PromptRow
from softguard.errors import ConfigError, DataError
from softguard.recipes.config import DataConfig, load_config
from softguard.recipes.prompts import run_prompts


def test_a_set_without_training_rows_is_an_error(monkeypatch):
    rows = [PromptRow("only-test", "a tree", "benign", "measured", split="test")]
    monkeypatch.setitem(PROMPT_SETS._items, "measured", lambda data_dir: rows)
    with pytest.raises(DataError, match="training rows in the set 'measured'; found 1 for other uses"):
        run_prompts(DataConfig(sets=("softguard", "measured")), None)


def test_our_own_set_has_rows_for_every_use():
    rows = run_prompts(DataConfig(max_per_set=3), None)
    assert len(rows.train) == 3 * 3 * 2  # labels, and two sets
    assert {r.split for r in rows.validation} == {"validation"}
    assert {r.split for r in rows.test} == {"test"}


def test_a_set_can_have_a_limit_of_its_own():
    limited = run_prompts(DataConfig(sets=("softguard:20", "softguard_pairs"), max_per_set=30), None).train
    count = Counter((r.source, r.label) for r in limited)
    assert {count["softguard", label] for label in ("harmful", "look_alike", "benign")} == {20}
    assert count["softguard_pairs", "harmful"] == 30


@pytest.mark.parametrize("entry", ["softguard:", "softguard:0", "softguard:many", "a b"])
def test_a_limit_that_is_none_is_refused(entry):
    with pytest.raises(ConfigError, match=r"data\.sets"):
        load_config(None, [f'data.sets=["{entry}"]'])


@pytest.mark.parametrize("config", ["demo", "reference"])
def test_a_question_mark_does_not_say_whether_a_training_prompt_is_harmful(config, monkeypatch):
    monkeypatch.delenv("SOFTGUARD_DATA", raising=False)
    data = load_config(Path(__file__).parents[3] / "configs" / f"{config}.toml", []).data
    shared = Path(__file__).parents[4] / "shared" / "data"
    if config == "reference" and not shared.is_dir():
        pytest.skip("the folder of the public sets is not beside the project")
    rows = run_prompts(data, shared if shared.is_dir() else None).train
    asks = {kind: [r.prompt.rstrip().endswith("?") for r in rows if (r.label == "harmful") == kind] for kind in (True, False)}
    assert abs(mean(asks[True]) - mean(asks[False])) < 0.1
