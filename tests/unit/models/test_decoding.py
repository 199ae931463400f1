"""A batch that is kept full: a row that enters beside others draws what it draws alone, which is what the whole network says."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from softguard.errors import CompatibilityError
from softguard.models import decoding, key_values, response_states, row_cache, sample
from softguard.models.attention import seen_by_kind
from softguard.models.decoding import decode_steps
from softguard.models.drawing import choose, uniforms
from softguard.models.row_cache import RowCache
from softguard.models.shared_prefix import SharedPrefix
from tests.fakes import tiny_model

LENGTHS = (3, 21, 9, 40, 9, 14, 30, 5, 11)
TOKENS = 20


def stopping(kind="llama", window=512):
    """Return a model that ends an answer at one token in six, and prompts that share their first ids."""
    lm = tiny_model(kind, window=window)
    object.__setattr__(lm, "stop_ids", frozenset(range(100, 143)))
    ids = np.random.default_rng(0).integers(0, 250, (len(LENGTHS), 50)).tolist()
    shared = ids[0][:10]
    return lm, [[*shared, *row[:length]] for row, length in zip(ids, LENGTHS, strict=True)]


def options(**changed):
    return {"max_new_tokens": TOKENS, "temperature": 1.0, "seed": 5, "refusal_token": 65, "keep_states": True} | changed


def keys(prompts):
    return [f"row {i}" for i in range(len(prompts))]


def alone(lm, prompts, **given):
    return [sample(lm, [prompt], [key], **given)[0] for prompt, key in zip(prompts, keys(prompts), strict=True)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.ids, one.truncated, one.refused) == (other.ids, other.truncated, other.refused)
        assert one.refusal_log_odds == pytest.approx(other.refusal_log_odds, abs=1e-3)
        assert one.log_prob == pytest.approx(other.log_prob, abs=2e-3)
        torch.testing.assert_close(one.states, other.states, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("window", [12, 512])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gemma2", "mistral", "gpt2"])
def test_a_row_draws_beside_others_what_it_draws_alone(kind, window):
    lm, prompts = stopping(kind, window)
    found = sample(lm, prompts, keys(prompts), **options(), batch_size=4)
    assert len({len(g.ids) for g in found}) > 2  # rows left at unlike times
    assert_same(found, alone(lm, prompts, **options()))
    for prompt, generation in zip(prompts, found, strict=True):
        with torch.no_grad():
            states = lm.body(input_ids=torch.tensor([[*prompt, *generation.ids]])).last_hidden_state[0]
        torch.testing.assert_close(generation.states, states[len(prompt) - 1 : -1], rtol=1e-3, atol=1e-4)


def test_rows_enter_while_others_go_on_and_the_batch_is_never_over_full():
    lm, prompts = stopping()
    draws = np.stack([uniforms(5, key, TOKENS) for key in keys(prompts)])
    live: set[int] = set()
    joined, entered, made = 0, [], Counter()
    for step in decode_steps(lm, prompts, draws, TOKENS, 1.0, 65, None, None, batch_size=4):
        if step.entered:
            joined += bool(live)
            assert list(step.rows) == list(step.entered)
            assert len(step.log_odds) == len(step.refused) == len(step.entered)
            entered += step.entered
            live |= set(step.entered)
        assert set(step.rows) <= live
        assert step.entered or set(step.rows) == live
        assert len(live) <= 4
        made.update(step.rows)
        live -= {who for who, token in zip(step.rows, step.tokens, strict=True) if token in lm.stop_ids or made[who] == TOKENS}
    assert entered == list(range(len(prompts)))
    assert joined >= 2


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_virtual_tokens_a_prefix_and_the_operating_point_hold_for_rows_that_enter(kind):
    lm, prompts = stopping(kind, 24)
    virtual = torch.randn(3, lm.width, generator=torch.Generator().manual_seed(2))
    lm = replace(lm, prefix=key_values(lm, [7, 8, 9, 10]))
    object.__setattr__(lm, "stop_ids", frozenset(range(100, 143)))
    prompts = [[-1, -2, -3, *prompt] for prompt in prompts]
    s = sorted(g.refusal_log_odds for g in alone(lm, prompts, **options(virtual_tokens=virtual)))
    limit = (s[len(s) // 2 - 1] + s[len(s) // 2]) / 2
    given = options(virtual_tokens=virtual, refuse_above=limit, keep_states=False)
    found = sample(lm, prompts, keys(prompts), **given, batch_size=3)
    assert 2 < sum(g.refused for g in found) < len(prompts) - 2
    assert all((g.ids == ()) == g.refused and not (g.refused and g.truncated) for g in found)
    assert [(g.ids, g.refused, g.truncated) for g in found] == [
        (g.ids, g.refused, g.truncated) for g in alone(lm, prompts, **given)
    ]


def test_how_many_prompts_enter_in_one_pass_does_not_matter(monkeypatch):
    lm, prompts = stopping()
    whole = sample(lm, prompts, keys(prompts), **options())
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 25)
    assert_same(sample(lm, prompts, keys(prompts), **options()), whole)


def test_progress_grows_to_all_prompts_and_none_are_no_error():
    lm, prompts = stopping()
    seen = []
    sample(lm, prompts, keys(prompts), **options(), batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0][0] < len(prompts)
    assert seen[-1] == (len(prompts), len(prompts))
    assert sample(lm, [], [], **options()) == []


def test_rows_that_leave_make_room_without_moving_those_that_stay(monkeypatch):
    monkeypatch.setattr(row_cache, "ROOM", 0)
    cache = RowCache(SharedPrefix(), rows=5)
    given = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 1)
    cache.enter(5, 2)
    cache.update(given, given, 0)
    assert cache.keep([1, 3, 4]) == [3, 1, 4]
    cache.advance(torch.tensor([2, 2, 2]), 3)
    keys, values = cache.update(torch.full((3, 1, 1, 1), 9.0), torch.full((3, 1, 1, 1), 8.0), 0)
    assert keys[:, 0, :, 0].tolist() == [[3, 3, 9], [1, 1, 9], [4, 4, 9]]
    assert values[:, 0, 2, 0].tolist() == [8, 8, 8]
    cache.enter(1, 3)
    assert cache.update(torch.full((1, 1, 3, 1), 7.0), torch.full((1, 1, 3, 1), 7.0), 0)[0][0, 0, :, 0].tolist() == [7, 7, 7]
    cache.advance(torch.tensor([3, 3, 3, 3]), 4)
    keys, _ = cache.update(torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 1, 1), 0)
    assert keys[:, 0, :, 0].tolist() == [[3, 3, 9, 0], [1, 1, 9, 0], [4, 4, 9, 0], [7, 7, 7, 0]]


def test_the_rounding_of_a_blocks_sum_draws_nothing_impossible():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 256, generator=generator)
    logits[:, 200:] = -torch.inf
    uniform = torch.full((4000,), 1 - 2**-53, dtype=torch.float64)  # the end of the block, which its float32 sum may overshoot
    assert choose(logits, 1.0, uniform).max() < 200


def test_each_kind_of_layer_sees_as_far_as_its_own_window_and_others_are_refused():
    kinds = ["full_attention", "sliding_attention", "chunked_attention"]
    config = SimpleNamespace(layer_types=kinds, sliding_window=2, attention_chunk_size=3)
    seen = seen_by_kind(config, torch.tensor([[4], [6]]), 8)
    assert [seen[kind][0, 0, 0].nonzero().flatten().tolist() for kind in kinds] == [[0, 1, 2, 3, 4], [3, 4], [3, 4]]
    assert [seen[kind][1, 0, 0].nonzero().flatten().tolist() for kind in kinds] == [[0, 1, 2, 3, 4, 5, 6], [5, 6], [6]]
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(CompatibilityError, match="linear_attention"):
        seen_by_kind(config, torch.tensor([[4]]), 8)


def test_scoring_agrees_with_what_was_drawn():
    lm, prompts = stopping("gemma3", 24)
    found = sample(lm, prompts, keys(prompts), **options(), batch_size=2)
    scored = response_states(lm, prompts, [g.ids for g in found])
    torch.testing.assert_close(torch.cat([g.states for g in found]), scored.states, rtol=1e-3, atol=1e-4)
