"""From a source to a frozen model. A GGUF file is dequantised once and kept as safetensors in the cache."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from softguard.errors import CompatibilityError, SourceError
from softguard.models.attention import FUSED, GROUPED, attention_for
from softguard.models.fused import fuse
from softguard.models.hardware import fast_dtype
from softguard.models.language_model import LanguageModel
from softguard.models.quantisation import NONE, Quantisation, check_quantisation, loading_options, settle
from softguard.sources import Source, cache_dir, resolve

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""No network, and no code that comes with a model: where this is unset, transformers asks."""


def load_model(
    reference: str,
    *,
    dtype: torch.dtype | None = None,
    attention: str = GROUPED,
    device: str | None = None,
    quantisation: Quantisation = "none",
    chat_template: str = "",
) -> LanguageModel:
    """Return the model that `reference` names, frozen, in evaluation mode.

    Args:
        reference: a short name, `hf:...`, `pypi:...`, a folder or a `.gguf` file (see `softguard.sources`).
        dtype: of the weights; None takes `hardware.fast_dtype`.
        attention: "grouped" (`models.attention`), "fused" (`models.fused`), "eager" or "sdpa", whose CPU kernel is slow
            backwards on short sequences.
        device: None chooses CUDA, then Apple's MPS, then the CPU.
        quantisation: "nf4" holds the linear layers of a Hugging Face model in 4 bits (`models.quantisation`).
        chat_template: Jinja text, of a model that has none of its own.

    Raises:
        SourceError: the source cannot be had or holds no causal LM.
        CompatibilityError: it does more to its logits than we know of, cannot be quantised, or has a template of its own.
        ConfigError: it is to be quantised and bitsandbytes is not installed.
    """
    device = device or best_device()
    dtype = dtype or fast_dtype(device)
    check_quantisation(quantisation, dtype)
    source = resolve(reference)
    if quantisation != NONE and source.kind == "gguf":
        found, todo = "a GGUF file, whose own are what the device runs", "leave model.quantisation at none"
        raise CompatibilityError("weights that are not quantised yet", found, todo)
    folder = _dequantised(source) if source.kind == "gguf" else source.path
    try:
        config: Any = AutoConfig.from_pretrained(folder, **_LOCAL)
        kernel = attention_for(config, attention)
        how: dict[str, Any] = {"dtype": dtype, "attn_implementation": kernel, "use_safetensors": True, **_LOCAL}
        how |= loading_options(quantisation, dtype, device)
        network: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, **how)
        tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError("a causal language model with its tokenizer", str(error)[:200], "check the reference") from error
    network = network.eval().requires_grad_(False).to(device)
    if kernel == FUSED:
        fuse(network)
    packed = quantisation != NONE
    if packed:
        settle(network)
    made_of = f"{source.sha256}|{dtype}{f'|{quantisation}' if packed else ''}"
    if chat_template:
        if getattr(tokenizer, "chat_template", None):
            raise CompatibilityError("a model without a chat template", "one with its own", "leave model.chat_template empty")
        tokenizer.chat_template = chat_template
        made_of += f"|{chat_template}"
    fingerprint = hashlib.sha256(made_of.encode()).hexdigest()
    lm = LanguageModel(network, tokenizer, reference, fingerprint, source.licence)
    _check_head(lm)
    return lm


@torch.inference_mode()
def _check_head(lm: LanguageModel) -> None:
    """Raise where the model does more to its logits than `LanguageModel.output_head` knows: every figure would be wrong."""
    ids = torch.arange(4, device=lm.device)[None]
    whole = lm.network(input_ids=ids).logits[0].float()
    ours = lm.head(lm.body(input_ids=ids).last_hidden_state[0])
    gap, size = float((whole - ours).abs().max()), float(whole.abs().max())
    if not gap <= 0.02 * size + 1e-3:
        found = f"logits that differ by {gap:.3g} from those of {type(lm.network).__name__}"
        raise CompatibilityError("a model whose logits are its head's, scaled or bounded at most", found, "choose another model")


def read_config(source: Source) -> dict[str, Any]:
    """Return the fields of a source's configuration, as in a `config.json`; no weights are read.

    Raises:
        SourceError: it has none that transformers knows.
    """
    made = cache_dir() / "dequantised" / source.sha256
    packed = source.kind == "gguf" and not (made / "config.json").exists()
    folder = source.path.parent if packed else made if source.kind == "gguf" else source.path
    try:
        config: Any = AutoConfig.from_pretrained(folder, **({"gguf_file": source.path.name} if packed else {}), **_LOCAL)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError("the configuration of a causal LM", str(error)[:200], "check the reference") from error
    fields: dict[str, Any] = config.get_text_config().to_dict()
    return fields


def best_device() -> str:
    """Return CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dequantised(source: Source) -> Path:
    """Return the folder of safetensors made from a GGUF file, written once.

    transformers loads GGUF packed: training through packed weights is ten times slower and they cannot be saved, hence
    `GgufConfig(dequantize=True)` and the cleared quantisation config.
    """
    target = cache_dir() / "dequantised" / source.sha256
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not (target / "config.json").exists():
            _dequantise(source, target)
    return target


def _dequantise(source: Source, target: Path) -> None:
    """Write the folder; what a killed process left of it is cleared first, for nobody else holds its lock."""
    from transformers import GgufConfig

    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    where: dict[str, Any] = {"gguf_file": source.path.name, **_LOCAL}
    config = GgufConfig(dequantize=True)
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            source.path.parent, quantization_config=config, dtype=torch.bfloat16, **where
        )
        network.config.quantization_config = None
        network.hf_quantizer = None
        network.save_pretrained(partial)
        AutoTokenizer.from_pretrained(source.path.parent, **where).save_pretrained(partial)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SourceError("a GGUF file of a known architecture", str(error)[:200], "check the file") from error
    partial.rename(target)
