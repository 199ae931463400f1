"""Training of `mini`: a low-rank adapter (PEFT) and heads on MiniLM, three losses, then calibration on validation rows.

One idea: the two auxiliary questions (is harm asked for? does the answer decline?) teach the network what "unsafe" is made
of. `train_mini` builds the pairs and averages two networks of one start; `train_on_pairs` takes any pairs, so that a reference
guard of the same shape is trained by the same lines. Same rows, seed, threads and machine: same weights.
"""

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from torch import Tensor, nn

from softguard.core.protocols import Progress
from softguard.errors import DataError, TrainingError
from softguard.guards.measuring import LabelledPair, evaluate_guard
from softguard.guards.mini import MiniConfig, MiniGuard
from softguard.guards.mini_hard_pairs import stacked
from softguard.guards.mini_network import (
    PairEncoder,
    PairNetwork,
    collate,
    head_logits,
    load_backbone,
    load_network,
    unsafe_log_odds,
)
from softguard.guards.mini_pairs import SampledAnswer, TrainingPrompt, build_pairs, held_out
from softguard.models import fast_dtype
from softguard.sources import Source, resolve

SCALE = 2.0
"""Of what the adapter adds: PEFT's alpha by its rank."""


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
    long: Sequence[LabelledPair] = (),
    settings: MiniTraining | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the embedded guard, write `mini.safetensors` and `mini.json` into `out`, and return the report.

    With `long` there are two networks of one start: one that never saw long answers and one that did. Their average ranks better
    than either, on our pairs and on others' (docs/decisions/0031).

    Args:
        out: a folder, made where absent.
        prompts: permissive rows only, `test` rows are left out; `validation` rows and a share of the others by topic
            are held out for calibration.
        answers: the base model's, to `mini_pairs.answer_requests(prompts)`.
        written: pairs labelled by hand, beside those built of the prompts and answers.
        long: more of them, with answers of larger models' length.
        settings: None takes the defaults, with which the shipped weights were made.
        progress: called with (step, steps).
    """
    settings = settings or MiniTraining()
    built = build_pairs([p for p in prompts if p.split == "train"], answers, settings.seed)
    members = [[*built, *written]]
    if long:
        by_hand = [*written, *long]
        members.append([*built, *by_hand, *stacked(by_hand, settings.seed)])
    validation = build_pairs([p for p in prompts if p.split == "validation"], answers, settings.seed)
    validation += [p for p in members[-1] if held_out(p)]
    train = [[p for p in pairs if not held_out(p)] for pairs in members]
    sources = dict(Counter(p.source for p in prompts if p.split != "test")) | {"written": len(written), "long": len(long)}
    return _train(out, train, validation, settings, "mini", {"prompts": sources}, progress)


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
    return _train(out, [train], validation, settings, name, provenance, progress)


def _train(
    out: Path,
    members: Sequence[Sequence[LabelledPair]],
    validation: Sequence[LabelledPair],
    settings: MiniTraining,
    name: str,
    provenance: dict[str, Any] | None,
    progress: Progress | None,
) -> dict[str, Any]:
    for split, pairs in (*(("train", pairs) for pairs in members), ("validation", validation)):
        if len({p.unsafe for p in pairs}) < 2:
            raise DataError(f"safe and unsafe pairs in {split}", f"one class in {len(pairs)} pairs", "give more rows")
    source = resolve(settings.backbone)
    encoder = PairEncoder(source.path, settings.max_tokens)
    steps = [settings.epochs * math.ceil(len(pairs) / settings.batch_size) for pairs in members]
    trained = []
    for done, pairs in zip(itertools.accumulate(steps, initial=0), members, strict=False):
        torch.manual_seed(settings.seed)
        network = _adapted(source.path, settings)
        _fit(network, encoder, pairs, settings, _from(done, sum(steps), progress))
        trained.append(_shipped_tensors(network))
    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{name}.safetensors"
    save_file(average(trained), weights)
    kinds = dict(Counter(p.kind for p in members[-1]))
    return _calibrated(out, name, source, settings, validation, {"train_pairs": kinds, **(provenance or {})})


def _from(done: int, total: int, progress: Progress | None) -> Progress:
    return lambda step, steps: progress(done + step, total) if progress is not None else None


def _calibrated(
    out: Path,
    name: str,
    source: Source,
    settings: MiniTraining,
    validation: Sequence[LabelledPair],
    made_of: dict[str, Any],
) -> dict[str, Any]:
    weights = out / f"{name}.safetensors"
    network = load_network(source.path, load_file(weights), SCALE, settings.hidden)
    encoder = PairEncoder(source.path, settings.max_tokens)
    raw = unsafe_log_odds(head_logits(network, encoder, [(p.prompt, p.response) for p in validation]))
    temperature, bias = calibrate(raw.tolist(), [p.unsafe for p in validation])
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    config = MiniConfig(settings.backbone, source.sha256, sha256, settings.max_tokens, settings.hidden, SCALE, temperature, bias)
    report: dict[str, Any] = {"settings": asdict(settings), "validation_pairs": len(validation), **made_of}
    path = out / f"{name}.json"
    path.write_text(json.dumps({"config": asdict(config), "report": report}, indent=1))
    report["validation"] = evaluate_guard(MiniGuard(out, name, source.path), validation)
    del report["validation"]["latency_ms"]
    path.write_text(json.dumps({"config": asdict(config), "report": report}, indent=1) + "\n")
    return report


def average(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of the average of networks: exactly so what the adapters add to each weight, and the heads' weights.

    The adapters' ranks add up. Heads can be averaged since all began as one.

    References:
        Wortsman et al. 2022, Model soups, arXiv 2203.05482.
    """
    made = {}
    for name in members[0]:
        tensors = [m[name] for m in members]
        if name.endswith(".lora_A.weight"):
            made[name] = torch.cat(tensors, dim=0)
        elif name.endswith(".lora_B.weight"):
            made[name] = torch.cat(tensors, dim=1) / len(members)
        else:
            made[name] = torch.stack([t.float() for t in tensors]).mean(0).half()
    return {n: t.contiguous() for n, t in made.items()}


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
    alpha = int(SCALE * settings.rank)
    layers = ["query", "key", "value", "dense"]
    lora = LoraConfig(r=settings.rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=layers)
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
    heads = {n: t for n, t in network.state_dict().items() if not n.startswith("encoder.")}
    return {n: t.detach().half().contiguous() for n, t in {**adapter, **heads}.items()}
