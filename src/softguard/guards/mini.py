"""`mini`: the embedded guard over (prompt, response). MiniLM-L6 with our own adapter and head, some 2 MB in the package.

One idea: a small cross-encoder with three heads: the pair is unsafe; the prompt asks for harm; the answer declines. `p_safe` is
calibrated on what the first says and on what the other two say together (`unsafe_log_odds`): they were right more often than
either alone on pairs of other sources. The other two are its categories. What it is trained on, its figures and its limits:
`weights/mini.card.md`. Only the last user turn and the answer are read.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from softguard.core import Conversation, Verdict
from softguard.errors import CompatibilityError, SourceError
from softguard.guards.judging import why_ungraded
from softguard.guards.mini_network import HEADS, PairEncoder, PairNetwork, head_logits, load_network, unsafe_log_odds
from softguard.guards.registry import GUARDS, SOURCES
from softguard.sources import resolve

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class MiniConfig:
    """What `mini.json` holds beside the figures: everything that the verdicts depend on."""

    backbone: str
    backbone_sha256: str
    weights_sha256: str
    max_tokens: int
    hidden: int
    lora_scale: float
    temperature: float
    bias: float

    @classmethod
    def read(cls, path: Path) -> "MiniConfig":
        """Return the configuration of a file.

        Raises:
            SourceError: it is absent or not one.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8"))["config"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise SourceError(f"a mini guard's configuration in {path}", repr(error), "run `softguard guard train`") from error


class MiniGuard:
    """The guard of one folder with `NAME.safetensors` and `NAME.json`."""

    def __init__(self, folder: Path = WEIGHTS, name: str = "mini", backbone: Path | None = None) -> None:
        """Load the weights and merge the adapter.

        Args:
            folder: holds both files.
            name: their stem, and the guard's name in tables.
            backbone: a folder of MiniLM that is known to be the right one; None resolves and checks the pinned one.
        """
        self._config = MiniConfig.read(folder / f"{name}.json")
        weights = folder / f"{name}.safetensors"
        found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no file"
        if found != self._config.weights_sha256:
            raise SourceError(f"{weights.name} with sha256 {self._config.weights_sha256}", found, "restore both files")
        self._name = name
        path = backbone or self._checked_backbone()
        self._encoder = PairEncoder(path, self._config.max_tokens)
        self._network = load_network(path, load_file(weights), self._config.lora_scale, self._config.hidden)

    @property
    def name(self) -> str:
        """The name in tables."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """The hash of the configuration, which holds the hashes of both sets of weights."""
        return hashlib.sha256(repr(("mini-5", self._config)).encode()).hexdigest()

    @property
    def num_parameters(self) -> int:
        """Backbone and head; the adapter is merged into the backbone."""
        return sum(p.numel() for p in self._network.parameters())

    @property
    def network(self) -> PairNetwork:
        """What every pass goes through, for whoever counts its cost."""
        return self._network

    def passes(self, prompt_tokens: int, answer_tokens: int) -> tuple[int, ...]:
        """Return the length of each pass over a pair: there is one."""
        return (self._encoder.length(prompt_tokens, answer_tokens),)

    @property
    def category_names(self) -> frozenset[str]:
        """The categories that its verdicts score."""
        return frozenset(HEADS) - {"unsafe"}

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; ungraded, with the reason, where there is no prompt.

        Scores are rounded to 5 digits, so that in float32 they do not depend on what else was in the batch. In bfloat16, which is
        taken where the processor multiplies it fast, they move with it in the third digit.
        """
        verdicts = [Verdict(ungraded=why_ungraded(c) or "not judged") for c in conversations]
        graded = [i for i, c in enumerate(conversations) if why_ungraded(c) is None]
        logits = head_logits(self._network, self._encoder, [(conversations[i].prompt, conversations[i].response) for i in graded])
        logits[:, 0] = unsafe_log_odds(logits) / self._config.temperature + self._config.bias
        for i, row in zip(graded, logits.tolist(), strict=True):
            pair = self._encoder.encode(conversations[i].prompt, conversations[i].response)
            verdicts[i] = _verdict(row, truncated=pair.response_cut > 0)
        return verdicts

    def _checked_backbone(self) -> Path:
        source = resolve(self._config.backbone)
        if source.sha256 != self._config.backbone_sha256:
            expected = f"the backbone with sha256 {self._config.backbone_sha256}"
            raise CompatibilityError(expected, source.sha256, "restore the catalogue's entry or train the guard again")
        return source.path


def _verdict(logits: Sequence[float], *, truncated: bool) -> Verdict:
    scores = dict(zip(HEADS, (round(p, 5) for p in torch.tensor(logits).double().sigmoid().tolist()), strict=True))
    return Verdict(p_safe=round(1.0 - scores.pop("unsafe"), 5), categories=scores, truncated=truncated)


SOURCES["mini"] = ("minilm-l6",)


@GUARDS.register("mini")
def mini() -> MiniGuard:
    """Return the embedded guard."""
    return MiniGuard()
