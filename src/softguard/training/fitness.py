"""Whether what a training run is given fits together: asked before any work is spent, and once."""

import math
from collections.abc import Sequence

from softguard.errors import CompatibilityError, DataError
from softguard.models import LanguageModel
from softguard.objectives import Objective
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
    """
    if len({e.harmful for e in examples}) != 2:
        raise DataError("harmful and benign training prompts", f"{len(examples)} of one kind", "add the other kind")
    for e in examples:
        _check_record(lm, objective, e)
    sampled = "on_policy" in objective.needs
    if sampled and config.on_policy_fraction:
        found = f"on_policy_fraction {config.on_policy_fraction:g} with an objective on its own samples"
        raise CompatibilityError("on_policy_fraction with a distillation objective", found, "leave it at 0")
    if (sampled or config.on_policy_fraction) and weigher is None:
        raise CompatibilityError("a guard to judge the student's responses", "none", "give the guarded system as `weigher`")
    if (sampled or config.on_policy_fraction) and any(e.conversation is None for e in examples):
        raise CompatibilityError("examples with their conversations, which the guard reads", "none", "give Example.conversation")


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
