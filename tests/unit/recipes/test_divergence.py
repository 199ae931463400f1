"""The divergence of a run's systems is measured once: killed, it goes on, and another system adds to what is kept."""

import pytest

from softguard.core import Conversation
from softguard.recipes import divergence
from softguard.recipes.remembering import Store
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model

PROMPTS = [Conversation.from_prompt(f"{i} eggs?") for i in range(3)]


def store_of(name: str) -> Store:
    return Store("divergence", name)


def test_figures_are_kept_for_each_prompt_and_system(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(divergence, "PROMPTS_AT_ONCE", 1)
    lm, scored, alive = tiny_model(), [], [2]
    base, strict = ModelSystem("base", lm), ModelSystem("system_prompt", lm, system_prompt="Be brief.")
    teacher = GuardedSystem(lm, KeywordGuard("none"))
    score = divergence._scored

    def counting(system, conversation, texts):
        scored.append((system.name, conversation.prompt))
        if len(scored) > alive[0]:
            raise KeyboardInterrupt
        return score(system, conversation, texts)

    def measured(systems):
        return divergence.divergences(teacher, systems, PROMPTS, 8, 4, None, lambda *told: None, store_of)

    monkeypatch.setattr(divergence, "_scored", counting)
    with pytest.raises(KeyboardInterrupt):
        measured([base])
    alive[0] = 99
    scored.clear()
    whole = measured([base])
    assert scored == [("base", PROMPTS[2].prompt)]
    scored.clear()
    both = measured([base, strict])
    assert both["base"] == whole["base"]
    assert [name for name, _ in scored] == ["base", "system_prompt"] * 3
    scored.clear()
    assert measured([base, strict]) == both
    assert scored == []
    assert both == divergence.divergences(teacher, [base, strict], PROMPTS, 8, 4, None, lambda *told: None)
