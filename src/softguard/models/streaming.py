"""One answer as it is made: the tokens of `sample`, with the text that each of them lets be shown.

What requests begin with (virtual tokens in front, the system turn) can be held ready as keys and values, so that the first token
waits for the user's own turn alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softguard.models.chat import ChatRenderer
from softguard.models.decoding import decode_steps
from softguard.models.drawing import uniforms
from softguard.models.language_model import LanguageModel
from softguard.models.sampling import Generation
from softguard.models.shared_prefix import SharedPrefix

_HALF = "\ufffd"
"""What stands for the bytes of a character that is not whole yet."""


@dataclass(frozen=True)
class StreamedToken:
    """One pass of the network: `text` is what can be shown after it, `tokens` how many it has made so far.

    The pieces of text make up the answer as `ChatRenderer.decode` gives it. `done`: with the last one.
    """

    text: str
    tokens: int
    done: Generation | None = None


@dataclass(frozen=True)
class KnownPrefix:
    """What some requests begin with, and its keys and values."""

    ids: tuple[int, ...]
    shared: SharedPrefix

    @classmethod
    @torch.inference_mode()
    def of(cls, lm: LanguageModel, prompts: Sequence[Sequence[int]], virtual_tokens: Tensor | None) -> "KnownPrefix":
        """Return the prefix of two or more sample prompts; it is empty where sharing one would save nothing."""
        shared = SharedPrefix.run(lm, prompts, virtual_tokens)
        return cls(tuple(prompts[0][: shared.ids]), shared)

    def before(self, prompt: Sequence[int]) -> SharedPrefix | None:
        """Return the keys and values for a prompt that begins so and goes on; None for any other."""
        length = len(self.ids)
        return self.shared if 0 < length < len(prompt) and tuple(prompt[:length]) == self.ids else None


def stream(
    lm: LanguageModel,
    renderer: ChatRenderer,
    prompt: Sequence[int],
    key: str,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    refusal_token: int,
    refuse_above: float | None = None,
    virtual_tokens: Tensor | None = None,
    prefix: SharedPrefix | None = None,
) -> Iterator[StreamedToken]:
    """Give the tokens that `sample` returns for one prompt, one pass of the network for each.

    The caller may stop at any token, and do other work on the same model between two. The arguments are those of `sample`.
    """
    made: list[int] = []
    shown, first = "", 0.0
    draws = uniforms(seed, key, max_new_tokens)[None]
    steps = decode_steps(
        lm, [prompt], draws, max_new_tokens, temperature, refusal_token, refuse_above, virtual_tokens, prefix=prefix
    )
    for step in steps:
        if not made:
            first = step.log_odds[0]
            if step.refused[0]:
                yield StreamedToken("", 0, Generation((), False, first, refused=True))
                return
        made.append(step.tokens[0])
        ended = made[-1] in lm.stop_ids
        last = ended or len(made) == max_new_tokens
        text = renderer.decode(made)
        fresh = _showable(text, shown, last, renderer.rewrites)
        shown += fresh
        yield StreamedToken(fresh, len(made), Generation(tuple(made), not ended, first) if last else None)


def _showable(text: str, shown: str, last: bool, rewrites: bool) -> str:
    """Return what can be added to the text shown: nothing that a later token may take back."""
    if last:
        return text[len(shown) :]
    stable = text.rstrip(_HALF).rstrip()
    return "" if rewrites or not stable.startswith(shown) else stable[len(shown) :]
