"""Costs of a run: what evaluation's table shows, the report, and its timings, on a tiny model."""

import json
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from softguard.adapters import ADAPTERS, SoftPrompt, SoftPromptConfig
from softguard.adapters.kv_prefix import KVPrefixConfig
from softguard.adapters.lora import LoraConfig
from softguard.adapters.steering_vector import SteeringVectorConfig
from softguard.core import Conversation, Verdict
from softguard.costs import Added, ModelShape, request_flops
from softguard.data import PromptRow
from softguard.errors import ConfigError
from softguard.models import response_states, sample
from softguard.recipes import costs as costing
from softguard.recipes import distill as distilling
from softguard.recipes import timing
from softguard.recipes.config import resolved, validate_config
from softguard.recipes.student import ModelSystem
from softguard.recipes.timing import decode, time_systems
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model

LAYOUT = [{"slot": "front", "count": 12}, {"slot": "after_user", "count": 4}]
ROWS = [PromptRow(f"b{i}", "x" * (20 + 10 * i), "benign", "softguard") for i in range(3)]


class Sized(KeywordGuard):
    """Says how many parameters it has, but not what its passes are."""

    num_parameters = 1000


class Reading(Sized):
    """A guard that is a tiny language model."""

    def __init__(self):
        super().__init__()
        self.network = tiny_model("llama", seed=1).network
        self.read = []

    def passes(self, prompt_tokens, answer_tokens):
        return (prompt_tokens + answer_tokens,)

    def judge(self, conversations):
        self.read += conversations
        time.sleep(0.02)
        return [Verdict(p_safe=1.0) for _ in conversations]


def student_of(lm, layout):
    config = SoftPromptConfig(num_virtual_tokens=16, placement=layout)
    return ModelSystem("student", lm, adapter=SoftPrompt.create(config, lm, 0))


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_positions_that_no_cache_holds_are_paid_for_in_each_answer(kind):
    lm = tiny_model(kind)

    def extra(layout, tokens=8):
        return costing.added_costs(student_of(lm, layout), lm, None, ROWS[:1], tokens)["extra_compute"].value

    shape, prompt = ModelShape.of(lm.network), len(ModelSystem("plain", lm).prompt_ids(ROWS[0].conversation))
    position = 4 * 32 * 2  # attention of one token to one position, in each of two layers
    per_token = 2 * shape.body_weights + 2 * shape.head_weights + 512 * position
    own_pass = 4 * (2 * shape.body_weights + (12 + prompt + 4) * position)
    seen = 0 if kind == "gemma3" else 16 * position  # its windows of 512 are full without them
    assert extra([]) == pytest.approx(seen / per_token)
    assert extra(LAYOUT) == pytest.approx((seen + own_pass / 8) / per_token)
    assert extra(LAYOUT, 80) == pytest.approx((seen + own_pass / 80) / per_token)


def test_the_guard_reads_the_prompt_as_well_as_the_answer():
    lm, guard = tiny_model(), Reading()
    cost = costing.added_costs(GuardedSystem(lm, guard), lm, guard, ROWS[:1], 10)
    own, base = (ModelShape.of(m.network) for m in (guard, lm))
    read = 30 * (2 * own.body_weights + 30 * 256) + 2 * own.head_weights  # 20 bytes of prompt, 10 tokens of answer
    per_token = 2 * base.body_weights + 2 * base.head_weights + 512 * 256
    assert cost["extra_compute"].value == pytest.approx(read / 10 / per_token)
    assert cost["added_memory_mib"].value == 1000 * 4 / 2**20


def test_of_a_guard_is_shown_what_it_says_and_no_more():
    lm = tiny_model()
    sized = costing.added_costs(GuardedSystem(lm, Sized()), lm, Sized(), ROWS, 10)
    assert sized["added_parameters"].value == 1000
    assert sized["extra_compute"].value is None
    silent = costing.added_costs(GuardedSystem(lm, KeywordGuard()), lm, KeywordGuard(), ROWS, 10)
    assert {v.value for v in silent.values()} == {None}


def test_the_cache_of_a_prefix_is_as_wide_as_the_heads():
    def memory(lm):
        system = student_of(lm, [])
        cost = costing.added_costs(system, lm, None, ROWS, 8)
        return cost["added_memory_mib"].value * 2**20 - system.adapter.num_parameters * 4

    lm = tiny_model("gemma3")
    lm.network.config.head_dim = 24  # wider than D / heads, as Gemma 3's are
    assert memory(lm) == pytest.approx(16 * 2 * 2 * 2 * 24 * 4)  # positions, K and V, layers, key heads, width, bytes
    assert memory(tiny_model("gpt2")) == pytest.approx(16 * 2 * 2 * 4 * 8 * 4)


ADDS = {
    "soft_prompt": (SoftPromptConfig(num_virtual_tokens=16, placement=LAYOUT), Added(front=12, after=4)),
    "after_header": (SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "after_header", "count": 4}]), Added(after=4)),
    "kv_prefix": (KVPrefixConfig(num_positions=16), Added(held=16)),
    "lora": (LoraConfig(rank=2), Added(weights=2 * 2 * (32 + 32 + 32 + 16))),  # two layers of rank 2, q and v
    "steering_vector": (SteeringVectorConfig(layer=0), Added()),
}


def with_adapter(lm, kind):
    """Return a student whose adapter is away from its start, where some are nothing at all."""
    adapter = ADAPTERS.get(ADDS[kind][0].kind).create(ADDS[kind][0], lm, 0)
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return ModelSystem("student", lm, adapter=adapter)


@pytest.mark.parametrize("kind", ADDS)
def test_what_an_adapter_adds_is_what_pytorch_counts(kind):
    lm, added = tiny_model(), ADDS[kind][1]
    lm.network.set_attn_implementation("eager")
    system = with_adapter(lm, kind)
    assert costing.added_by(system, lm) == added
    ids = system.prompt_ids(ROWS[0].conversation)
    with torch.inference_mode(), system.running() as student, FlopCounterMode(display=False) as counter:
        student.head(response_states(student, [ids], [[0]], system.virtual_tokens).states)
    shape, plain = ModelShape.of(lm.network), len(ids) - added.front - added.after
    counted = request_flops(shape, plain, added, cached=False)
    assert counter.get_total_flops() == counted.without_head + 2 * shape.head_weights


def said_by(system, prompt):
    """Return the tokens of a system's greedy answer; nothing ends it."""
    object.__setattr__(system.lm, "stop_ids", frozenset())
    asked = {"max_new_tokens": 6, "temperature": 0, "seed": 0, "refusal_token": 0}
    with system.running() as lm:
        return list(sample(lm, [prompt], ["a"], virtual_tokens=system.virtual_tokens, **asked)[0].ids)


@pytest.mark.parametrize("kind", ADDS)
def test_what_is_timed_is_what_the_system_says(kind, monkeypatch):
    lm, seen = tiny_model(), []
    base, student = ModelSystem("base", lm), with_adapter(lm, kind)

    def spying(*given):
        first, said = decode(*given)
        seen.append(said)
        return first, said

    monkeypatch.setattr(timing, "decode", spying)
    time_systems([base, student], Reading(), [r.conversation for r in ROWS], 1, 6)
    plain, changed = (said_by(s, s.prompt_ids(ROWS[0].conversation)) for s in (base, student))
    assert seen[:6] == 2 * [plain, changed, plain]  # anew and cached: base, student, base for its guard
    assert plain != changed


def test_ratios_are_to_the_base_of_the_same_mode_and_the_guard_delays_the_first_token():
    lm, guard = tiny_model(), Reading()
    systems = [ModelSystem("base", lm), student_of(lm, LAYOUT)]
    found = {t.system: t for t in time_systems(systems, guard, [r.conversation for r in ROWS], 2, 5)}
    assert set(found) == {f"{s}_{m}" for s in ("base", "student", "guarded") for m in ("recomputed", "cached")}
    for mode in ("recomputed", "cached"):
        assert found[f"base_{mode}"].first_token_ratio == found[f"base_{mode}"].answer_ratio == 1
        base, guarded = found[f"base_{mode}"], found[f"guarded_{mode}"]
        assert all(first >= 20 for first in guarded.first_token_rounds_ms)  # the guard reads before anything is shown
        assert all(a < b for a, b in zip(base.first_token_rounds_ms, base.answer_rounds_ms, strict=True))
        ratios = [a / b for a, b in zip(guarded.answer_rounds_ms, base.answer_rounds_ms, strict=True)]
        assert guarded.answer_ratio == pytest.approx(sum(ratios) / 2, rel=1e-3)
    assert len(guard.read) == 2 * 3  # both modes, a round before the timed ones
    assert all(c.messages[-1].role == "assistant" for c in guard.read)


@pytest.fixture
def run(tmp_path, monkeypatch):
    lm = tiny_model()
    config = validate_config({"adapter": {"num_virtual_tokens": 16, "placement": LAYOUT}})
    made = RunDir.create(tmp_path / "run", resolved(config))
    SoftPrompt.create(config.adapter, lm, 0).save(made.path / "adapter", lm)
    made.write_text("operating_point.json", json.dumps({"threshold": 0.0}))
    made.finish_stage("train")
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(costing, "load_guard", lambda name: Reading())
    monkeypatch.setattr(costing, "own_prompts", lambda split: ROWS)
    return made.path


def silent(stage, done, total, figures):
    return None


def test_a_runs_report_counts_and_times_all_its_systems(run):
    report = costing.run_costs(run, 1, 4, silent)
    assert report.added["student"] == {"front": 12, "after": 4, "held": 0, "weights": 0}
    assert report.added["system_prompt"]["front"] > 100  # bytes of the default system prompt
    assert [s.system for s in report.systems][:3] == ["base", "guarded", "guarded_model_size"]
    base, student = report.system("base"), report.system("student_cached")
    assert student.parameters - base.parameters == 16 * 32
    assert base.at(512).total < student.at(512).total < report.system("student_recomputed").at(512).total
    assert {t.system.rsplit("_", 1)[0] for t in report.timings} == {"base", "student", "system_prompt", "guarded"}
    assert report.provenance["threads"] == torch.get_num_threads()
    assert type(report).model_validate_json(report.model_dump_json()) == report


def test_without_rounds_nothing_is_timed_and_an_unknown_guard_is_not_counted(run, monkeypatch):
    monkeypatch.setattr(costing, "load_guard", lambda name: KeywordGuard())
    monkeypatch.setattr(costing, "time_systems", lambda *given: pytest.fail("timed"))
    report = costing.run_costs(run, 0, 4, silent)
    assert not report.timings
    assert report.timed == ""
    assert "guarded" not in [s.system for s in report.systems]
    assert any("keyword" in limit and "not counted" in limit for limit in report.limits)


def test_a_configuration_gives_the_same_count_as_the_model(tmp_path):
    lm = tiny_model()
    lm.network.config.to_json_file(tmp_path / "config.json")
    for name in (tmp_path, tmp_path / "config.json"):
        report = costing.config_costs(str(name), virtual_tokens=3, system_tokens=5, weight_bits=4.5, answer_tokens=9)
        assert report.system("base").parameters == lm.num_parameters()
        assert report.system("base").weights_bytes == round(lm.num_parameters() * 4.5 / 8)
        assert report.system("student_cached").parameters == lm.num_parameters() + 3 * 32
    with pytest.raises(ConfigError, match=r"llama-3\.2-1b"):
        costing.config_costs("nothing", virtual_tokens=3, system_tokens=5, weight_bits=4, answer_tokens=9)


def test_a_conversation_with_the_users_own_system_turn_adds_as_much():
    lm = tiny_model()
    prompted = ModelSystem("system_prompt", lm, system_prompt="be careful")
    added = costing.added_by(prompted, lm)
    plain, longer = (len(s.prompt_ids(Conversation.from_prompt("z"))) for s in (ModelSystem("plain", lm), prompted))
    assert (added.front, added.after) == (longer - plain, 0)
