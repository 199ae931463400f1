"""`qwen3guard-stream`: Qwen3Guard-Stream (0.6B, 4B, 8B), which scores every token with heads of its own. Apache-2.0.

The published code comes with the weights and is never run here (`trust_remote_code`). What it computes is small and documented: a
Qwen3 body, and on its final states a projection, an RMS norm and linear heads for risk and category, one set for the user's turn
(`query_...`), one for the answer. Their weights are read from the safetensors files by name, their labels from `config.json`.

The authors call an answer unsafe at the first two tokens in a row whose likeliest risk is "Unsafe", else controversial by the
same rule. Ours is the soft form of the strict reading: p_safe = 1 - max over neighbours t, t+1 of min(q_t, q_t+1), with
q = 1 - P(Safe). One token's risk alone never decides. The prompt's risk is read at the end of its turn and is a category, as is
each category of the deciding token, times its q.

References:
    https://github.com/QwenLM/Qwen3Guard/blob/484cee6a2671a60b5e2e557710efed91a539c8a8/eval/eval_stream.py
    https://github.com/ye-NX/llama.cpp/blob/b354d7c9ecb76c97c07098617cdebbdfffa2583e/models/templates/Qwen-Qwen3-0.6B.jinja
    (a copy of Qwen3's chat template)
    Qwen3Guard Technical Report, arXiv 2510.14276, section 4
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from softguard.core import Conversation, Guard, Verdict
from softguard.errors import ConfigError, SourceError
from softguard.guards.judging import defused, why_ungraded
from softguard.guards.registry import GUARDS, SOURCES, is_url
from softguard.models import best_device, fast_dtype
from softguard.models.scoring import token_budget_batches
from softguard.sources import resolve

MAX_RESPONSE_TOKENS = 1024
_MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>")
_LAST_HEADER = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
_MAPS = ("response_risk_level_map", "response_category_map", "query_risk_level_map", "query_category_map")


def render(conversation: Conversation) -> tuple[str, str, str]:
    """Return the prompt in three pieces: up to the end of the last user turn, up to the answer, and the answer with what ends it.

    It is Qwen3's chat template with thinking disabled: the last assistant turn opens with an empty thought.
    """
    turns = [f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in conversation.messages[:-1]]
    before = "".join(turns)
    # Their template takes the newlines off the beginning of an answer.
    return before.removesuffix("\n"), "\n" + _LAST_HEADER, conversation.response.lstrip("\n") + "<|im_end|>\n"


class StreamHead(nn.Module):
    """Projection, RMS norm and the two linear heads, of one of the roles."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, eps: float) -> None:
        super().__init__()
        names = ("risk_level_category_pre", "risk_level_category_layernorm", "risk_level_head", "category_head")
        self.project, self.norm, self.risk, self.category = (nn.Parameter(tensors[f"{prefix}{n}.weight"]) for n in names)
        self._eps = eps

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities of risks and of categories, N x D -> N x K each, float32."""
        inner = (states.to(self.project.dtype) @ self.project.T).float()
        inner = nn.functional.rms_norm(inner, (len(self.norm),), self.norm.float(), self._eps)
        return (inner @ self.risk.float().T).softmax(-1), (inner @ self.category.float().T).softmax(-1)


@dataclass(frozen=True)
class _Encoded:
    """Ids of a pair, the place of the user turn's last token, and where the answer begins; `cut`: not all of it was taken."""

    ids: list[int]
    asked: int
    begins: int
    cut: bool


class Qwen3GuardStream:
    """The body with both heads, as a guard of whole answers."""

    def __init__(
        self, reference: str, name: str = "qwen3guard-stream", *, max_response_tokens: int = MAX_RESPONSE_TOKENS
    ) -> None:
        """Load body, heads and tokenizer.

        Raises:
            SourceError: they cannot be had, or these are no Qwen3Guard-Stream weights.
        """
        source = resolve(reference)
        self.name, self._max_response_tokens = name, max_response_tokens
        self._labels, eps, self._context = _settings(source.path)
        tensors = _head_tensors(source.path)
        self._body, self._tokenizer = _body(source.path)
        risks, categories, query_risks, query_categories = (self._labels[m] for m in _MAPS)
        self._answer = _checked(StreamHead(tensors, "", eps), risks, categories).to(self._body.device)
        self._prompt = _checked(StreamHead(tensors, "query_", eps), query_risks, query_categories).to(self._body.device)
        special = {t.content for t in self._tokenizer.added_tokens_decoder.values() if t.special}
        self._marks = frozenset(_MARKS) | special
        own = ("qwen3guard-stream-1", source.sha256, str(self._body.dtype), max_response_tokens)
        self.fingerprint = hashlib.sha256(repr(own).encode()).hexdigest()

    @property
    def num_parameters(self) -> int:
        """Body and heads."""
        return sum(p.numel() for part in (self._body, self._answer, self._prompt) for p in part.parameters())

    @property
    def category_names(self) -> frozenset[str]:
        """The categories of answers, "controversial" and "harmful_prompt"."""
        return frozenset(self._labels["response_category_map"]) | {"controversial", "harmful_prompt"}

    def prompts(self, conversation: Conversation) -> Mapping[str, str]:
        """Return what the model is given for a conversation: its text is defused."""
        return {"": "".join(render(defused(conversation, self._marks)))}

    def template_prompts(self, conversation: Conversation) -> Mapping[str, str]:
        """Return the same as the chat template that came with the weights renders it; nothing where they bring none."""
        if not getattr(self._tokenizer, "chat_template", None):
            return {}
        turns = [{"role": m.role, "content": m.content} for m in conversation.messages]
        options: dict[str, Any] = {"add_generation_prompt": False, "enable_thinking": False}
        return {"": str(self._tokenizer.apply_chat_template(turns, tokenize=False, **options))}

    @torch.inference_mode()
    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; scores are rounded to 5 digits (see `MiniGuard.judge`)."""
        verdicts = [Verdict(ungraded=why_ungraded(c) or "not judged") for c in conversations]
        rows: dict[int, _Encoded] = {}
        for i, conversation in enumerate(conversations):
            if why_ungraded(conversation) is not None:
                continue
            encoded = self._encode(conversation)
            if len(encoded.ids) <= self._context:
                rows[i] = encoded
            else:
                verdicts[i] = Verdict(ungraded=f"longer than the guard's {self._context:.0f} tokens", truncated=encoded.cut)
        order = list(rows)
        for batch in token_budget_batches([len(rows[i].ids) for i in order], 4096):
            part = [order[k] for k in batch]
            width = max(len(rows[i].ids) for i in part)
            # Padded on the right: the body is causal, so that what comes after a token cannot reach it.
            ids = torch.tensor([[*rows[i].ids, *[0] * (width - len(rows[i].ids))] for i in part], device=self._body.device)
            states = self._body(input_ids=ids, use_cache=False).last_hidden_state
            for row, i in zip(states, part, strict=True):
                verdicts[i] = self._verdict(row, rows[i])
        return verdicts

    def _encode(self, conversation: Conversation) -> _Encoded:
        asked, header, answer = render(defused(conversation, self._marks))
        encode = self._tokenizer
        first, middle = (encode(text, add_special_tokens=False)["input_ids"] for text in (asked, header))
        last = encode(answer, add_special_tokens=False)["input_ids"]
        cut = len(last) - 2 > self._max_response_tokens  # two tokens end it
        kept = last[: self._max_response_tokens] if cut else last
        return _Encoded([*first, *middle, *kept], len(first) - 1, len(first) + len(middle), cut)

    def _verdict(self, states: Tensor, row: _Encoded) -> Verdict:
        risk, category = self._answer(states[row.begins : len(row.ids)])
        risks = self._labels["response_risk_level_map"]
        q = 1.0 - risk[:, risks.index("Safe")]
        pairs = torch.minimum(q[:-1], q[1:]) if len(q) > 1 else q
        decides = int(pairs.argmax())
        second = min(decides + 1, len(q) - 1)
        worst = float(pairs[decides])
        found = {n: float(p) * worst for n, p in zip(self._labels["response_category_map"], category[second], strict=True)}
        found["controversial"] = float(risk[second, risks.index("Controversial")])
        asked, _ = self._prompt(states[row.asked : row.asked + 1])
        found["harmful_prompt"] = 1.0 - float(asked[0, self._labels["query_risk_level_map"].index("Safe")])
        return Verdict(round(1.0 - worst, 5), {k: round(v, 5) for k, v in found.items()}, truncated=row.cut)


def _settings(folder: Path) -> tuple[dict[str, list[str]], float, float]:
    """Return the labels of each head in order, the norm's epsilon, and the longest input."""
    try:
        fields: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        labels = {m: [str(fields[m][str(k)]).strip('"') for k in range(len(fields[m]))] for m in _MAPS}
        eps, context = float(fields["rms_norm_eps"]), float(fields.get("max_position_embeddings") or "inf")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_stream(repr(error)[:120]) from error
    for risks in (labels["response_risk_level_map"], labels["query_risk_level_map"]):
        if set(risks) != {"Safe", "Unsafe", "Controversial"}:
            raise _no_stream(f"risks {', '.join(risks)}")
    return labels, eps, context


def _head_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the heads' tensors of all safetensors files of a folder; the body's are left where they are."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = [n for n in file.keys() if n.removeprefix("query_").startswith(("risk_level_", "category_head"))]  # noqa: SIM118
            found |= {n: file.get_tensor(n) for n in names}
    parts = ("risk_level_category_pre", "risk_level_category_layernorm", "risk_level_head", "category_head")
    missing = [n for q in ("", "query_") for p in parts if (n := f"{q}{p}.weight") not in found]
    if missing:
        raise _no_stream(f"no tensor {missing[0]}")
    return found


def _checked(head: StreamHead, risks: Sequence[str], categories: Sequence[str]) -> StreamHead:
    sizes = (len(head.risk), len(head.category))
    if sizes != (len(risks), len(categories)):
        raise _no_stream(f"{sizes} outputs for {len(risks)} risks and {len(categories)} categories")
    return head.requires_grad_(False)


def _body(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    local: dict[str, Any] = {"local_files_only": True}
    device = best_device()
    try:
        # The classes are named here, so that no `auto_map` of the folder is looked at.
        config = Qwen3Config.from_pretrained(folder, **local)
        body, info = Qwen3Model.from_pretrained(
            folder, config=config, dtype=fast_dtype(device), use_safetensors=True, output_loading_info=True, **local
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **local)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError("a Qwen3 body with its tokenizer", str(error)[:200], "check the reference") from error
    if info["missing_keys"]:
        raise _no_stream(f"no weights for {sorted(info['missing_keys'])[0]}")
    return body.eval().requires_grad_(False).to(device), tokenizer


def _no_stream(found: str) -> SourceError:
    return SourceError("Qwen3Guard-Stream weights: a Qwen3 body, two sets of heads, labels in config.json", found, "check them")


@dataclass(frozen=True)
class StreamModel:
    """A Qwen3Guard-Stream by name. Calling it loads its weights."""

    name: str
    reference: str
    size: str
    licence: str = "Apache-2.0"

    @property
    def description(self) -> str:
        """One line for the list of guards."""
        return f"{self.size}, {self.licence}, {self.reference}, token by token (format only: weights never run by us)"

    def __call__(self) -> Guard:
        """Return the guard on its own weights."""
        return self.at(self.reference)

    def at(self, where: str) -> Guard:
        """Return the guard on other weights.

        Raises:
            ConfigError: a server: no OpenAI-compatible one gives token-level heads.
        """
        if is_url(where):
            raise ConfigError("Qwen3Guard-Stream weights", where, "no such server gives its heads: take qwen3guard-4b@URL")
        return Qwen3GuardStream(where, self.name)


for _size in ("0.6B", "4B", "8B"):
    _model = StreamModel(f"qwen3guard-stream-{_size.lower()}", f"hf:Qwen/Qwen3Guard-Stream-{_size}", _size)
    SOURCES[_model.name] = (_model.reference,)
    GUARDS.register(_model.name)(_model)
