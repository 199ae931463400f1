"""Responses of the student itself: drawn, judged, and put in the place of the teacher's drafts. Nothing of them is cached.

Two uses, one way. An objective that needs `on_policy` gets every response from the student, with the guard's score as reward. Any
distillation objective gets `on_policy_fraction` of them (the idea of GKD): the guarded system's answer to the student's text
is then the target, as its answer to the base model's draft is otherwise.

What is drawn at a step depends on (seed, step, place in the batch, prompt) alone, so that a run that was killed draws the same
again, and processes that train together draw each its share of what one would. The guard and what it decides are seen through
`Weigher`; no guard and no teacher is imported here.

References:
    Agarwal et al. 2024, arXiv 2306.13649, algorithm 1 (GKD).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from softguard.adapters import Adapter
from softguard.core import Conversation
from softguard.core.processes import processes
from softguard.errors import CompatibilityError, DataError, GuardError
from softguard.models import ChatRenderer, Generation, LanguageModel, response_states, sample
from softguard.objectives import Objective, ObjectiveInput, OnPolicyObjective, Samples, Sampling
from softguard.objectives.fused_head import token_figures
from softguard.teacher import TeacherRecord, Weighed
from softguard.training.config import TrainingConfig
from softguard.training.examples import Example, Sampled
from softguard.training.forward import objective_input


class Weigher(Protocol):
    """Says what the guarded system makes of given texts."""

    @property
    def fixed_texts(self) -> frozenset[str]:
        """All that it says instead of answers, whatever they are."""
        ...

    def weigh(self, conversations: Sequence[Conversation], responses: Sequence[str]) -> list[Weighed]:
        """Return for each response with what probability it is kept, and what is said instead."""
        ...


@dataclass(frozen=True)
class Drawn:
    """This process's batches of a step with what the student said in them, and figures of all processes for the log."""

    batches: list[list[Example]]
    figures: dict[str, float]


class OnPolicy:
    """Draws a step's responses.

    Args:
        lm: the base model.
        adapter: what learns, attached where the student speaks.
        objective: the loss.
        weigher: the guarded system, or what stands for its guard.
        config: of the loop.
        refusal_ids: y_r with its turn end.
    """

    def __init__(
        self,
        lm: LanguageModel,
        adapter: Adapter,
        objective: Objective,
        weigher: Weigher,
        config: TrainingConfig,
        refusal_ids: Sequence[int],
    ) -> None:
        self._lm, self._adapter, self._objective = lm, adapter, objective
        self._weigher, self._config, self._refusal_ids = weigher, config, refusal_ids
        self._renderer = ChatRenderer(lm.tokenizer)
        self._rewarded = "on_policy" in objective.needs
        self._sampling = Sampling(config.on_policy_tokens)
        if self._rewarded:
            self._sampling = cast(OnPolicyObjective, objective).sampling
        self._value_head: nn.Linear | None = None
        if self._sampling.value_learning_rate is not None:
            self._value_head = nn.Linear(lm.width, 1, device=lm.device)
            nn.init.zeros_(self._value_head.weight)
            nn.init.zeros_(self._value_head.bias)

    @property
    def updates(self) -> int:
        """Optimiser steps on the same responses."""
        return self._sampling.updates

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what learns beside the adapter, with `scale`, its rate over the adapter's."""
        if self._value_head is None:
            return []
        rate = cast(float, self._sampling.value_learning_rate)
        return [{"params": list(self._value_head.parameters()), "scale": rate / self._config.learning_rate}]

    def draw(self, batches: Sequence[Sequence[Example]], step: int, history: Sequence[Mapping[str, Any]]) -> Drawn:
        """Return this process's share of the batches of a step with the student's responses in them.

        Raises:
            GuardError: the guard graded none of the responses.
            DataError: a reward that is no probability.
        """
        examples = [e for batch in batches for e in batch]
        everywhere = self._chosen(len(examples), step)
        numbers = iter(range(len(examples)))
        mine = processes().share([[next(numbers) for _ in batch] for batch in batches])
        if not everywhere:
            return Drawn([[examples[i] for i in batch] for batch in mine], {})
        chosen = sorted({i for batch in mine for i in batch}.intersection(everywhere))
        spoken = self._speak([examples[i] for i in chosen], [f"on-policy:{step}:{i}:{examples[i].record.id}" for i in chosen])
        texts = [self._renderer.decode(g.ids) for g in spoken]
        weighed = self._weigher.weigh([_conversation(examples[i]) for i in chosen], texts) if chosen else []
        for i, w in zip(chosen, weighed, strict=True):
            if w.ungraded is None and not 0 <= w.p_safe <= 1:  # also where it is NaN
                raise DataError("a reward in [0, 1]", f"{w.p_safe} for {examples[i].record.id}", "correct the guard's score rule")
        fresh: dict[int, Example | None] = {}
        pairs = list(zip(chosen, spoken, texts, weighed, strict=True))
        known = self._base_states([examples[i] for i in chosen], spoken)
        for (i, generation, text, w), base in zip(pairs, known, strict=True):
            if w.ungraded is not None:
                fresh[i] = None if self._rewarded else examples[i]
            elif not self._rewarded and self._declines(examples[i], text, generation.truncated):
                fresh[i] = examples[i]
            else:
                fresh[i] = self._example(examples[i], generation, text, w, base)
        figures = self._figures(pairs, examples)
        if self._rewarded and figures["on_policy_ungraded"] == 1:
            raise GuardError("a graded response", f"none of {len(everywhere)} at step {step + 1}", "check the guard")
        past = tuple(float(row["reward"]) for row in history) if self._rewarded else ()
        made = []
        for batch in mine:
            rows = [found for i in batch if (found := fresh.get(i, examples[i])) is not None]
            made.append(self._with_old(rows, past) if rows and self._rewarded else rows)
        return Drawn([rows for rows in made if rows], figures)

    def complete(self, batch: ObjectiveInput, examples: Sequence[Example]) -> ObjectiveInput:
        """Return the batch with the samples that an objective which needs `on_policy` reads; any other as it is."""
        if not self._rewarded:
            return batch
        sampled = [cast(Sampled, e.sampled) for e in examples]
        values = self._values(batch.answer.states)
        old = [s.old_log_probs for s in sampled if s.old_log_probs is not None]
        before = [s.old_values for s in sampled if s.old_values is not None]
        return replace(
            batch,
            samples=Samples(
                reward=batch.alpha.new_tensor([s.reward for s in sampled]),
                past_rewards=batch.alpha.new_tensor(sampled[0].past_rewards),
                values=values,
                old_values=torch.cat(before) if before else values.detach(),
                old_log_probs=torch.cat(old) if old else None,
            ),
        )

    def _chosen(self, count: int, step: int) -> list[int]:
        """Return the places of the batch whose responses are the student's."""
        if self._rewarded:
            return list(range(count))
        rng = np.random.default_rng([self._config.seed, 2, step])
        many = int(self._config.on_policy_fraction * count + rng.random())  # rounded by chance: the share holds over the steps
        return sorted(rng.choice(count, many, replace=False).tolist())

    def _speak(self, examples: Sequence[Example], keys: Sequence[str]) -> list[Generation]:
        """Return a response of the student to each prompt."""
        prompts = [self._adapter.extend(e.prompt) for e in examples]
        with self._adapter.attach(self._lm) as student:
            return sample(
                student,
                prompts,
                keys,
                max_new_tokens=self._sampling.max_new_tokens,
                temperature=self._sampling.temperature,
                seed=self._config.seed,
                refusal_token=self._adapter.refusal(self._lm, self._refusal_ids)[0],
                virtual_tokens=self._adapter.virtual_tokens(),
            )

    @torch.no_grad()
    def _base_states(self, examples: Sequence[Example], spoken: Sequence[Generation]) -> "list[_Known]":
        """Return what the base model, with nothing attached, thinks of each response; nothing where nobody asks.

        Where the student says a token that the base model lacks, it reads the refusal's first, which that stands for.
        """
        if not spoken or not self._objective.needs & {"dense", "reference", "preference"}:
            return [_Known(None, None) for _ in spoken]
        known, stands_for = len(self._lm.embedding_weight), self._refusal_ids[0]
        prompts = [e.prompt.ids for e in examples]
        responses = [[i if i < known else stands_for for i in g.ids] for g in spoken]
        found = response_states(self._lm, prompts, responses, token_budget=self._config.token_budget)
        each = token_figures("log_prob", self._lm.output_head, found.states, found.targets).values
        rows = [found.row == i for i in range(len(spoken))]
        return [_Known(found.states[mine], float(each[mine].sum())) for mine in rows]

    def _declines(self, example: Example, text: str, truncated: bool) -> bool:
        """Return whether the student said what the teacher says instead of y or of any other answer, or the beginning of it.

        Such a text says nothing of the base model's answer, so the guard's reading of it (harmless) must not become the weight of
        an answer: the prompt keeps its draft, whose alpha says whether declining was right.
        """
        named = {o.text for o in example.record.outcomes} | self._weigher.fixed_texts
        named.add(self._renderer.decode(self._refusal_ids))
        return any(text.startswith(t) or (truncated and text != "" and t.startswith(text)) for t in named)

    def _example(self, example: Example, generation: Generation, text: str, weighed: Weighed, known: "_Known") -> Example:
        record: TeacherRecord = replace(
            example.record,
            response_ids=generation.ids,
            response=text,
            truncated=generation.truncated,
            alpha=weighed.alpha,
            categories=weighed.categories,
            log_prob=known.log_prob,
            states=known.states,
            outcomes=weighed.outcomes,
        )
        return replace(example, record=record, sampled=Sampled(weighed.p_safe) if self._rewarded else None)

    @torch.no_grad()
    def _with_old(self, rows: list[Example], past: tuple[float, ...]) -> list[Example]:
        """Return the rows with what the student and the value head think before the first update on them."""
        rows = [replace(e, sampled=replace(cast(Sampled, e.sampled), past_rewards=past)) for e in rows]
        if self.updates == 1:
            return rows
        given = objective_input(
            self._lm, self._adapter, self._objective, rows, self._refusal_ids, self._config.token_budget
        ).answer
        log_probs, values = given.log_probs(), self._values(given.states)
        out = []
        for i, e in enumerate(rows):
            mine = given.row == i
            old = replace(cast(Sampled, e.sampled), old_log_probs=log_probs[mine], old_values=values[mine])
            out.append(replace(e, sampled=old))
        return out

    def _values(self, states: Tensor) -> Tensor:
        """Return the value of each state, which gets no gradient; 0 without a value head."""
        wide = states[:, : self._lm.width].detach().float()
        return wide.new_zeros(len(states)) if self._value_head is None else self._value_head(wide).squeeze(1)

    def _figures(self, pairs: Sequence[tuple[int, Generation, str, Weighed]], examples: Sequence[Example]) -> dict[str, float]:
        """Return what a step's responses were like, in all processes."""
        mine = [
            (w.p_safe if w.ungraded is None else None, len(g.ids), self._declines(examples[i], t, g.truncated))
            for i, g, t, w in pairs
        ]
        told = processes().gather(mine)
        graded = [p_safe for p_safe, _, _ in told if p_safe is not None]
        figures = {
            "on_policy_ungraded": 1 - len(graded) / len(told),
            "on_policy_tokens": float(np.mean([n for _, n, _ in told])),
            "on_policy_declined": float(np.mean([declined for _, _, declined in told])),
        }
        return {**figures, "reward": float(np.mean(graded))} if graded else figures


@dataclass(frozen=True)
class _Known:
    """The base model's states along a response, and its log-probability."""

    states: Tensor | None
    log_prob: float | None


def _conversation(example: Example) -> Conversation:
    if example.conversation is None:
        found = f"none for {example.record.id}"
        raise CompatibilityError("examples with their conversations, which the guard reads", found, "give Example.conversation")
    return example.conversation
