"""A tiny random Qwen3Guard-Stream, written as its folder is: body and heads in one file, labels in config.json."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3Model

from tests.fakes import byte_tokenizer

RISKS = {"0": "Safe", "1": "Unsafe", "2": "Controversial"}
CATEGORIES = {"0": '"Violent"', "1": "PII"}
# What Qwen3's template makes of a conversation without tools that ends with an answer, in our own words.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{{ m['content'].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
)


def write_tiny_stream(folder: Path, context: int = 16_384) -> Path:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
        max_position_embeddings=context,
    )
    tensors = {f"model.{k}": v for k, v in Qwen3Model(config).state_dict().items()}
    for prefix, categories in (("", 2), ("query_", 3)):
        tensors[f"{prefix}risk_level_category_pre.weight"] = torch.randn(16, 32)
        tensors[f"{prefix}risk_level_category_layernorm.weight"] = torch.rand(16) + 0.5
        tensors[f"{prefix}risk_level_head.weight"] = torch.randn(3, 16)
        tensors[f"{prefix}category_head.weight" if not prefix else "query_category_head.weight"] = torch.randn(categories, 16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    fields = config.to_dict() | {
        "architectures": ["Qwen3ForGuardModel"],
        "auto_map": {"AutoModel": "modeling_qwen3_guard.Qwen3ForGuardModel"},
        "dtype": "float32",
        "guard_inner_size": 16,
        "response_risk_level_map": RISKS,
        "query_risk_level_map": RISKS,
        "response_category_map": CATEGORIES,
        "query_category_map": CATEGORIES | {"2": "Jailbreak"},
    }
    (folder / "config.json").write_text(json.dumps(fields))
    # Were it run, the tests would end here.
    (folder / "modeling_qwen3_guard.py").write_text("raise SystemExit('code that came with weights was run')\n")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder
