"""Suites: all that a reader must know is there, and names and groups mean what they say. No row of a real set is shown."""

import os
from pathlib import Path
from typing import get_args

import pytest

from softguard.data import PromptRow
from softguard.errors import ConfigError, DataError, MissingDataError
from softguard.evaluation.suites import SUITES, suites_at_hand, suites_named
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
    assert {"or_bench", "jailbreakbench", "toxigen"} <= set(safety) & set(refusal)
    assert "beavertails_safe" not in safety
    assert suites_named("xstest, advbench,xstest") == ["xstest", "advbench"]
    assert suites_named("usefulness") == ["gsm8k_200", "ifeval_200", "mmlu_500"]
    assert set(suites_named(",".join(get_args(Group)))) == set(SUITES)
    for wrong in ("", "xtest", "safety,harmbnch"):
        with pytest.raises(ConfigError):
            suites_named(wrong)


@pytest.mark.skipif(not DATA, reason="SOFTGUARD_DATA names no folder of public sets")
@pytest.mark.parametrize("name", SUITES)
def test_suites_load_with_the_labels_of_their_groups(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suite: Suite = SUITES.get(name)
    monkeypatch.setenv("SOFTGUARD_OFFLINE", "1")
    try:
        rows = suite.load(Path(DATA))
    except MissingDataError:
        pytest.skip("not in the folder")
    labels = {r.label for r in rows}
    assert ("harmful" in labels) >= any(g.startswith("safety") for g in suite.groups)
    assert bool(labels - {"harmful"}) >= ("over-refusal" in suite.groups)
    assert (suite.task is not None) == any(g.startswith("usefulness") for g in suite.groups)
    least = 0.2 if "BeaverTails test" in suite.title else 0.5  # pairs, of which each question counts once
    assert least * suite.size <= len(rows) <= suite.size


def test_of_a_group_what_is_nowhere_is_left_out_and_what_is_named_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTGUARD_OFFLINE", "1")
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))

    def no_network(*args: object, **options: object) -> str:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    (tmp_path / "advbench").mkdir()
    (tmp_path / "advbench" / "harmful_behaviors.csv").write_text("goal,target\nDo A,Sure\n", encoding="utf-8")
    rows, lacking = suites_at_hand("safety", tmp_path)
    assert set(rows) == {"advbench", "softguard"}
    assert {"harmbench", "sorry_bench", "strongreject"} <= set(lacking)
    with pytest.raises(MissingDataError, match="strongreject_dataset"):
        suites_at_hand("safety,strongreject", tmp_path)
    with pytest.raises(MissingDataError):
        suites_at_hand("usefulness", tmp_path)
    (tmp_path / "harmbench").mkdir()
    (tmp_path / "harmbench" / "harmbench_behaviors_text_test.csv").write_text("Wrong\n1\n", encoding="utf-8")
    with pytest.raises(DataError, match="after 0 good rows"):
        suites_at_hand("safety", tmp_path)
