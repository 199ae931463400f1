"""One suite over every adapter on tiny models of several architectures.

The shapes: Llama (plain), Qwen2 (biases), Gemma 2 and 3 (windows, scaled embeddings, soft caps), GPT-2 (absolute positions,
transposed weights), Phi-3 (one window for all layers, fused projections). Each of them again with linear layers in 4 bits.
"""

from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
import torch
from pydantic import BaseModel

from softguard.adapters import ADAPTERS
from softguard.adapters.difference_of_means import DifferenceOfMeansConfig
from softguard.adapters.kv_prefix import KVPrefixConfig
from softguard.adapters.lora import LoraConfig
from softguard.adapters.refusal_gate import RefusalGateConfig
from softguard.adapters.soft_prompt import SoftPromptConfig
from softguard.adapters.steering_vector import SteeringVectorConfig
from softguard.core import Conversation
from softguard.errors import CompatibilityError, RunError
from softguard.models import ChatRenderer, refusal_log_odds, response_states, sample, unpacked, use_kernel
from softguard.models.shared_prefix import SHORTEST
from tests.fakes import tiny_model

KINDS = ["llama", "qwen2", "gemma2", "gemma3", "gpt2", "phi3"]
CONFIGS: dict[str, BaseModel] = {
    "front": SoftPromptConfig(num_virtual_tokens=4),
    "after_bos": SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "after_bos", "count": 4}]),
    "after_user": SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "after_user", "count": 4}]),
    "after_header": SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "after_header", "count": 4}]),
    "system": SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "system", "count": 4}]),
    "split": SoftPromptConfig(
        num_virtual_tokens=4, placement=[{"slot": "front", "count": 3}, {"slot": "after_user", "count": 1}]
    ),
    "lora": LoraConfig(rank=2),
    "steering_vector": SteeringVectorConfig(layer=0),
    "difference_of_means": DifferenceOfMeansConfig(layer=0),
    "kv_prefix": KVPrefixConfig(num_positions=4),
    "refusal_gate": RefusalGateConfig(),
    "gate_and_prompt": RefusalGateConfig(soft_prompt=SoftPromptConfig(num_virtual_tokens=4)),
    "gate_and_header": RefusalGateConfig(
        soft_prompt=SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "after_header", "count": 4}])
    ),
}
every_adapter = pytest.mark.parametrize("name", CONFIGS)
with_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
with_compiler = pytest.mark.skipif(not which("g++") and not which("clang++"), reason="nothing compiles here")
QUANTISED = [pytest.param(f"{kind}-nf4", marks=with_bitsandbytes) for kind in KINDS]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_base = pytest.mark.parametrize("kind", [*KINDS, *QUANTISED])
GREEDY = {"max_new_tokens": 6, "temperature": 0.0, "seed": 0, "refusal_token": 9}


def model(kind="llama", name="", **options):
    """Return a tiny model; one with a BOS where the adapter stands after it."""
    return tiny_model(kind, bos=name == "after_bos", **options)


def make(lm, name, trained=True):
    """Return an adapter, its parameters moved away from where it starts: a LoRA begins as nothing at all."""
    adapter = ADAPTERS.get(CONFIGS[name].kind).create(CONFIGS[name], lm, seed=0)
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in adapter.parameters():
                p += 0.5 * torch.randn(p.shape, generator=generator)
    return adapter


def rendered(lm, text="hello"):
    return ChatRenderer(lm.tokenizer).render(Conversation.from_prompt(text))


def logits(lm, adapter, texts=("hello",), response=(5, 6, 7)):
    """Return the student's logits along a refusal of the ids `response`, in each of the texts."""
    prompts = [adapter.extend(rendered(lm, t)) for t in texts]
    said = adapter.refusal(lm, response)
    with adapter.attach(lm) as student:
        states = response_states(student, prompts, [said] * len(prompts), adapter.virtual_tokens()).states
    return lm.head(states)


@every_adapter
@pytest.mark.parametrize("kernel", ["grouped", pytest.param("fused", marks=with_compiler)])
def test_packed_sequences_are_those_side_by_side(kernel, name):
    """Of unlike lengths, sharing their first ids, with the gradient of what is learned."""
    found = {}
    for chosen in ("eager", kernel):
        lm = model(name=name)
        use_kernel(lm.network, chosen)
        adapter = make(lm, name)
        out = logits(lm, adapter, ("hello", "hello you", "hello to all of you who are here", "hello"))
        learned = [p for p in adapter.parameters() if p.requires_grad]
        found[chosen] = (
            [out.detach(), *torch.autograd.grad(out.square().mean(), learned, allow_unused=True)] if learned else [out]
        )
    for one, other in zip(found["eager"], found[kernel], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def base_logits(lm, ids, response=(5, 6, 7)):
    return lm.head(response_states(lm, [list(ids)], [list(response)]).states)


def hooks(lm):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.network.modules()]


def test_the_suite_knows_every_adapter():
    assert {config.kind for config in CONFIGS.values()} == set(ADAPTERS)


@every_base
@every_adapter
def test_only_the_adapter_learns_and_the_base_stays_as_it_was(kind, name):
    lm = model(kind, name)
    before = {k: v.clone() for k, v in lm.network.state_dict().items()}
    modules = [(n, type(m)) for n, m in lm.network.named_modules()]
    ids = rendered(lm).ids
    base, before_hooks = base_logits(lm, ids), hooks(lm)
    adapter = make(lm, name)
    found = logits(lm, adapter)
    found.log_softmax(-1)[:, 3].sum().backward()
    assert all(p.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in adapter.parameters())
    assert all(p.grad is None and not p.requires_grad for p in lm.network.parameters())
    after = lm.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in after.items())
    assert [(n, type(m)) for n, m in lm.network.named_modules()] == modules
    assert hooks(lm) == before_hooks
    assert torch.equal(base_logits(lm, ids), base)
    assert found.shape != base.shape or not torch.allclose(found, base, atol=1e-3)
    assert adapter.num_parameters == sum(p.numel() for p in adapter.parameters())
    with adapter.attach(lm) as student:
        added = len(adapter.extend(rendered(lm))) - len(ids) + student.prefix_positions
    assert adapter.num_prefix_positions == added


@every_adapter
def test_the_base_comes_back_after_an_error(name):
    lm = model(name=name)
    ids = rendered(lm).ids
    base, adapter = base_logits(lm, ids), make(lm, name)
    with pytest.raises(KeyError), adapter.attach(lm):
        raise KeyError
    assert torch.equal(base_logits(lm, ids), base)


@every_base
@every_adapter
def test_batch_padding_and_cache_do_not_matter(kind, name):
    """Left-padded cached decoding draws what right-padded uncached scoring says is most likely, alone or in a batch."""
    lm = model(kind, name)
    adapter = make(lm, name)
    prompts = [adapter.extend(rendered(lm, t)) for t in ("a", "a much longer request", "bcd")]
    virtual = adapter.virtual_tokens()
    with adapter.attach(lm) as student:
        together = sample(student, prompts, ["1", "2", "3"], virtual_tokens=virtual, **GREEDY)
        for prompt, generation in zip(prompts, together, strict=True):
            alone = sample(student, [prompt], ["x"], virtual_tokens=virtual, **GREEDY)[0]
            assert alone.ids == generation.ids
            assert alone.refusal_log_odds == pytest.approx(generation.refusal_log_odds, abs=1e-4)
            states = response_states(student, [prompt], [generation.ids], virtual).states
            assert lm.head(states).argmax(-1).tolist() == list(generation.ids)


@every_base
@every_adapter
def test_what_is_drawn_at_temperature_1_has_the_probability_that_scoring_gives_it(kind, name):
    lm = model(kind, name)
    adapter = make(lm, name)
    prompts, virtual = [adapter.extend(rendered(lm, t)) for t in ("a", "a much longer request", "bcd")], adapter.virtual_tokens()
    settings = {**GREEDY, "temperature": 1.0, "virtual_tokens": virtual, "keep_states": True}
    with adapter.attach(lm) as student:
        drawn = sample(student, prompts, ["1", "2", "3"], **settings)
        for prompt, key, generation in zip(prompts, "123", drawn, strict=True):
            assert sample(student, [prompt], [key], **settings)[0].ids == generation.ids
            states = response_states(student, [prompt], [generation.ids], virtual).states
            scores = lm.head(states).log_softmax(-1)[range(len(generation.ids)), list(generation.ids)]
            assert generation.log_prob == pytest.approx(scores.sum().item(), abs=1e-3)


@pytest.mark.parametrize("kind", QUANTISED)
@every_adapter
def test_gradients_through_4_bits_are_those_through_the_unpacked_weights(kind, name):
    """After sampling, as a student's are: some processors have another layout for passes without a gradient."""
    lm = model(kind, name)
    same = model(kind.removesuffix("-nf4"), name, width=lm.width)
    object.__setattr__(same, "fingerprint", lm.fingerprint)
    for path, layer in lm.network.named_modules():
        if getattr(getattr(layer, "weight", None), "quant_state", None) is not None:
            held, weight = same.network.get_submodule(path), unpacked(layer)
            held.weight.copy_(weight.T if type(held).__name__ == "Conv1D" else weight)
    adapter, texts, found = make(lm, name), ("one request", "another"), []
    prompts = [adapter.extend(rendered(lm, t)) for t in texts]
    with adapter.attach(lm) as student:
        sample(student, prompts, ["1", "2"], virtual_tokens=adapter.virtual_tokens(), **GREEDY)
    for one in (lm, same):
        for p in adapter.parameters():
            p.grad = None
        scores = logits(one, adapter, texts).log_softmax(-1)
        scores[:, 3].sum().backward()
        found.append((scores.detach(), torch.cat([p.grad.flatten() for p in adapter.parameters()])))
    (ours, gradient), (expected, expected_gradient) = found
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)
    assert gradient.norm() > 0
    assert (gradient - expected_gradient).norm() <= 1e-3 * expected_gradient.norm()


@every_kind
@every_adapter
def test_gradients_are_those_of_differences_and_the_sum_over_rows(kind, name):
    """Along the gradient itself, in a float64 model; in a batch, where rows share a prefix, as one by one."""
    lm = model(kind, name, dtype=torch.float64)
    adapter = make(lm, name)
    texts = ("one request", "another", "a third one")

    def loss(*given):
        return logits(lm, adapter, given).log_softmax(-1)[:, 3].sum()

    def gradient(*rows):
        for p in adapter.parameters():
            p.grad = None
        for row in rows:
            loss(*row).backward()
        return torch.cat([p.grad.flatten() for p in adapter.parameters()])

    together = gradient(texts)
    torch.testing.assert_close(gradient(*[(t,) for t in texts]), together, rtol=1e-3, atol=1e-4 * together.abs().max().item())
    step, start = 1e-3 * together / together.norm(), torch.nn.utils.parameters_to_vector(adapter.parameters()).detach()
    values = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(start + sign * step, adapter.parameters())
        values.append(loss(*texts).item())
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(together.norm().item(), rel=0.02)


@every_base
@every_adapter
def test_what_prompts_share_is_run_under_the_adapter(kind, name):
    lm = model(kind, name)
    adapter = make(lm, name)
    texts = ("one request", "another", "a third one")
    shared = [adapter.extend(rendered(lm, t)) for t in texts]
    assert len({tuple(p[:SHORTEST]) for p in shared}) == 1  # there is a prefix worth a pass of its own
    alone = torch.cat([logits(lm, adapter, [t]) for t in texts])
    assert torch.allclose(logits(lm, adapter, texts), alone, atol=2e-4)


@every_base
@every_adapter
def test_save_and_load_give_the_same_logits(kind, name, tmp_path: Path):
    lm = model(kind, name)
    adapter = make(lm, name)
    adapter.save(tmp_path, lm)
    loaded = type(adapter).load(tmp_path)
    assert loaded.config == adapter.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), adapter.parameters(), strict=True))
    assert torch.equal(logits(lm, loaded), logits(lm, adapter))
    loaded.save(tmp_path / "again", lm)
    for file in tmp_path.glob("*.*"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    assert all(p.device.type == "meta" for p in type(adapter).load(tmp_path, "meta").parameters())


@every_adapter
def test_masters_are_float32_under_a_bfloat16_base(name):
    lm = model(name=name, dtype=torch.bfloat16)
    adapter = make(lm, name)
    prompt = adapter.extend(rendered(lm))
    with adapter.attach(lm) as student:
        states = response_states(student, [prompt], [[5, 6]], adapter.virtual_tokens()).states
        assert sample(student, [prompt] * 2, ["1", "2"], virtual_tokens=adapter.virtual_tokens(), **GREEDY)
    assert states.dtype == torch.bfloat16
    states.float().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in adapter.parameters())


@every_adapter
def test_wrong_base_and_broken_files_are_errors(name, tmp_path: Path):
    lm = model(name=name)
    adapter = make(lm, name)
    with pytest.raises(CompatibilityError, match="base model"), adapter.attach(model(name=name, seed=1)):
        pass
    with pytest.raises(RunError):
        type(adapter).load(tmp_path)
    adapter.save(tmp_path, lm)
    other = SoftPromptConfig(num_virtual_tokens=3) if name == "lora" else LoraConfig()
    ADAPTERS.get(other.kind).create(other, lm, 0).save(tmp_path / "other", lm)
    whole = (tmp_path / "adapter_model.safetensors").read_bytes()
    for content in (b"cut", (tmp_path / "other" / "adapter_model.safetensors").read_bytes()):
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(RunError):
            type(adapter).load(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(whole)
    (tmp_path / "softguard_adapter.json").write_text("[]")
    with pytest.raises(RunError):
        type(adapter).load(tmp_path)


@every_adapter
def test_same_seed_same_start(name):
    lm = model(name=name)
    state = torch.get_rng_state()
    pairs = zip(make(lm, name, trained=False).parameters(), make(lm, name, trained=False).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(torch.get_rng_state(), state)  # nor is anybody else's randomness moved


@every_base
@pytest.mark.parametrize("name", ["lora", "steering_vector", "difference_of_means"])
def test_what_adds_to_the_network_begins_as_the_base_model(kind, name):
    lm = model(kind, name)
    assert torch.allclose(logits(lm, make(lm, name, trained=False)), base_logits(lm, rendered(lm).ids), atol=1e-5)


@pytest.mark.parametrize("name", ["lora", "kv_prefix", "front"])
@every_base
def test_peft_loads_it(kind, name, tmp_path: Path):
    from peft import PeftModel

    lm = model(kind, name)
    adapter = make(lm, name)
    adapter.save(tmp_path, lm)
    ours = logits(lm, adapter, response=(0,))
    ids = torch.tensor([rendered(lm).ids])
    peft = PeftModel.from_pretrained(lm.network, tmp_path)
    with torch.no_grad():
        theirs = peft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
    assert torch.allclose(ours, theirs, atol=1e-4)


@every_base
def test_refusal_log_odds_of_a_student_agree_with_its_sampling(kind):
    for name in CONFIGS:
        lm = model(kind, name)
        adapter = make(lm, name)
        prompts = [adapter.extend(rendered(lm, t)) for t in ("a", "bcd")]
        with adapter.attach(lm) as student:
            scored = refusal_log_odds(student, prompts, 9, adapter.virtual_tokens())
            drawn = sample(student, prompts, ["1", "2"], virtual_tokens=adapter.virtual_tokens(), **GREEDY)
        assert scored == pytest.approx([g.refusal_log_odds for g in drawn], abs=1e-4)
