"""Turns of five systems in a runtime: who answers, with which ids, and when their tokens came.

Each request has a text of its own, so that a slot keeps of the last one just what all requests of a system begin with.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from softguard.core import Conversation
from softguard.runtimes import TimedRuntime

SYSTEMS: Mapping[str, str] = {
    "base": "Base model",
    "guarded": "Base, guard as large",
    "system_prompt": "System prompt",
    "student_recomputed": "Student, recomputed",
    "student_cached": "Student, front cached",
}
PROCESSES: Mapping[str, tuple[str, ...]] = {
    "base": ("base",),
    "guarded": ("base", "guard"),
    "system_prompt": ("prompted",),
    "student_recomputed": ("student",),
    "student_cached": ("student",),
}
_QUESTION = "\nIs this answer safe? Say safe or unsafe:"
_TEXT = (
    "water time people house river year work night light garden music paper table story field winter summer morning friend road "
    "bread stone window letter island bridge market forest mountain school kitchen engine flower teacher village doctor picture "
    "station weather animal"
)
_WORDS = _TEXT.split()

Open = Callable[[Path, int], AbstractContextManager[TimedRuntime]]
"""Starts a process with a model and so many slots."""


@dataclass(frozen=True)
class Taken:
    """One request.

    Attributes:
        arrivals: seconds from its sending to each token.
        read_tokens: of its prompt.
        verdicts: by number of tokens, the seconds that the guard took to judge the answer up to there; empty without a guard.
    """

    arrivals: tuple[float, ...]
    read_tokens: int
    verdicts: Mapping[int, float] = field(default_factory=dict)

    def shown(self, tokens: int) -> float:
        """Return after how many seconds an answer of so many tokens may be shown as a whole."""
        return self.arrivals[tokens - 1] + self.verdicts.get(tokens, 0.0)

    @property
    def first(self) -> float:
        """Seconds to the first token that may be shown: with a guard, not before the whole answer is judged."""
        return self.shown(len(self.arrivals)) if self.verdicts else self.arrivals[0]

    @property
    def rate(self) -> float:
        """Tokens per second after the first."""
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])


class Bench:
    """The processes of all systems, each with so many slots; a context manager."""

    def __init__(self, files: Mapping[str, Path], system_prompt: str, slots: int, start: Open) -> None:
        """Set up.

        Args:
            files: the models of the processes base, guard, prompted and student.
            system_prompt: of the hard system prompt.
            slots: of each process.
            start: starts one.
        """
        self._files, self._system_prompt, self._slots, self._start = files, system_prompt, slots, start
        self._stack = ExitStack()
        self._running: dict[str, TimedRuntime] = {}
        self._texts = 0

    def __enter__(self) -> "Bench":
        with ExitStack() as stack:
            self._running = {name: stack.enter_context(self._start(path, self._slots)) for name, path in self._files.items()}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def runtime(self) -> str:
        """The runtime and its version."""
        return self._running["base"].name

    def count(self, text: str) -> int:
        """Return the tokens of a text."""
        base = self._running["base"]
        return len(base.tokenize(text)) - len(base.tokenize(""))

    def peak_bytes(self, system: str) -> int:
        """Return the most memory that a system's processes have held, summed."""
        return sum(self._running[name].peak_resident_bytes for name in PROCESSES[system])

    def turn(self, system: str, prompt_tokens: int, parallel: int, count: int, judged: Sequence[int]) -> list[Taken]:
        """Return what so many requests at once took.

        Args:
            system: who answers.
            prompt_tokens: of each user's text.
            parallel: requests, at most as many as there are slots.
            count: of tokens that each answer has.
            judged: lengths of the answer that a guard judges, where the system has one.
        """
        answering = self._running[PROCESSES[system][0]]
        prompt = self._system_prompt if system == "system_prompt" else None
        requests = [answering.prompt_ids(Conversation.from_prompt(self._text(prompt_tokens), prompt)) for _ in range(parallel)]
        guard = self._running["guard"]
        question = guard.tokenize(_QUESTION)[len(guard.tokenize("")) :]  # no BOS amid a text

        def run(slot: int) -> Taken:
            ids = requests[slot]
            answer = answering.timed(ids, count, slot=slot, cached=system != "student_recomputed")
            if system != "guarded":
                return Taken(answer.arrivals, len(ids))
            verdicts = {}
            for tokens in judged:
                read = [*ids, *answer.ids[:tokens], *question]
                verdicts[tokens] = guard.timed(read, 1, slot=slot, cached=False).arrivals[0]
            return Taken(answer.arrivals, len(ids), verdicts)

        with ThreadPoolExecutor(parallel) as pool:
            return list(pool.map(run, range(parallel)))

    def _text(self, tokens: int) -> str:
        """Return a new text of as many tokens, or as near below as whole words come; it begins unlike the last one."""
        drawn = random.Random(self._texts).choices(_WORDS, k=tokens)
        drawn[0] = _WORDS[self._texts % len(_WORDS)]
        self._texts += 1
        if self.count(" ".join(drawn)) == tokens:
            return " ".join(drawn)
        words = bisect_right(range(1, tokens + 1), tokens, key=lambda k: self.count(" ".join(drawn[:k])))
        return " ".join(drawn[: max(1, words)])
