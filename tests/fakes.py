"""Fakes for tests, ours and our users': a guard by keyword, a scripted system, a byte tokenizer and tiny random models.

Real objects with small insides, not mocks.
"""

from collections.abc import Sequence
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from softguard.core import Conversation, Verdict
from softguard.models import LanguageModel
from softguard.models.quantisation import NF4, loading_options, settle

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nhelp<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of 256 bytes and two turn tokens, with a ChatML template; `bos` puts a token of its own before it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    if bos:
        tokenizer.add_special_tokens({"bos_token": "<bos>"})
        tokenizer.chat_template = "<bos>" + CHATML
    return tokenizer


_SIZES: dict = {
    "vocab_size": 258,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}


def tiny_model(
    kind: str = "llama",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    window: int = 512,
    bos: bool = False,
    width: int | None = None,
) -> LanguageModel:
    """Return a two-layer random model of an architecture: llama, qwen2, gemma2, gemma3, mistral, phi3 or gpt2.

    `llama-nf4` and the like hold its linear layers in 4 bits; the width is then 64, a block of them, and 32 otherwise.
    """
    name, (kind, _, held) = kind, kind.partition("-")
    torch.manual_seed(seed)
    width = width or (64 if held == NF4 else 32)
    sizes = {**_SIZES, "vocab_size": 259 if bos else 258, "hidden_size": width}
    heads = {"num_key_value_heads": 2, "head_dim": width // 4}
    if kind == "llama":
        network = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, tie_word_embeddings=True))
    elif kind == "qwen2":
        network = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2))
    elif kind == "gemma2":
        config = Gemma2Config(**sizes, **heads, sliding_window=window)
        network = Gemma2ForCausalLM._from_config(config, attn_implementation="eager")  # sdpa would leave out its soft cap
    elif kind == "gemma3":
        network = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **heads, sliding_window=window))
    elif kind == "mistral":
        network = MistralForCausalLM(MistralConfig(**sizes, num_key_value_heads=2, sliding_window=window))
    elif kind == "phi3":
        network = Phi3ForCausalLM(Phi3Config(**sizes, num_key_value_heads=2, sliding_window=window, pad_token_id=0))
    elif kind == "gpt2":
        network = GPT2LMHeadModel(
            GPT2Config(vocab_size=sizes["vocab_size"], n_embd=width, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2)
        )
    else:
        raise ValueError(kind)
    network = network.eval().requires_grad_(False).to(dtype)
    network = quantised(network) if held == NF4 else network
    return LanguageModel(network, byte_tokenizer(bos), f"tiny-{name}", f"fingerprint-{name}-{seed}", "Apache-2.0")


def quantised(network: PreTrainedModel) -> PreTrainedModel:
    """Return a network with its linear layers in 4 bits (`models.quantisation`)."""
    with TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        how = {"dtype": network.dtype, "attn_implementation": network.config._attn_implementation, "local_files_only": True}
        made = type(network).from_pretrained(folder, **how, **loading_options(NF4, network.dtype, "cpu"))
    settle(made)
    return made.eval().requires_grad_(False)


class KeywordGuard:
    """Calls a pair unsafe when the prompt has the word and the response is not a refusal."""

    name = "keyword"
    fingerprint = "keyword-1"

    def __init__(self, word: str = "bomb") -> None:
        self._word = word

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return p_safe 0 or 1."""
        unsafe = [self._word in c.prompt and "Sorry" not in c.response for c in conversations]
        return [Verdict(p_safe=0.0 if u else 1.0) for u in unsafe]
