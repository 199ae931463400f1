"""The rows of the table: what each system adds, where it is paid, and what of a guard is not read."""

import pytest

from softguard.costs import Added, GuardWork, ModelShape, Numbers, system_costs
from softguard.costs.results import TokenFlops

SHAPE = ModelShape(
    parameters=1000, body_weights=700, head_weights=200, query_width=8, key_width=4, windows=(None, 16), width=8, heads=2
)
GUARD = ModelShape(
    parameters=300, body_weights=100, head_weights=10, query_width=4, key_width=4, windows=(None,), width=4, heads=1
)


def rows(guard=None):
    found = system_costs(
        SHAPE,
        student=Added(front=6, after=2),
        adapter_parameters=64,
        system_prompt=Added(front=10),
        guard=guard,
        guard_name="small" if guard else "",
        answer_tokens=10,
        numbers=Numbers(weight=2, cache=2, adapter=4),
        contexts=(12, 100),
    )
    return {r.system: r for r in found}


def test_a_recomputed_prefix_is_spread_over_the_request_and_a_kept_one_is_attended_to():
    table = rows()
    base, anew, kept = (table[n].at(100) for n in ("base", "student_recomputed", "student_cached"))
    assert (base.body, base.attention, base.head) == (1400, 4 * 8 * (100 + 16), 400)
    assert anew.body == pytest.approx(1400 * 108 / 100)
    assert kept.body == pytest.approx(1400 * 102 / 100)  # those after the user's text are read in each request
    assert anew.attention == pytest.approx(4 * 8 * (108 + 16) * 108 / 100)
    assert kept.attention == pytest.approx(4 * 8 * (108 + 16) * 102 / 100)
    assert anew.head == kept.head == base.head  # virtual tokens get no logits
    assert table["student_cached"].note == "6 of its 8 positions are kept"


def test_memory_is_weights_and_what_the_cache_holds():
    table = rows()
    assert table["base"].weights_bytes == 2000
    assert table["base"].cache_bytes == {12: 2 * 2 * 4 * (12 + 12), 100: 2 * 2 * 4 * (100 + 16)}
    assert table["student_cached"].weights_bytes == 2000 + 64 * 4
    assert table["student_cached"].parameters == 1064
    assert table["student_cached"].cache_bytes[12] == 2 * 2 * 4 * (20 + 16)
    assert table["system_prompt_cached"].parameters == 1000


def test_an_encoder_as_guard_keeps_no_cache_and_says_what_it_does_not_read():
    guard = GuardWork("small", GUARD, lambda prompt, answer: (min(prompt + answer, 20), min(prompt, 20)), 4, keeps_cache=False)
    table = rows(guard)
    of_guard = 2 * 100 * (12 + 6)  # half of so short a request is the answer
    assert table["guarded"].at(12).body == pytest.approx(1400 + of_guard / 12)
    assert table["guarded"].at(12).head == pytest.approx(400 + 2 * 2 * 10 / 12)
    assert table["guarded"].at(100).body == pytest.approx(1400 + 2 * 100 * 40 / 100)
    assert "at most 20 positions" in table["guarded"].note
    assert table["guarded"].weights_bytes == 2000 + 300 * 4
    assert table["guarded"].cache_bytes == table["base"].cache_bytes


def test_a_guard_of_the_models_size_stands_apart_and_says_so():
    table = rows()
    assert "guarded" not in table
    twice, base = table["guarded_model_size"], table["base"]
    assert twice.at(100).body == 2 * base.at(100).body
    assert twice.weights_bytes == 2 * base.weights_bytes
    assert twice.cache_bytes[100] == 2 * base.cache_bytes[100]
    assert "not this run's guard" in twice.note


def test_json_has_the_sums():
    dumped = TokenFlops(context=1, body=1.0, attention=2.0, head=4.0).model_dump()
    assert (dumped["total"], dumped["without_head"]) == (7, 3)
