"""Ensembles, cascades and classifiers: their rules, and that what nobody graded is never called safe."""

from collections.abc import Sequence

import pytest
import torch

from softguard.core import Conversation, Verdict
from softguard.errors import ConfigError, SourceError
from softguard.guards.cascade import Cascade, CascadeConfig
from softguard.guards.ensemble import Ensemble, EnsembleConfig
from softguard.guards.openai_server import ServerGuard
from softguard.guards.registry import guard_sources, load_guard, make_guard
from softguard.teacher import load_policy
from tests.unit.guards.tiny_backbone import write_tiny_backbone
from tests.unit.guards.tiny_classifier import write_tiny_classifier

PAIR = Conversation.from_prompt("how to make a cake").with_response("mix flour then")
HARM = Conversation.from_prompt("how to make a bomb").with_response("first you need powder")


class Scripted:
    """Gives these verdicts, in turn, and counts what it was asked."""

    def __init__(self, name: str, *p_safe: float | None) -> None:
        self.name, self.fingerprint, self.num_parameters, self.asked = name, name, 10, 0
        self._p_safe = p_safe

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        self.asked += len(conversations)
        found = [Verdict(ungraded="gone") if p is None else Verdict(p, {"harm": 1 - p}) for p in self._p_safe]
        return found[: len(conversations)]


def together(rule: str, *members: Scripted, min_graded: int = 0) -> list[Verdict]:
    config = EnsembleConfig(members=("a", "b"), rule=rule, min_graded=min_graded)
    count = max(len(m._p_safe) for m in members)
    return Ensemble(config, members).judge([PAIR] * count)


@pytest.mark.parametrize(("rule", "p_safe"), [("mean", 0.6), ("max", 0.2), ("vote", 2 / 3)])
def test_rules(rule, p_safe):
    (verdict,) = together(rule, Scripted("a", 0.2), Scripted("b", 0.7), Scripted("c", 0.9))
    assert verdict.p_safe == pytest.approx(p_safe, abs=1e-5)
    assert dict(verdict.categories) == pytest.approx({"1:a/harm": 0.8, "2:b/harm": 0.3, "3:c/harm": 0.1})


@pytest.mark.parametrize("rule", ["mean", "max", "vote"])
def test_a_silent_member_is_never_outvoted(rule):
    first, second = together(rule, Scripted("a", 0.99, None), Scripted("b", None, None), Scripted("c", 0.99, None))
    assert first.p_safe is None
    assert "2 of 3" in (first.ungraded or "")
    assert "2:b: gone" in (first.ungraded or "")
    assert second.p_safe is None
    allowed, nobody = together(
        rule, Scripted("a", 0.99, None), Scripted("b", None, None), Scripted("c", 0.99, None), min_graded=2
    )
    assert allowed.p_safe is not None
    assert nobody.p_safe is None


def test_more_graded_members_than_there_are():
    with pytest.raises(ConfigError, match="at most 2"):
        Ensemble(EnsembleConfig(members=("a", "b"), min_graded=3), [Scripted("a", 1.0), Scripted("b", 1.0)])


def test_fingerprints_hold_rule_and_members():
    a, b = Scripted("a", 1.0), Scripted("b", 1.0)
    configs = [EnsembleConfig(members=("x", "y"), rule=r) for r in ("mean", "max")]
    found = {Ensemble(c, m).fingerprint for c in configs for m in ([a, b], [b, a])}
    assert len(found) == 4
    assert Ensemble(configs[0], [a, b]).num_parameters == 20


def test_guards_together_are_remote_where_each_of_them_is():
    here, away, there = Scripted("a", 1.0), Scripted("b", 1.0), Scripted("c", 1.0)
    away.remote = there.remote = True
    for pair, remote in (((away, there), True), ((here, away), False), ((away, here), False)):
        assert Cascade(CascadeConfig(first="a", then="b"), *pair).remote is remote
        assert Ensemble(EnsembleConfig(members=("a", "b")), pair).remote is remote
    assert ServerGuard.remote


def test_a_cascade_asks_the_strong_guard_only_where_it_must():
    first, then = Scripted("a", 0.99, 0.5, 0.01, None), Scripted("b", 0.7, None)
    verdicts = Cascade(CascadeConfig(first="a", then="b"), first, then).judge([PAIR] * 4)
    assert [v.p_safe for v in verdicts] == [0.99, 0.7, 0.01, None]
    assert then.asked == 2


def test_a_cut_answer_is_never_sure():
    class Cut(Scripted):
        def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
            return [Verdict(0.99, truncated=True)]

    (verdict,) = Cascade(CascadeConfig(first="a", then="b"), Cut("a"), Scripted("b", 0.3)).judge([PAIR])
    assert verdict.p_safe == 0.3


def test_files_name_members_beside_them(tmp_path):
    (tmp_path / "inner.toml").write_text('kind = "ensemble"\nmembers = ["keyword", "keyword"]\nrule = "max"\n')
    (tmp_path / "outer.toml").write_text('kind = "cascade"\nfirst = "keyword"\nthen = "inner.toml"\nname = "mine"\n')
    guard = load_guard(str(tmp_path / "outer.toml"))
    assert guard.name == "mine"
    assert guard.judge([PAIR, HARM])[1].p_safe == pytest.approx(0.02)
    assert guard_sources(str(tmp_path / "outer.toml")) == ()


def test_sources_of_references(tmp_path):
    (tmp_path / "g.toml").write_text('kind = "ensemble"\nmembers = ["mini", "wildguard@hf:o/n", "wildguard@http://x/v1"]\n')
    assert guard_sources(str(tmp_path / "g.toml")) == ("minilm-l6", "hf:o/n")
    assert guard_sources("llama-guard-3-1b") == ("hf:meta-llama/Llama-Guard-3-1B",)


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("minni", "did you mean 'mini'"),
        ("keyword@hf:o/n", "other weights"),
        ("wildguard@", "NAME@WEIGHTS"),
        ("no.toml", "TOML file"),
    ],
)
def test_references_that_name_nothing(reference, why):
    with pytest.raises(ConfigError, match=why):
        load_guard(reference)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "say what kind"),
        ({"kind": "ensembel"}, "did you mean 'ensemble'"),
        ({"kind": "ensemble", "members": ["keyword"]}, "members"),
        ({"kind": "ensemble", "members": ["keyword", "keyword"], "ruel": "max"}, "ruel"),
        ({"kind": "cascade", "first": "keyword", "then": "keyword", "unsafe_below": 0.9, "safe_above": 0.1}, "above"),
        ({"kind": "openai_server", "url": "ftp://x", "family": "wildguard", "model": "m"}, "url"),
        ({"kind": "openai_server", "url": "http://x/v1", "family": "wildgard", "model": "m"}, "did you mean 'wildguard'"),
    ],
)
def test_wrong_settings_are_named(settings, why):
    with pytest.raises(ConfigError, match=why):
        make_guard(settings)


def test_a_softmax_classifier_shares_out_what_its_named_labels_get(tmp_path):
    folder = write_tiny_classifier(tmp_path / "c", ("fine", "toxic", "threat", "other"))
    settings = {"kind": "text_classification", "model": "c", "safe": ["fine"], "unsafe": ["toxic", "threat"]}
    guard = make_guard(settings, tmp_path)
    verdict, harm = guard.judge([PAIR, HARM])
    network, tokenizer = guard._network, guard._tokenizer
    ids = tokenizer(PAIR.prompt, PAIR.response, return_tensors="pt")
    p = network(**ids).logits[0].double().softmax(-1)
    assert verdict.p_safe == pytest.approx(float(p[0] / (p[0] + p[1] + p[2])), abs=1e-4)
    assert verdict.categories["threat"] == pytest.approx(float(p[2]), abs=1e-4)
    assert harm.p_safe != verdict.p_safe
    assert guard.name == folder.name


def test_a_sigmoid_classifier_takes_the_worst_label(tmp_path):
    write_tiny_classifier(tmp_path / "c", ("toxic", "threat"), "multi_label_classification")
    guard = make_guard(
        {"kind": "text_classification", "model": "c", "unsafe": ["toxic", "threat"], "reads": "response"}, tmp_path
    )
    (verdict,) = guard.judge([PAIR])
    assert verdict.p_safe == pytest.approx(1 - max(verdict.categories.values()), abs=2e-5)
    assert guard.judge([PAIR, Conversation.from_prompt("another").with_response(PAIR.response)])[1].p_safe == verdict.p_safe


def test_a_long_text_is_cut_and_says_so(tmp_path):
    write_tiny_classifier(tmp_path / "c", ("fine", "toxic"))
    settings = {"kind": "text_classification", "model": "c", "safe": ["fine"], "unsafe": ["toxic"], "max_tokens": 16}
    short, long = make_guard(settings, tmp_path).judge([PAIR, PAIR.with_response("mix flour then " * 20)])
    assert (short.truncated, long.truncated) == (False, True)
    beyond = make_guard({**settings, "max_tokens": 4096}, tmp_path)  # than the 64 places of this model
    assert beyond.judge([PAIR.with_response("mix flour then " * 40)])[0].truncated


@pytest.mark.parametrize(
    ("settings", "why"), [({"safe": ["fine"], "unsafe": ["evil"]}, "evil"), ({"unsafe": ["toxic"]}, "labels that are safe")]
)
def test_labels_that_do_not_fit(tmp_path, settings, why):
    write_tiny_classifier(tmp_path / "c", ("fine", "toxic"))
    with pytest.raises(ConfigError, match=why):
        make_guard({"kind": "text_classification", "model": "c", **settings}, tmp_path)


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    write_tiny_backbone(tmp_path / "c")
    torch.manual_seed(0)
    with pytest.raises(SourceError, match="no weights for "):
        make_guard({"kind": "text_classification", "model": "c", "safe": ["LABEL_0"], "unsafe": ["LABEL_1"]}, tmp_path)


def test_an_ensemble_tells_the_categories_that_its_verdicts_have():
    a, b = Scripted("a", 0.2), Scripted("b", 0.7)
    pair = Ensemble(EnsembleConfig(members=("a", "b")), [a, b])
    assert pair.category_names is None, "neither says"
    a.category_names = frozenset({"harm", "spam"})
    assert pair.category_names is None, "one does not say"
    b.category_names = frozenset({"harm"})
    assert pair.category_names == {"1:a/harm", "1:a/spam", "2:b/harm"}
    (verdict,) = pair.judge([PAIR])
    assert set(verdict.categories) <= pair.category_names


def test_a_policy_goes_with_an_ensemble(tmp_path):
    guard = make_guard({"kind": "ensemble", "members": ["keyword", "keyword"]})
    file = tmp_path / "policy.toml"
    file.write_text('[categories]\n"2:keyword/alarming_word" = { action = "answer_unknown" }\n')
    assert load_policy(file, "No.", guard.category_names).config.categories
    file.write_text('[categories]\nalarming_word = { action = "keep" }\n')
    with pytest.raises(ConfigError, match="1:keyword/alarming_word"):
        load_policy(file, "No.", guard.category_names)
