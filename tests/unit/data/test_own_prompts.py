"""The prompts that we ship: enough of them, crossed, and told apart by meaning alone."""

import re
from collections import Counter

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from softguard.data import PromptRow, load_prompts, mentions_minors
from softguard.data.written import answered_prompts
from softguard.sources import resolve

PHRASINGS = ("question", "command", "story", "role_play", "code", "indirect")
MAX_SIMILARITY = 0.88


@pytest.fixture(scope="module")
def rows() -> list[PromptRow]:
    return load_prompts("softguard")


def of(rows: list[PromptRow], label: str, *splits: str) -> list[PromptRow]:
    return [r for r in rows if r.label == label and (not splits or r.split in splits)]


def test_there_are_enough_of_each_kind(rows: list[PromptRow]) -> None:
    assert len(of(rows, "harmful")) >= 500
    assert len(of(rows, "benign")) >= 500
    assert len(of(rows, "look_alike")) >= 350
    assert len({r.harm_category for r in of(rows, "harmful")}) >= 12
    for split in ("train", "validation", "test"):
        for label in ("harmful", "benign", "look_alike"):
            assert len(of(rows, label, split)) >= 30


def test_every_row_says_what_it_is(rows: list[PromptRow]) -> None:
    assert len({r.id for r in rows}) == len({r.prompt for r in rows}) == len(rows)
    by_id = {r.id: r for r in rows}
    for row in rows:
        assert row.source == "softguard"
        assert row.topic
        assert row.phrasing in PHRASINGS
        assert (row.harm_category is not None) == (row.label == "harmful") or row.label == "look_alike"
        if row.label == "look_alike":
            twin = by_id[row.look_alike_of or ""]
            assert (twin.label, twin.topic) == ("harmful", row.topic)
        if row.label != "benign":
            assert not mentions_minors(row.prompt)


def test_a_topic_stands_in_one_split(rows: list[PromptRow]) -> None:
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.topic, set()).add(row.split)
    assert [t for t, found in splits.items() if len(found) > 1] == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_phrasings_are_crossed_with_labels(rows: list[PromptRow], split: str) -> None:
    shares = {label: Counter(r.phrasing for r in of(rows, label, split)) for label in ("harmful", "look_alike", "benign")}
    for phrasing in PHRASINGS:
        found = [counts[phrasing] / counts.total() for counts in shares.values()]
        assert min(found) > 0.03
        assert abs(found[0] - found[1]) < 0.05


def test_style_does_not_betray_the_label(rows: list[PromptRow]) -> None:
    marks = [sum(r.prompt.rstrip().endswith("?") for r in of(rows, x)) / len(of(rows, x)) for x in ("harmful", "look_alike")]
    words = [sum(len(r.prompt.split()) for r in of(rows, x)) / len(of(rows, x)) for x in ("harmful", "look_alike")]
    assert abs(marks[0] - marks[1]) < 0.08
    assert abs(words[0] - words[1]) < 2.0


def test_at_most_three_rows_share_a_frame(rows: list[PromptRow]) -> None:
    frames = Counter(" ".join(re.findall(r"[a-z']+", r.prompt.lower())[:4]) for r in rows)
    assert frames.most_common(1)[0][1] <= 3


@pytest.mark.parametrize("benign", [False, True], ids=["twins", "twins and benign"])
def test_a_bag_of_words_cannot_tell_twins_apart(rows: list[PromptRow], benign: bool) -> None:
    kept = [r for r in rows if r.split == "train" and (benign or r.label != "benign")]
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000))
    model.fit([r.prompt for r in kept], [r.label == "harmful" for r in kept])
    test = [r for r in rows if r.split == "test" and r.label != "benign"]
    p = model.predict_proba([r.prompt for r in test])[:, 1]
    assert roc_auc_score([r.label == "harmful" for r in test], p) < 0.80


@pytest.mark.slow
def test_no_near_duplicates_across_splits(rows: list[PromptRow]) -> None:
    """MiniLM's cosine similarity between rows of different splits, tasks and answered prompts among them, stays under a cap."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = resolve("minilm-l6").path
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = rows + load_prompts("softguard_tasks") + load_prompts("softguard_pairs") + [a.row for a in answered_prompts(long=True)]
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(rows), 64):
            batch = tokenizer([r.prompt for r in rows[start : start + 64]], padding=True, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1)
            states = model(**batch).last_hidden_state * mask
            vectors.append(torch.nn.functional.normalize(states.sum(1) / mask.sum(1), dim=-1))
    similarity = torch.cat(vectors) @ torch.cat(vectors).T
    split = torch.tensor([("train", "validation", "test").index(r.split) for r in rows])
    similarity[split[:, None] == split[None]] = 0.0
    worst = similarity.argmax().item()
    assert similarity.max() < MAX_SIMILARITY, (rows[worst // len(rows)].id, rows[worst % len(rows)].id)
