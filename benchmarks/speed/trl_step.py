"""One step of TRL's two distillation trainers, beside ours with the same adapter.

Both are run on the responses given, so that no time goes into sampling: `GKDTrainer` as its documentation has it, with `lmbda` 0
(no response of the student's) and `beta` 0 (forward KL); `DistillationTrainer`, which in this release always samples, with the
given responses put where its samples would be. A step is the trainer's own `training_step`, then what its loop does after it:
clip, optimiser, schedule. What they are given that is not their default makes them faster: no gradient checkpointing.
The second refuses prompt learning and the first stops at it (virtual tokens shift its student's logits against the teacher's), so
the adapter is a LoRA, in ours as well: PEFT's default rank, scale and places, 8 on q and v.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.rounds import MODEL, ratio
from softguard.adapters import Adapter
from softguard.adapters.lora import Lora, LoraConfig
from softguard.models import LanguageModel, load_model

RANK, TARGETS = 8, ("q_proj", "v_proj")
NEEDS = ("trl", "datasets")
RIVALS, OURS = ("trl_gkd", "trl_distillation"), "softguard_lora"
_STEPS = 1_000
"""Of the learning rate's schedule, which a benchmark does not reach the end of."""

Step = Callable[[], float]


def missing(needs: Sequence[str] = NEEDS) -> str | None:
    """Return why TRL cannot be run here, None where it can."""
    absent = [name for name in needs if find_spec(name) is None]
    return f"not installed: {', '.join(absent)} (pip install 'trl>=1.16,<1.17')" if absent else None


def lora(lm: LanguageModel) -> Adapter:
    """Return our LoRA of the size that the trainers get."""
    return Lora.create(LoraConfig(rank=RANK, target_modules=TARGETS), lm, 0)


def steps(lm: LanguageModel, given: Tensor, response: int) -> dict[str, Step]:
    """Return the step of each trainer on the embedded model, with transformers' own default attention, by its name."""

    def network() -> Any:
        return load_model(MODEL, dtype=lm.dtype, attention="sdpa").network

    makers = dict(zip(RIVALS, (gkd_step, distillation_step), strict=True))
    return {name: make(network(), network(), lm.tokenizer, given, response) for name, make in makers.items()}


def comparison(seconds: Mapping[str, list[float]], dtype: str, left_out: str | None) -> dict[str, Any]:
    """Return the ratio of the faster trainer to ours at a type of number, and what was compared, or why nothing was."""
    if left_out:
        return {"ratio_vs_trl": None, "trl": left_out}
    faster = min((f"{name}_{dtype}" for name in RIVALS), key=lambda name: median(seconds[name]))
    found = ratio(seconds, faster, f"{OURS}_{dtype}")
    return {"ratio_vs_trl": found, "trl": {"trainer": faster, "adapter": "lora", "rank": RANK, "target_modules": list(TARGETS)}}


def gkd_step(student: Any, teacher: Any, tokenizer: Any, given: Tensor, response: int) -> Step:
    """Return the step of `GKDTrainer`, which gives the loss: the mean of the forward KL over response positions."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    _pad_token(tokenizer)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=GKDConfig(**_settings(student, given), lmbda=0.0),
        processing_class=tokenizer,
        train_dataset=_rows("messages", turns, len(given)),
        peft_config=_peft(),
    )
    labels = given.clone()
    labels[:, :-response] = -100
    batch = {"input_ids": given, "attention_mask": torch.ones_like(given), "labels": labels}
    return _step(trainer, batch, torch.tensor(len(given) * response))


def distillation_step(student: Any, teacher: Any, tokenizer: Any, given: Tensor, response: int) -> Step:
    """Return the step of `DistillationTrainer` on given responses; the loss is the same."""
    from trl import DistillationConfig, DistillationTrainer

    class GivenResponses(DistillationTrainer):
        def _generate_and_score_completions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return inputs

    _pad_token(tokenizer)
    trainer = GivenResponses(
        model=student,
        teacher_model=teacher,
        args=DistillationConfig(**_settings(student, given)),
        processing_class=tokenizer,
        train_dataset=_rows("prompt", "a", len(given)),
        peft_config=_peft(),
    )
    prompts, responses = given[:, :-response], given[:, -response:]
    batch = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": responses,
        "completion_mask": torch.ones_like(responses),
        "num_items_in_batch": torch.tensor(float(responses.numel())),
    }
    return _step(trainer, batch, None)


def _step(trainer: Any, batch: Mapping[str, Tensor], count: Tensor | None) -> Step:
    """Return what the trainer's loop does in one step, which is of one batch."""
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.create_optimizer_and_scheduler(_STEPS)
    model, optimiser = trainer.accelerator.prepare(trainer.model, trainer.optimizer)

    def step() -> float:
        loss = trainer.training_step(model, dict(batch), count)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimiser.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        return float(loss)

    return step


def _settings(student: Any, given: Tensor) -> dict[str, Any]:
    """Return the settings of either trainer; bf16 is mixed precision for weights in bf16, as it is by default."""
    return {
        "output_dir": str(Path(tempfile.gettempdir()) / "softguard-trl"),
        "per_device_train_batch_size": len(given),
        "max_steps": _STEPS,
        "beta": 0.0,
        "temperature": 1.0,
        "bf16": student.dtype == torch.bfloat16,
        "use_cpu": given.device.type == "cpu",
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
    }


def _peft() -> Any:
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")


def _rows(column: str, value: Any, count: int) -> Any:
    """Return a data set for the constructor, which wants one; nothing reads it, for the batch is given."""
    from datasets import Dataset

    return Dataset.from_dict({column: [value] * count})


def _pad_token(tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
