"""Suites: all that a reader must know is there, and names and groups mean what they say. No row of a real set is shown."""

import os
from pathlib import Path
from typing import get_args

import pytest

from softguard.data import PromptRow
from softguard.errors import ConfigError
from softguard.evaluation.suites import SUITES, suites_named
from softguard.evaluation.suites.suite import Group, Suite

DATA = os.environ.get("SOFTGUARD_DATA", "")


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_says_what_it_is(name: str) -> None:
    suite = SUITES.get(name)
    for said in (suite.title, suite.source, suite.licence, suite.metric):
        assert said.strip()
    assert suite.size > 0
    assert set(suite.groups) <= set(get_args(Group))
    assert suite.groups


def test_our_own_suite_is_our_test_split_and_its_twins_share_a_family() -> None:
    suite = SUITES.get("softguard")
    rows = suite.load(None)
    assert len(rows) == suite.size
    assert {r.split for r in rows} == {"test"}
    by_id = {r.id: r for r in rows}
    twins = [(r, by_id[r.look_alike_of]) for r in rows if r.look_alike_of in by_id]
    assert twins
    assert all(suite.family(a) == suite.family(b) for a, b in twins)


def test_the_families_of_xstest_are_its_types_with_their_contrasts() -> None:
    suite = SUITES.get("xstest")
    safe = PromptRow("1", "p", "look_alike", "xstest", topic="homonyms")
    unsafe = PromptRow("2", "q", "harmful", "xstest", topic="contrast_homonyms")
    assert suite.family(safe) == suite.family(unsafe) == "homonyms"
    assert suite.has_families
    assert not SUITES.get("advbench").has_families


def test_groups_and_names() -> None:
    safety, refusal = suites_named("safety"), suites_named("over-refusal")
    assert {"harmbench", "advbench", "malicious_instruct", "do_not_answer"} <= set(safety)
    assert {"xstest", "beavertails_safe", "alpaca"} <= set(refusal)
    assert "beavertails_safe" not in safety
    assert suites_named("xstest, advbench,xstest") == ["xstest", "advbench"]
    assert suites_named("usefulness") == ["gsm8k_200", "ifeval_200", "mmlu_500"]
    assert set(suites_named("safety,over-refusal,usefulness,usefulness-full")) == set(SUITES)
    for wrong in ("", "xtest", "safety,harmbnch"):
        with pytest.raises(ConfigError):
            suites_named(wrong)


@pytest.mark.skipif(not DATA, reason="SOFTGUARD_DATA names no folder of public sets")
@pytest.mark.parametrize("name", SUITES)
def test_suites_load_with_the_labels_of_their_groups(name: str) -> None:
    suite: Suite = SUITES.get(name)
    rows = suite.load(Path(DATA))
    labels = {r.label for r in rows}
    assert ("harmful" in labels) >= ("safety" in suite.groups)
    assert bool(labels - {"harmful"}) >= ("over-refusal" in suite.groups)
    assert (suite.task is not None) == any(g.startswith("usefulness") for g in suite.groups)
    assert 0.5 * suite.size <= len(rows) <= suite.size
