"""Language models as the rest of the house sees them: loading, chat templates, sampling, scoring.

One idea carries the adapters that add input vectors: in a sequence of token ids the number `-(k + 1)` stands for virtual
token k. Rendering, batching, sampling and scoring treat it as any id; only `LanguageModel.embed` looks it up elsewhere.
"""

from softguard.models.attention import use_kernel
from softguard.models.autotune import AUTO, Tuning, tune
from softguard.models.chat import ChatRenderer, RenderedPrompt
from softguard.models.hardware import fast_dtype, hardware_facts, processor_name, product_seconds
from softguard.models.language_model import ControlToken, DecisionRow, LanguageModel
from softguard.models.loading import best_device, load_model, read_config
from softguard.models.quantisation import NF4_BYTES, Quantisation, held_bytes, unpacked, weight_count
from softguard.models.sampling import Generation, sample
from softguard.models.scoring import ResponseStates, block_states, next_token_logits, refusal_log_odds, response_states
from softguard.models.shared_prefix import key_values
from softguard.models.streaming import KnownPrefix, stream

__all__ = [
    "AUTO",
    "NF4_BYTES",
    "ChatRenderer",
    "ControlToken",
    "DecisionRow",
    "Generation",
    "KnownPrefix",
    "LanguageModel",
    "Quantisation",
    "RenderedPrompt",
    "ResponseStates",
    "Tuning",
    "best_device",
    "block_states",
    "fast_dtype",
    "hardware_facts",
    "held_bytes",
    "key_values",
    "load_model",
    "next_token_logits",
    "processor_name",
    "product_seconds",
    "read_config",
    "refusal_log_odds",
    "response_states",
    "sample",
    "stream",
    "tune",
    "unpacked",
    "use_kernel",
    "weight_count",
]
