"""The model families of the paper and of ours, as tiny models of the same classes loaded from a folder: configuration, template,
special tokens, windows, BOS.

Templates and token names are written after those that the families publish; the weights are random.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from softguard.adapters import ADAPTERS
from softguard.adapters.lora import LoraConfig
from softguard.adapters.soft_prompt import SoftPromptConfig
from softguard.core import Conversation, ReplySettings
from softguard.errors import CompatibilityError, DataError
from softguard.export.chat_template import bake_template, check_template
from softguard.models import ChatRenderer, LanguageModel, load_model, response_states, sample
from softguard.models.attention import layer_windows
from softguard.recipes.student import ModelSystem

QWEN = (
    "{% if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n"
    "{% else %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role != 'system' %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% set system = messages[0].content | trim if messages[0].role == 'system' else '' %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: a fixed day\n\n{{ system }}<|eot_id|>"
    "{% for m in messages %}{% if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SMOLLM = QWEN.replace("You are a helpful assistant.", "You are a helpful AI assistant named SmolLM, trained by Hugging Face")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
SIZES: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"initializer_range": 0.2, "max_position_embeddings": 256},
}
HEADS = {"head_dim": 8}
ROPE3 = {
    **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 64,
}
FULL = (None,) * 4
GEMMA3_LAYERS = [*["sliding_attention"] * 3, "full_attention"]
NO_SYSTEM = frozenset({"front", "after_bos", "after_user", "after_header"})


@dataclass(frozen=True)
class Family:
    """`stops`: what its generation config lists; `writes_bos`: its tokenizer puts a BOS before whatever it is given."""

    build: Callable[[int], Any]
    template: str
    tokens: tuple[str, ...]
    bos: str | None
    eos: str
    turn_end: str
    stops: tuple[str, ...]
    windows: tuple[int | None, ...] = FULL
    opening: str = ""
    header: str = "<|im_start|>assistant\n"
    takes_system: bool = True
    slots: frozenset[str] = field(default=NO_SYSTEM | {"system"})
    writes_bos: bool = False


def family(model: type, config: type, **settings: Any) -> Callable[[int], Any]:
    return lambda size: model(config(vocab_size=size, pad_token_id=0, **{**SIZES, **settings}))


_CHATML = ("<|im_end|>", "<|im_end|>", ("<|im_end|>", "<|endoftext|>"))
FAMILIES = {
    # A window that is configured and not used, as Qwen 2 and 2.5 ship.
    "qwen2.5": Family(
        family(Qwen2ForCausalLM, Qwen2Config, sliding_window=16, use_sliding_window=False, tie_word_embeddings=True),
        QWEN, CHATML_TOKENS, None, *_CHATML, opening="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    ),
    "qwen3": Family(
        family(Qwen3ForCausalLM, Qwen3Config, **HEADS), QWEN3, CHATML_TOKENS, None, *_CHATML,
        header="<|im_start|>assistant\n<think>\n\n</think>\n\n", slots=NO_SYSTEM,
    ),
    "llama3.2": Family(
        family(LlamaForCausalLM, LlamaConfig, rope_parameters=ROPE3, tie_word_embeddings=True),
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        header="<|start_header_id|>assistant<|end_header_id|>\n\n", writes_bos=True,
    ),
    "gemma2": Family(
        family(Gemma2ForCausalLM, Gemma2Config, **HEADS, sliding_window=24), GEMMA, GEMMA_TOKENS, "<bos>", "<eos>",
        "<end_of_turn>", ("<eos>",), (24, None, 24, None), header="<start_of_turn>model\n", takes_system=False,
        slots=NO_SYSTEM, writes_bos=True,
    ),
    "gemma3": Family(
        family(Gemma3ForCausalLM, Gemma3TextConfig, **HEADS, sliding_window=24, layer_types=GEMMA3_LAYERS),
        GEMMA, GEMMA_TOKENS, "<bos>", "<eos>", "<end_of_turn>", ("<eos>", "<end_of_turn>"), (24, 24, 24, None),
        header="<start_of_turn>model\n", takes_system=False, slots=NO_SYSTEM, writes_bos=True,
    ),
    "phi3": Family(
        family(Phi3ForCausalLM, Phi3Config, sliding_window=24), PHI3,
        ("<|endoftext|>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), "<s>", "<|endoftext|>", "<|end|>",
        ("<|endoftext|>", "<|end|>"), (24,) * 4, header="<|assistant|>\n", slots=NO_SYSTEM,
    ),
    "smollm2": Family(
        family(LlamaForCausalLM, LlamaConfig, tie_word_embeddings=True), SMOLLM, CHATML_TOKENS, "<|im_start|>", *_CHATML,
        opening="<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
    ),
}  # fmt: skip
each = pytest.mark.parametrize("name", FAMILIES)
PROMPT = Conversation.from_prompt("Name a river, please.")


def tokenizer_of(one: Family) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in one.tokens])
    if one.writes_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{one.bos} $A", special_tokens=[(one.bos, core.token_to_id(one.bos))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=one.bos, eos_token=one.eos)
    made.chat_template = one.template
    return made


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Models by name, each loaded from its folder as a user's is."""
    found: dict[str, LanguageModel] = {}

    def of(name: str) -> LanguageModel:
        if name not in found:
            one, folder = FAMILIES[name], tmp_path_factory.mktemp(name.replace(".", ""))
            tokenizer = tokenizer_of(one)
            torch.manual_seed(0)
            network = one.build(len(tokenizer))
            stops = [int(i) for i in tokenizer.convert_tokens_to_ids(list(one.stops))]
            network.generation_config = GenerationConfig(eos_token_id=stops)
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            found[name] = load_model(str(folder), dtype=torch.float32, device="cpu")
        return found[name]

    return of


@each
def test_what_is_rendered_is_the_template_with_one_bos(loaded, name):
    one, lm = FAMILIES[name], loaded(name)
    prompt = ChatRenderer(lm.tokenizer).render(PROMPT)
    text = lm.tokenizer.decode(prompt.ids)
    assert "Name a river, please." in text
    assert text.startswith(one.opening)
    assert text.endswith(one.header)
    if one.bos and (one.bos in one.template or "{{ bos_token }}" in one.template):
        bos = lm.tokenizer.bos_token_id
        in_turns = one.bos == "<|im_start|>"  # SmolLM2's BOS opens every turn
        assert prompt.ids.count(bos) == (3 if in_turns else 1)
        assert prompt.slots["after_bos"] == (0 if in_turns else 1)
    assert set(prompt.slots) == one.slots
    assert lm.tokenizer.decode(prompt.ids[prompt.slots["after_user"] :]) == one.header
    assert prompt.insert([("after_header", 2)]) == [*prompt.ids, -1, -2]


@each
def test_a_turn_ends_with_the_token_of_the_template_and_answers_with_any_that_is_configured(loaded, name):
    one, lm = FAMILIES[name], loaded(name)
    ids = lm.tokenizer.convert_tokens_to_ids
    assert lm.turn_end_id == ids(one.turn_end)
    assert lm.stop_ids == {ids(t) for t in (*one.stops, one.turn_end, one.eos)}


@each
def test_a_system_turn_is_taken_or_refused_in_words(loaded, name):
    one, renderer = FAMILIES[name], ChatRenderer(loaded(name).tokenizer)
    asked = Conversation.from_prompt("Name a river.", system="Be brief.")
    if not one.takes_system:
        with pytest.raises(DataError, match="chat template takes"):
            renderer.render(asked)
        return
    text = loaded(name).tokenizer.decode(renderer.render(asked).ids)
    assert "Be brief." in text
    assert "helpful" not in text


@each
def test_our_system_prompt_is_read_by_every_family_before_the_request(loaded, name):
    """Gemma 2 raises on a system turn: its user turn begins with the text instead."""
    one, lm = FAMILIES[name], loaded(name)
    prompted = ModelSystem("system_prompt", lm, system_prompt="Refuse harm.")
    text = lm.tokenizer.decode(prompted.prompt_ids(PROMPT))
    assert text.endswith(one.header)
    before, asked, _ = text.partition("Name a river, please.")
    assert asked
    if one.takes_system:
        assert "system" in before.partition("Refuse harm.")[0]
    else:
        assert before == "<bos><start_of_turn>user\nRefuse harm.\n\n"
    assert "Refuse harm." in before
    assert "helpful" not in before
    answer = prompted.respond([PROMPT], ["1"], ReplySettings(2))[0]
    assert not answer.ungraded
    plain = lm.tokenizer.decode(ModelSystem("base", lm).prompt_ids(PROMPT))
    assert "Refuse harm." not in plain


def test_where_no_system_turn_is_taken_ours_stands_before_the_first_users_with_the_conversations_own(loaded):
    turns = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello."), ("user", "More.")]
    conversation = Conversation.from_dicts([{"role": r, "content": c} for r, c in turns])
    prompted = ModelSystem("system_prompt", loaded("gemma2"), system_prompt="Refuse harm.")
    text = prompted.lm.tokenizer.decode(prompted.prompt_ids(conversation))
    assert text.count("Refuse harm.") == 1
    assert "<start_of_turn>user\nRefuse harm.\n\nBe brief.\n\nHi.<end_of_turn>" in text


@each
def test_windows_are_those_of_the_configuration(loaded, name):
    lm = loaded(name)
    assert layer_windows(lm.network.config) == FAMILIES[name].windows
    assert lm.window == min((w for w in FAMILIES[name].windows if w), default=float("inf"))


@each
@pytest.mark.parametrize("adapter", ["front", "after_user", "after_header", "lora"])
def test_adapters_attach_and_cached_answers_are_the_networks_own(loaded, name, adapter):
    """Past the window: the prompt alone is longer."""
    lm = loaded(name)
    prompt = {"num_virtual_tokens": 3, "placement": [{"slot": adapter, "count": 3}]}
    config = LoraConfig() if adapter == "lora" else SoftPromptConfig.model_validate(prompt)
    made = ADAPTERS.get(config.kind).create(config, lm, 0)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    renderer = ChatRenderer(lm.tokenizer)
    prompts = [made.extend(renderer.render(Conversation.from_prompt(t))) for t in ("Hello.", "Name a river in the south.")]
    virtual = made.virtual_tokens()
    with made.attach(lm) as student, torch.no_grad():
        settings = {"max_new_tokens": 6, "temperature": 0.0, "seed": 0, "refusal_token": 9, "virtual_tokens": virtual}
        drawn = sample(student, prompts, ["1", "2"], **settings)
        for prompt, answer in zip(prompts, drawn, strict=True):
            states = response_states(student, [prompt], [answer.ids], virtual).states
            assert student.head(states).argmax(-1).tolist() == list(answer.ids)
            if adapter == "lora":
                logits = lm.network(input_ids=torch.tensor([[*prompt, *answer.ids]])).logits[0]
                assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(answer.ids)


@each
def test_a_place_that_a_family_lacks_is_an_error(loaded, name):
    lm = loaded(name)
    prompt = ChatRenderer(lm.tokenizer).render(PROMPT)
    if "system" not in FAMILIES[name].slots:
        with pytest.raises(CompatibilityError, match="slot 'system'"):
            prompt.insert([("system", 1)])
    else:
        assert -1 in prompt.insert([("system", 1)])


@each
@pytest.mark.parametrize("layout", [[("front", 2)], [("front", 1), ("after_user", 1)], [("after_header", 2)]])
def test_a_baked_template_renders_as_training_does(loaded, name, layout):
    """In families with a system turn: the probes of `check_template` have one. Qwen3's is told not to think aloud."""
    lm = loaded(name)
    if not FAMILIES[name].takes_system:
        return
    names = ["<|sg_0|>", "<|sg_1|>"]
    at = {slot: "".join(names[sum(n for _, n in layout[:i]) :][:count]) for i, (slot, count) in enumerate(layout)}
    check_template(bake_template(lm.tokenizer.chat_template, at, lm.tokenizer), lm.tokenizer, layout, names)
