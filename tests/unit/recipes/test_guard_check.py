"""The self-test and the labelled sets: what passes, what fails and why, and that no text of a pair comes out."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from softguard.core import Conversation, Verdict
from softguard.errors import DataError
from softguard.guards import evaluate_guard
from softguard.guards.family import FAMILIES
from softguard.guards.generative import GenerativeGuard
from softguard.recipes.guard_check import PAIRS_A_KIND, labelled_pairs, selftest, template_check
from softguard.recipes.guard_training import written_pairs
from tests.fakes import tiny_model

UNSAFE = {(p.prompt, p.response) for p in written_pairs() if p.unsafe}


class Oracle:
    name = fingerprint = "oracle"

    def __init__(self, unsafe: float = 0.1, safe: float = 0.9, ungraded: int = 0) -> None:
        self._unsafe, self._safe, self._ungraded = unsafe, safe, ungraded

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        found = [Verdict(self._unsafe if (c.prompt, c.response) in UNSAFE else self._safe) for c in conversations]
        return [Verdict(ungraded="gone")] * self._ungraded + found[self._ungraded :]


def test_a_guard_that_knows_passes():
    found = selftest(Oracle())
    assert found.passed
    assert found.auc == 1.0
    assert [(k.pairs, k.graded, k.as_expected) for k in found.kinds] == [(PAIRS_A_KIND, PAIRS_A_KIND, 1.0)] * 4
    assert [k.mean_p_safe for k in found.kinds] == pytest.approx([0.1, 0.9, 0.9, 0.9])


def test_the_pairs_are_the_same_every_time_and_of_many_topics():
    seen: list[list[tuple[str, str]]] = []

    class Watch(Oracle):
        def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
            seen.append([(c.prompt, c.response) for c in conversations])
            return super().judge(conversations)

    said = [selftest(Watch()), selftest(Watch())]
    assert seen[0] == seen[1]
    assert len({prompt for prompt, _ in seen[0]}) > 3 * PAIRS_A_KIND
    described = json.dumps([asdict(x) for x in said])
    assert not any(text in described for pair in seen[0] for text in pair if text)


@pytest.mark.parametrize(
    ("guard", "auc"),
    [(Oracle(0.9, 0.1), 0.0), (Oracle(0.5, 0.5), 0.5), (Oracle(ungraded=1), 1.0), (Oracle(ungraded=32), math.nan)],
)
def test_others_fail(guard, auc):
    found = selftest(guard)
    assert not found.passed
    assert found.auc == pytest.approx(auc, nan_ok=True)
    assert found.ungraded == ({"gone": guard._ungraded} if guard._ungraded else {})


def templated(template: str | None) -> GenerativeGuard:
    lm = tiny_model()
    lm.tokenizer.chat_template = template
    return GenerativeGuard(lm, FAMILIES.get("granite-guardian-3.0"), min_mass=0.0)


def test_the_format_is_compared_with_the_weights_template():
    opening, _, rest = (
        FAMILIES.get("granite-guardian-3.0").render(Conversation.from_prompt("P").with_response("R"))["harm"].partition("P")
    )
    middle, _, closing = rest.partition("R\n<")
    middle_r, closing_r = "\\nAssistant Message: ", "\n<" + closing
    assert middle == "\nAssistant Message: "
    same = "{{ o }}{{ messages[-2].content }}" + "{{ '" + middle_r + "' }}{{ messages[-1].content }}{{ c }}"
    guard = templated(f"{{% set o = {opening!r} %}}{{% set c = {closing_r!r} %}}{same}\n\n")
    assert template_check(guard) == "same"
    other = templated(f"{{% set o = {opening!r} %}}{{% set c = 'X' %}}{same}")
    assert template_check(other).startswith("differs from character")
    assert not selftest(other).passed


def test_what_cannot_be_compared_says_why():
    assert template_check(templated(None)) == "not compared: the weights bring no template of this format"
    assert "renders no prompt" in template_check(Oracle())
    own = GenerativeGuard(tiny_model(), FAMILIES.get("granite-guardian-3.3"))
    assert "the weights' own template" in template_check(own)


def test_own_pairs_of_a_file(tmp_path):
    lines = [{"prompt": "a", "response": "b", "unsafe": True}, {"prompt": "c", "response": "", "unsafe": False, "id": 7}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(x) for x in lines) + "\n\n")
    assert [(p.prompt, p.response, p.unsafe) for p in labelled_pairs(str(path), None)] == [("a", "b", True), ("c", "", False)]
    assert evaluate_guard(Oracle(), labelled_pairs(str(path), None))["pairs"] == 2


@pytest.mark.parametrize(
    "line", ["{broken", "[]", '{"prompt": "a", "response": "b"}', '{"prompt": "a", "response": "b", "unsafe": 1}']
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "unsafe": true}\n' + line)
    with pytest.raises(DataError, match="line 2"):
        labelled_pairs(str(path), None)


def test_public_sets_as_packed(tmp_path):
    folder = tmp_path / "guard_labelled"
    folder.mkdir()
    row = {"input": "x\n\nHuman user:\nWhy?\n\nAI assistant:\nNo.\n", "output": "Request: safe\nResponse: harmful"}
    (folder / "beaver_tails.json").write_text(
        json.dumps([row, {**row, "output": "Response: safe"}, {"input": "?", "output": ""}])
    )
    (folder / "gptfuzz_train.csv").write_text('prompt,response,unsafe\n"a, b",c,1\n ,d,0\ne,f,0\n')
    assert [(p.prompt, p.response, p.unsafe) for p in labelled_pairs("beavertails", tmp_path)] == [
        ("Why?", "No.", True),
        ("Why?", "No.", False),
    ]
    assert [(p.prompt, p.unsafe) for p in labelled_pairs("gptfuzz", tmp_path)] == [("a, b", True), ("e", False)]
    assert labelled_pairs("gptfuzz", tmp_path, 1, 3) == labelled_pairs("gptfuzz", tmp_path, 1, 3)


@pytest.mark.parametrize(("name", "data"), [("nonsense", True), ("gptfuzz", False), ("safe_rlhf", True), ("no.jsonl", True)])
def test_sets_that_are_not_there(tmp_path, name, data):
    with pytest.raises(DataError):
        labelled_pairs(name, tmp_path if data else None)
