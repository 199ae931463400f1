"""The everyday tasks that we ship: benign kinds in every split, harmful ones with look-alikes of the same form in train."""

import re
from collections import Counter

import pytest

from softguard.data import PromptRow, load_prompts, mentions_minors


@pytest.fixture(scope="module")
def tasks() -> list[PromptRow]:
    return load_prompts("softguard_tasks")


def test_every_task_says_what_it_is(tasks: list[PromptRow]) -> None:
    assert len({r.id for r in tasks}) == len({r.prompt.lower() for r in tasks}) == len(tasks)
    by_id = {r.id: r for r in tasks}
    for row in tasks:
        assert row.source == "softguard_tasks"
        assert row.topic
        assert row.kind
        assert row.phrasing in ("command", "question", "indirect")
        assert (row.harm_category is None) == (row.label == "benign")
        assert row.label == "benign" or (row.split == "train" and not mentions_minors(row.prompt))
        if row.label == "look_alike":
            twin = by_id[row.look_alike_of or ""]
            assert (twin.label, twin.topic, twin.harm_category) == ("harmful", row.topic, row.harm_category)


def test_benign_tasks_are_of_many_kinds_in_every_split(tasks: list[PromptRow]) -> None:
    for split, least in (("train", 400), ("validation", 200), ("test", 100)):
        rows = [r for r in tasks if (r.label, r.split) == ("benign", split)]
        assert len(rows) >= least
        assert len({r.kind for r in rows}) >= 20
        assert max(Counter(r.topic for r in rows).values()) < 0.1 * len(rows)


def test_a_topic_stands_in_one_split(tasks: list[PromptRow]) -> None:
    splits: dict[str, set[str]] = {}
    for row in tasks:
        splits.setdefault(row.topic, set()).add(row.split)
    assert [t for t, found in splits.items() if len(found) > 1] == []


def test_at_most_three_tasks_share_a_frame(tasks: list[PromptRow]) -> None:
    frames = Counter(" ".join(re.findall(r"[a-z']+", r.prompt.lower())[:4]) for r in tasks)
    assert frames.most_common(1)[0][1] <= 3


def test_length_and_question_marks_do_not_betray_a_harmful_task(tasks: list[PromptRow]) -> None:
    twins = [[r.prompt for r in tasks if r.label == label] for label in ("harmful", "look_alike")]
    marks = [sum(p.endswith("?") for p in prompts) / len(prompts) for prompts in twins]
    words = [sum(len(p.split()) for p in prompts) / len(prompts) for prompts in twins]
    assert abs(marks[0] - marks[1]) < 0.08
    assert abs(words[0] - words[1]) < 2.0
