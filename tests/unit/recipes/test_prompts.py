"""Which rows a run gets."""

import pytest

from softguard.data import PROMPT_SETS, PromptRow
from softguard.errors import DataError
from softguard.recipes.config import DataConfig
from softguard.recipes.prompts import run_prompts


def test_a_set_without_training_rows_is_an_error(monkeypatch):
    rows = [PromptRow("only-test", "a tree", "benign", "measured", split="test")]
    monkeypatch.setitem(PROMPT_SETS._items, "measured", lambda data_dir: rows)
    with pytest.raises(DataError, match="training rows in the set 'measured'; found 1 for other uses"):
        run_prompts(DataConfig(sets=("softguard", "measured")), None)


def test_our_own_set_has_rows_for_every_use():
    rows = run_prompts(DataConfig(max_per_set=3), None)
    assert len(rows.train) == 9
    assert {r.split for r in rows.validation} == {"validation"}
    assert {r.split for r in rows.test} == {"test"}
