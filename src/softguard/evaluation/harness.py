"""lm-evaluation-harness as a library: its tasks on data of ours, systems of ours as its models, and its grade of every answer.

One idea: what the harness takes for a rendered prompt is the conversation itself, as JSON, so that a chat is rendered by nobody
but the system that answers it. Prompts, examples, filters and metrics are the harness's, from the files that it ships. It is an
extra, imported where it is used. Must not import models or systems: what answers comes in as functions.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from softguard.core import Conversation, Reply
from softguard.data.document import Document
from softguard.errors import CompatibilityError, ConfigError, DataError
from softguard.evaluation.suites.harness_task import HarnessTask
from softguard.sources import resolve

ANSWER_TOKENS = 256
"""Longest answer where a task does not say: as for the harness's own Hugging Face models."""
SHOTS_SEED = 1234
"""The harness's own, for tasks that draw their examples."""


@dataclass(frozen=True)
class Likelihood:
    """How probable an answer is to a system.

    Attributes:
        log_prob: log p(answer | question), the sum over its tokens in nats; NaN where it was not scored.
        greedy: whether every token is the likeliest one.
        tokens: of the answer.
        refusal_log_odds: of the refusal's first token at the answer's first position.
        ungraded: why it was not scored.
    """

    log_prob: float
    greedy: bool
    tokens: int
    refusal_log_odds: float
    ungraded: str | None = None


Answer = Callable[[Sequence[Conversation], int], Sequence[Reply]]
"""Gives the greedy replies of at most so many tokens."""
Score = Callable[[Sequence[Conversation], Sequence[str]], Sequence[Likelihood]]
"""Gives the likelihood of each answer after each request."""


class HarnessModel:
    """A system as the harness sees a model: with the methods of its class `LM`, which is not loaded for it.

    It is asked as a chat (`apply_chat_template=True`), and greedily.
    """

    rank, world_size, tokenizer_name = 0, 1, "softguard"

    def __init__(self, answer: Answer, score: Score) -> None:
        self._answer, self._score, self._stderr = answer, score, sys.stderr

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as JSON: it is rendered where all chats are, not here. A begun answer is its last turn."""
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answers, cut before the first of the task's stop strings.

        Raises:
            CompatibilityError: a task that samples, or is not asked as a chat.
        """
        asked = [(conversation_of(r.args[0]), dict(r.args[1])) for r in requests]
        if any(settings.get("do_sample") or settings.get("temperature") for _, settings in asked):
            raise CompatibilityError("a task with greedy answers", "one that samples", "set do_sample false, temperature 0")
        lengths = [int(settings.get("max_gen_toks", ANSWER_TOKENS)) for _, settings in asked]
        out = [""] * len(asked)
        for most in dict.fromkeys(lengths):
            of = [i for i, length in enumerate(lengths) if length == most]
            with contextlib.redirect_stderr(self._stderr):
                replies = self._answer([asked[i][0] for i in of], most)
            for i, reply in zip(of, replies, strict=True):
                out[i] = _before(reply.text, asked[i][1].get("until") or [])
        return out

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return log p(continuation | context) in nats, and whether the continuation is the greedy one.

        Unlike the harness's own models, the white space that ends a rendered prompt is no part of the continuation: all the
        continuations of one context differ from the harness's figure by the same number.

        Raises:
            CompatibilityError: a task that is not asked as a chat.
        """
        conversations = [conversation_of(r.args[0]) for r in requests]
        with contextlib.redirect_stderr(self._stderr):
            scored = self._score(conversations, [r.args[1] for r in requests])
        return [(s.log_prob, s.greedy) for s in scored]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Raise: a system answers requests, and what it would give a text without one is not defined.

        Raises:
            CompatibilityError: always.
        """
        raise CompatibilityError("a task that asks for answers", "one that scores plain text", "choose another task")


def conversation_of(context: str) -> Conversation:
    """Return the conversation that `HarnessModel.apply_chat_template` wrote down.

    Raises:
        CompatibilityError: it is something else.
    """
    try:
        turns = json.loads(context)
        if not isinstance(turns, list):
            raise ValueError(context)
        return Conversation.from_dicts(turns)
    except ValueError as error:  # DataError is one
        todo = "call the harness with apply_chat_template=True, fewshot_as_multiturn=True"
        raise CompatibilityError("a task that is asked as a chat", "plain text", todo) from error


def _before(text: str, stops: Sequence[str] | str) -> str:
    for stop in filter(None, [stops] if isinstance(stops, str) else stops):
        text = text.split(stop)[0]
    return text


@dataclass(frozen=True)
class Graded:
    """One question with the harness's grade of one system's answer.

    Attributes:
        document: the question.
        conversation: how it was asked, examples included.
        choices: the answers to choose from; empty where the answer is free.
        gold: the right answer, None where no answer is the right one.
        picked: the place of the likeliest choice, None where there are none.
        scores: by our name of the metric, the harness's values: one, or one for each instruction.
    """

    document: Document
    conversation: Conversation
    choices: tuple[str, ...]
    gold: str | None
    picked: int | None
    scores: Mapping[str, tuple[float, ...]]


def harness_version() -> str:
    """Return the harness's version, without loading it.

    Raises:
        ConfigError: it is not installed; the message has the command.
    """
    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise _absent("it is not installed") from error


class HarnessSuite:
    """A suite's questions as tasks of the harness, built once for all systems."""

    def __init__(self, task: HarnessTask, documents: Sequence[Document], data_dir: Path | None, max_new_tokens: int = 0) -> None:
        """Build the tasks.

        Args:
            task: what the harness is told.
            documents: the questions.
            data_dir: the folder of public sets, for examples and for nltk's data (`nltk_data`).
            max_new_tokens: longest answer; 0 takes the task's own.

        Raises:
            ConfigError: the harness or something that it needs is not installed.
            DataError: no questions, or examples that are nowhere to be had.
            SourceError: nltk's data, where they are needed and nowhere to be had.
        """
        if not documents:
            raise DataError("at least one question", "none", "ask for fewer shards, or a larger limit")
        self.task, self.documents = task, documents
        shots = task.shots(data_dir) if task.shots else []
        by_name: dict[str, list[Document]] = {}
        for document in documents:
            by_name.setdefault(task.name_of(document), []).append(document)
        self._by_name = by_name
        with _installed(), _quiet():
            self._tasks = self._built(shots, data_dir)
        length = max_new_tokens or task.max_new_tokens
        for built in self._tasks.values():
            if length and built.config.generation_kwargs:  # a choice writes nothing
                built.set_config("generation_kwargs", {"max_gen_toks": length}, update=True)

    def _built(self, shots: Sequence[Document], data_dir: Path | None) -> dict[str, Any]:
        import lm_eval.tasks
        from datasets import Dataset

        if self.task.needs_punkt:
            _seed_checks(data_dir)

        def data_of(rows: Sequence[Document]) -> Callable[..., Any]:
            parts = {self.task.split: Dataset.from_list([dict(d.fields) for d in rows])}
            if shots:
                parts[self.task.shots_split] = Dataset.from_list([dict(d.fields) for d in shots])
            return lambda **_: parts

        manager = lm_eval.tasks.TaskManager(
            include_defaults=False, include_path=str(Path(lm_eval.tasks.__file__).parent / self.task.folder)
        )
        members = [{"task": name, "custom_dataset": data_of(rows), **self.task.settings} for name, rows in self._by_name.items()]
        built: dict[str, Any] = manager.load([{"group": "softguard", "task": members}])["tasks"]
        return built

    @property
    def tasks(self) -> dict[str, Any]:
        """The harness's task objects by name, as its `evaluate` takes them."""
        return self._tasks

    @property
    def answer_tokens(self) -> int:
        """The longest answer; 0 where nothing is written."""
        settings = next(iter(self._tasks.values())).config.generation_kwargs
        return int(settings.get("max_gen_toks", ANSWER_TOKENS)) if settings else 0

    def results(self, model: Any) -> dict[str, Any]:
        """Return what the harness's `evaluate` returns for a model: of ours, or of its own."""
        with _installed():
            from lm_eval.evaluator import evaluate

        for task in self._tasks.values():
            task.set_fewshot_seed(SHOTS_SEED)
        with _quiet():
            results: dict[str, Any] = evaluate(
                model, {"tasks": self._tasks}, bootstrap_iters=0, apply_chat_template=True, fewshot_as_multiturn=True
            )
        return results

    def grade(self, model: HarnessModel) -> list[Graded]:
        """Return the harness's grade of every answer, in the order of the questions."""
        samples = self.results(model)["samples"]
        graded = {}
        for name, rows in self._by_name.items():
            by_document: dict[int, dict[str, Any]] = {}
            for sample in samples[name]:
                by_document.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
            for number, document in enumerate(rows):
                graded[document.id] = self._graded(document, by_document[number])
        return [graded[d.id] for d in self.documents]

    def _graded(self, document: Document, by_filter: Mapping[str, Mapping[str, Any]]) -> Graded:
        """Return a question's grade from the harness's samples under each filter."""
        any_ = next(iter(by_filter.values()))
        requests, target = any_["arguments"], any_["target"]
        is_choice = self.task.gold == "choice"
        choices = tuple(str(r[1]) for r in requests) if is_choice else ()
        likely = [response[0][0] for response in any_["resps"]] if is_choice else []
        gold = choices[int(target)] if is_choice else str(target) if self.task.gold == "text" else None
        scores = {ours: by_filter[theirs.filter][theirs.name] for ours, theirs in self.task.metrics.items()}
        return Graded(
            document,
            conversation_of(requests[0][0]),
            choices,
            gold,
            max(range(len(choices)), key=likely.__getitem__) if choices else None,
            {n: tuple(map(float, s)) if isinstance(s, list | tuple) else (float(s),) for n, s in scores.items()},
        )


def _seed_checks(data_dir: Path | None) -> None:
    """Make IFEval's checks the same each time: languages are guessed from a seed, and sentences split by data that are there."""
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0
    places = [str(data_dir / "nltk_data")] if data_dir else []
    wanted = "tokenizers/punkt_tab/english/"
    try:
        nltk.data.find(wanted, [*places, *nltk.data.path])
    except LookupError:
        places = [str(resolve("punkt-english").path)]
    nltk.data.path[:0] = [p for p in places if p not in nltk.data.path]


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise _absent(f"no {error.name or error}") from error


def _absent(found: str) -> ConfigError:
    return ConfigError("lm-evaluation-harness, which grades this suite", found, "pip install 'softguard[harness]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's bars and prints off the terminal; the systems' own progress is shown all the same."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
