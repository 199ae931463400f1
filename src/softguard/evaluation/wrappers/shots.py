"""Few-shot and many-shot: requests that were answered before, so that answering looks like the custom of the place.

The earlier requests are harmful ones of our own, with our own answers to them, which comply in tone and say nothing that works
(`data.written`): the custom, not the content, is the attack. They are the same for every request: what they cost is run once.
"""

from zlib import crc32

from softguard.core import Conversation, Message
from softguard.data.written import answered_prompts
from softguard.evaluation.wrappers.wrapper import WRAPPERS, Wrap, Wrapper, fixed

FEW, MANY = 3, 32


def shots(count: int) -> tuple[Message, ...]:
    """Return so many of our harmful prompts with a complying answer each, as turns, in an order of their own."""
    pairs = []
    for answered in answered_prompts():
        complying = next((a.text for a in answered.answers if a.unsafe and not a.refusal), None)
        if answered.row.label == "harmful" and complying is not None:
            pairs.append((answered.row.prompt, complying))
    pairs.sort(key=lambda pair: crc32(pair[0].encode()))
    return tuple(m for prompt, answer in pairs[:count] for m in (Message("user", prompt), Message("assistant", answer)))


def _after(count: int) -> Wrap:
    before: list[tuple[Message, ...]] = []

    def wrap(request: str, key: str) -> Conversation:
        if not before:
            before.append(shots(count))
        return Conversation((*before[0], Message("user", request)))

    return wrap


FEW_SHOT = WRAPPERS.register("few_shot")(
    Wrapper(f"{FEW} shots", "Wei et al. 2023, arXiv 2310.06387 (in-context attack)", fixed(_after(FEW)))
)
MANY_SHOT = WRAPPERS.register("many_shot")(
    Wrapper(f"{MANY} shots", "Anil et al. 2024, Many-shot Jailbreaking (NeurIPS)", fixed(_after(MANY)))
)
