"""Whether what a training run is given fits together: asked before any work is spent, and once."""

import hashlib
import math
from collections.abc import Sequence

import torch

from softguard.core.processes import processes
from softguard.errors import CompatibilityError, ConfigError, DataError
from softguard.models import LanguageModel
from softguard.objectives import Objective
from softguard.teacher import GuardedSystem
from softguard.training.config import TrainingConfig
from softguard.training.examples import Example


def check_fit(
    lm: LanguageModel, objective: Objective, examples: Sequence[Example], config: TrainingConfig, weigher: object | None
) -> None:
    """Raise where a run could not start or its result would mean nothing.

    Raises:
        DataError: no examples, or all of one kind; an alpha that is no probability.
        CompatibilityError: an objective that needs what the teacher does not give; a teacher of another model or tokenizer; a
            student that has to speak with nobody to judge it, or whose conversations are not known.
        ConfigError: see `check_shares`.
    """
    check_shares(config)
    if len({e.harmful for e in examples}) != 2:
        raise DataError("harmful and benign training prompts", f"{len(examples)} of one kind", "add the other kind")
    for e in examples:
        _check_record(lm, objective, e)
    sampled = "on_policy" in objective.needs
    if "sequence" not in objective.needs and config.on_policy_fraction:
        found = f"on_policy_fraction {config.on_policy_fraction:g} with an objective that learns from no answer of the teacher"
        raise CompatibilityError("on_policy_fraction with a distillation objective", found, "leave it at 0")
    if (sampled or config.on_policy_fraction) and weigher is None:
        raise CompatibilityError("a guard to judge the student's responses", "none", "give the guarded system as `weigher`")
    if isinstance(weigher, GuardedSystem):
        check_same_tokenizer(weigher.lm, lm)
    if (sampled or config.on_policy_fraction) and any(e.conversation is None for e in examples):
        raise CompatibilityError("examples with their conversations, which the guard reads", "none", "give Example.conversation")


def check_shares(config: TrainingConfig) -> None:
    """Raise where the processes of a job cannot share the forward passes of a step evenly.

    Raises:
        ConfigError: their number does not divide `accumulation`.
    """
    count = processes().count
    if config.accumulation % count:
        prompts = config.batch_size * config.accumulation
        todo = f"set it to {count} with a smaller training.batch_size (a step has {prompts} prompts), or launch fewer processes"
        raise ConfigError(f"training.accumulation that {count} processes divide", str(config.accumulation), todo)


def check_same_everywhere(
    examples: Sequence[Example], refusal_ids: Sequence[int], config: TrainingConfig, parameters: Sequence[torch.Tensor]
) -> None:
    """Raise where the processes of a job would not train the same W on the same data; each keeps a W of its own in step.

    Raises:
        CompatibilityError: drafts, settings or the W to start from differ.
    """
    if processes().count == 1:
        return
    told = hashlib.sha256(f"{config!r}{list(refusal_ids)}".encode())
    for e in examples:
        told.update(repr((e.prompt.ids, e.harmful, e.record.id, e.record.response_ids, e.record.alpha)).encode())
    for parameter in parameters:
        told.update(parameter.detach().cpu().float().numpy().tobytes())
    first, *others = processes().gather([told.hexdigest()])
    if differing := [str(i) for i, other in enumerate(others, 1) if other != first]:
        found = f"another in process {', '.join(differing)}"
        todo = "give the machines one SOFTGUARD_CACHE, the same prompt files and the same versions"
        raise CompatibilityError("the same drafts, settings and initial W in all processes", found, todo)


def _check_record(lm: LanguageModel, objective: Objective, example: Example) -> None:
    record, needs = example.record, objective.needs
    weights = [record.alpha, *(o.weight for o in record.outcomes)]
    if not all(math.isfinite(w) and 0 <= w <= 1 for w in weights):
        raise DataError("alpha in [0, 1]", f"{weights} for {record.id}", "correct the guard's score rule")
    if record.outcomes and not math.isclose(sum(weights), 1.0, abs_tol=1e-4):
        raise DataError("outcomes that add up to 1 with alpha", f"{sum(weights):.6f} for {record.id}", "correct the policy")
    if not record.response_ids and needs & {"sequence"}:
        raise DataError("a draft with at least its turn end", f"an empty one for {record.id}", "sample the drafts again")
    vocabulary = len(lm.output_head.weight)
    if any(token >= vocabulary for token in record.response_ids):
        found = f"token {max(record.response_ids)} for {record.id}, {vocabulary} in the student's vocabulary"
        raise CompatibilityError("drafts in the student's tokenizer", found, "take a teacher with the same tokenizer")
    if "dense" in needs and "sequence" in needs:
        states = record.base_states()
        if states.shape != (len(record.response_ids), lm.width):
            found = f"{tuple(states.shape)} for {len(record.response_ids)} tokens of {record.id}"
            raise CompatibilityError(
                f"teacher states of width {lm.width}, one a token", found, "take the student's own base model"
            )
    if needs & {"reference", "preference"} and record.log_prob is None:
        raise CompatibilityError("a teacher that tells log p(y|x)", f"none for {record.id}", "take a teacher that runs here")
    if "preference" in needs and (record.refusal_log_prob is None or record.outcomes):
        found = "a policy with outcomes of its own" if record.outcomes else f"no log p(y_r|x) for {record.id}"
        raise CompatibilityError("one refusal with its log-probability", found, "TeacherCache(refusal_log_probs=True), no policy")


def check_same_tokenizer(teacher: LanguageModel, student: LanguageModel) -> None:
    """Raise where a teacher's tokens would mean something else to the student.

    Raises:
        CompatibilityError: their vocabularies or chat templates differ.
    """
    ours, theirs = student.tokenizer, teacher.tokenizer
    if ours is theirs:
        return
    for what, a, b in (
        ("vocabulary", theirs.get_vocab(), ours.get_vocab()),
        ("chat template", theirs.chat_template, ours.chat_template),
    ):
        if a != b:
            found = f"{teacher.reference} and {student.reference}"
            raise CompatibilityError(f"teacher and student with the same {what}", found, "take a teacher with the same tokenizer")
