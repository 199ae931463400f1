"""The refusal's entry: the likeliest first token iff the operating point says so, and silent in an answer under way."""

import pytest
import torch

from softguard.core.head import Head
from softguard.data import PromptRow
from softguard.export.head import RealLogits
from softguard.export.refusal_entry import FirstPositions, decision_row, muted_first, restraint
from softguard.models import DecisionRow
from softguard.recipes.export_checks import Reference, decisions_in_memory
from softguard.recipes.export_head import ending_vector, fitted_decision, fitted_rows, prompt_run, student_states
from softguard.recipes.student import ModelSystem
from tests.unit.export.conftest import make_student

V, D, S = 50, 16, 3


def head(scale=1.0, softcap=None):
    made = Head(torch.randn(V, D, generator=torch.Generator().manual_seed(0)), None, scale, softcap)
    made.weight[:, 0] *= 0.1
    made.weight[:, 1:] *= 0.5
    made.weight[S, 0] = 0.7
    return made


def states(count, shared, seed):
    """Return states that share a coordinate with each other, as those after one header do, and one with all states."""
    made = torch.randn(count, D, generator=torch.Generator().manual_seed(seed))
    made[:, 0], made[:, 1] = shared, 5.0
    return made


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, None), (1.0, 30.0)])
def test_the_operating_point_is_kept_in_one_row(share, scale, softcap):
    made = head(scale, softcap)
    first, elsewhere = states(400, 6.0, 1), states(400, 0.0, 5)
    at_first, real = FirstPositions.of(first, made, S), RealLogits.of(made, elsewhere)
    probability = torch.softmax(made.logits(first), -1)[:, S]
    torch.testing.assert_close(at_first.log_odds, probability.logit(), atol=1e-3, rtol=1e-3)
    threshold = float(at_first.log_odds.quantile(1 - share))
    row = decision_row(at_first, elsewhere, real, S, threshold, made)
    other = FirstPositions.of(states(400, 6.0, 9), made, S)  # not those that it was fitted to
    entry = Head(row[None], None, scale, softcap).logits(other.states)[:, 0]
    wanted = other.log_odds > threshold
    right = float(((entry > other.largest) == wanted).float().mean())
    assert right > 0.8
    assert right > 0.05 + float(max(wanted.float().mean(), 1 - wanted.float().mean()))  # than always deciding alike
    found = restraint(made, elsewhere, real, row, S, torch.zeros(D))
    assert (found.positions, found.positions_where_likeliest) == (400, 0)
    assert found.largest_gap_nats < 0
    kept = restraint(made, elsewhere, real, made.weight[S], S, torch.zeros(D))  # the row of S itself is said in answers, too
    assert kept.largest_gap_nats >= 0


def test_the_refusals_first_token_is_no_first_token_and_stays_itself_elsewhere():
    made = head()
    first, elsewhere = states(400, 6.0, 1), states(400, 0.0, 5)
    added = muted_first(FirstPositions.of(first, made, S), elsewhere, RealLogits.of(made, elsewhere), S, made)
    logits = made.logits(first)
    assert float((logits.argmax(-1) == S).float().mean()) > 0.1
    logits[:, S] += first @ added
    assert float((logits.argmax(-1) == S).float().mean()) < 0.05
    found = restraint(made, elsewhere, RealLogits.of(made, elsewhere), made.weight[0], S, added)
    assert 0 < found.first_token_divergence_nats < 0.02


def test_after_its_vector_the_turn_ends_more_than_after_any_token(tiny_lm):
    student = make_student(tiny_lm)
    rows = [PromptRow(str(i), f"Question {i}?", "benign", "own") for i in range(24)]
    found = ending_vector(student, rows, 0)
    run = prompt_run(tiny_lm, [student.prompt_ids(r.conversation) for r in rows[:8]], student.virtual_tokens)
    with torch.no_grad():
        ended = run.end_log_probs(tiny_lm, found).mean()
        tokens = [float(run.end_log_probs(tiny_lm, row.float()).mean()) for row in tiny_lm.embedding_weight[::7]]
    assert float(ended) > max(tokens)


def test_a_row_that_decides_in_memory_is_the_one_in_the_file(tiny_lm):
    free = make_student(tiny_lm, threshold=None)
    rows = [PromptRow(str(i), f"Question {i} of {i * 7 % 23}?", "benign", "own") for i in range(60)]
    states = student_states(free, rows[:40], 400, 0, lambda stage, done, total, figures: None)
    s = sorted(free.refusal_log_odds([r.conversation for r in rows]))
    row = fitted_decision(free, states, s[30])
    decided = ModelSystem("student", tiny_lm, adapter=free.adapter, threshold=s[30], decision=DecisionRow(row, s[30]))
    entry = fitted_rows(decided, states, rows[:40], 0).refusal
    assert entry is not None
    assert torch.equal(entry.head, row)
    found = decisions_in_memory(Reference(decided, 0, 0, entry.head, entry.first_token), rows)
    assert found["agreement"] == 1.0
    assert 0 < found["counts"]["both_refuse"] < len(rows)
