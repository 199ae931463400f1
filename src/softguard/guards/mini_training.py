"""Training of `mini`: a low-rank adapter (PEFT) and a head on MiniLM, three losses, then calibration on validation rows.

One idea: the two auxiliary questions (is harm asked for? does the answer decline?) teach the network what "unsafe" is made
of. `train_mini` builds the pairs; `train_on_pairs` takes any, so that a reference guard of the same shape is trained by
the same lines. Same rows, seed, threads and machine: same weights.
"""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from scipy.optimize import minimize
from torch import Tensor, nn

from softguard.core.protocols import Progress
from softguard.errors import DataError, TrainingError
from softguard.guards.measuring import LabelledPair, evaluate_guard
from softguard.guards.mini import MiniConfig, MiniGuard
from softguard.guards.mini_network import PairEncoder, PairNetwork, collate, head_logits, load_backbone, unsafe_log_odds
from softguard.guards.mini_pairs import SampledAnswer, TrainingPrompt, build_pairs, held_out
from softguard.models import fast_dtype
from softguard.sources import resolve


@dataclass(frozen=True)
class MiniTraining:
    """Settings: chosen on our validation rows and BeaverTails' development half, never on its other half, XSTest or GPTFuzz."""

    seed: int = 0
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 8e-4
    rank: int = 16
    hidden: int = 96
    max_tokens: int = 192
    dropout: float = 0.1
    auxiliary_weight: float = 0.3
    """Weight of each auxiliary loss beside the first."""
    backbone: str = "minilm-l6"


def train_mini(
    out: Path,
    prompts: Sequence[TrainingPrompt],
    answers: Sequence[SampledAnswer],
    written: Sequence[LabelledPair] = (),
    settings: MiniTraining | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the embedded guard, write `mini.safetensors` and `mini.json` into `out`, and return the report.

    Args:
        out: a folder, made where absent.
        prompts: permissive rows only, `test` rows are left out; `validation` rows and a share of the others by topic
            are held out for calibration.
        answers: the base model's, to `mini_pairs.answer_requests(prompts)`.
        written: pairs labelled by hand, beside those built of the prompts and answers.
        settings: None takes the defaults, with which the shipped weights were made.
        progress: called with (step, steps).
    """
    settings = settings or MiniTraining()
    pairs = build_pairs([p for p in prompts if p.split == "train"], answers, settings.seed)
    validation = build_pairs([p for p in prompts if p.split == "validation"], answers, settings.seed)
    pairs += written
    train = [p for p in pairs if not held_out(p)]
    validation += [p for p in pairs if held_out(p)]
    sources = dict(Counter(p.source for p in prompts if p.split != "test")) | {"written": len(written)}
    return train_on_pairs(out, train, validation, settings, "mini", {"prompts": sources}, progress)


def train_on_pairs(
    out: Path,
    train: Sequence[LabelledPair],
    validation: Sequence[LabelledPair],
    settings: MiniTraining,
    name: str,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a guard of mini's shape on given pairs, calibrate it, write both its files and return the report.

    Raises:
        DataError: one class is missing from either split.
        TrainingError: the loss is not finite.
    """
    for split, pairs in (("train", train), ("validation", validation)):
        if len({p.unsafe for p in pairs}) < 2:
            raise DataError(f"safe and unsafe pairs in {split}", f"one class in {len(pairs)} pairs", "give more rows")
    torch.manual_seed(settings.seed)
    source = resolve(settings.backbone)
    encoder = PairEncoder(source.path, settings.max_tokens)
    network = _adapted(source.path, settings)
    _fit(network, encoder, train, settings, progress)
    raw = unsafe_log_odds(head_logits(network, encoder, [(p.prompt, p.response) for p in validation]))
    temperature, bias = calibrate(raw.tolist(), [p.unsafe for p in validation])
    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{name}.safetensors"
    save_file(_shipped_tensors(network), weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    scale = 2.0
    config = MiniConfig(settings.backbone, source.sha256, sha256, settings.max_tokens, settings.hidden, scale, temperature, bias)
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "train_pairs": dict(Counter(p.kind for p in train)),
        "validation_pairs": len(validation),
        **(provenance or {}),
    }
    path = out / f"{name}.json"
    path.write_text(json.dumps({"config": asdict(config), "report": report}, indent=1))
    report["validation"] = evaluate_guard(MiniGuard(out, name, source.path), validation)
    del report["validation"]["latency_ms"]
    path.write_text(json.dumps({"config": asdict(config), "report": report}, indent=1) + "\n")
    return report


def calibrate(logits: Sequence[float], unsafe: Sequence[bool]) -> tuple[float, float]:
    """Return (temperature, bias) such that sigmoid(logit / temperature + bias) fits the labels best (log loss).

    References:
        Platt 1999; Guo et al. 2017, arXiv 1706.04599 (bias 0 is temperature scaling).
    """
    z, y = torch.tensor(logits, dtype=torch.float64), torch.tensor(unsafe, dtype=torch.float64)

    def loss(v: Any) -> float:
        return float(nn.functional.binary_cross_entropy_with_logits(z * math.exp(-v[0]) + v[1], y))

    found = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9}).x
    return round(math.exp(found[0]), 6), round(float(found[1]), 6)


def _adapted(folder: Path, settings: MiniTraining) -> PairNetwork:
    from peft import LoraConfig, get_peft_model

    backbone = load_backbone(folder)
    lora = LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, lora_dropout=0.0, target_modules=["query", "key", "value", "dense"]
    )
    return PairNetwork(get_peft_model(backbone, lora), backbone.config.hidden_size, settings.hidden, settings.dropout)


def _fit(
    network: PairNetwork, encoder: PairEncoder, pairs: Sequence[LabelledPair], settings: MiniTraining, progress: Progress | None
) -> None:
    rows = [(encoder.encode(p.prompt, p.response), _targets(p)) for p in pairs]
    batches = [b for epoch in range(settings.epochs) for b in _batches([len(e.ids) for e, _ in rows], settings, epoch)]
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.01)
    rise = 0.2 if len(batches) == 10 else 0.1  # PyTorch divides by the steps of the rise less one
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=len(batches), pct_start=rise)
    fast = torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype("cpu") is torch.bfloat16)
    network.train()
    network.encoder.eval()  # no dropout in the backbone: its masks took a seventh of a step, and two epochs overfit little
    for step, batch in enumerate(batches, 1):
        with fast:
            logits = network(*collate([rows[i][0] for i in batch], encoder.pad_id)).float()
        loss = _loss(logits, torch.tensor([rows[i][1] for i in batch]), settings.auxiliary_weight)
        if not torch.isfinite(loss):
            raise TrainingError("a finite loss", f"{float(loss)} at step {step}", "lower learning_rate")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, len(batches))
    network.eval()


def _targets(pair: LabelledPair) -> list[float]:
    return [float("nan") if v is None else float(v) for v in (pair.unsafe, pair.harmful_prompt, pair.refusal)]


def _loss(logits: Tensor, targets: Tensor, auxiliary_weight: float) -> Tensor:
    known = ~targets.isnan()
    each = nn.functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none") * known
    by_head = each.sum(0) / known.sum(0).clamp(min=1)
    return by_head[0] + auxiliary_weight * by_head[1:].sum()


def _batches(lengths: list[int], settings: MiniTraining, epoch: int) -> list[list[int]]:
    """Return shuffled batches of like lengths: sorted within windows of 16 batches."""
    rng = random.Random(f"{settings.seed}:{epoch}")
    order = rng.sample(range(len(lengths)), len(lengths))
    window, size = 16 * settings.batch_size, settings.batch_size
    batches = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda i: lengths[i])
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    rng.shuffle(batches)
    return batches


def _shipped_tensors(network: PairNetwork) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    adapter = get_peft_model_state_dict(network.encoder)
    head = {f"head.{n}": t for n, t in network.head.state_dict().items()}
    return {n: t.detach().half().contiguous() for n, t in {**adapter, **head}.items()}
