"""Floating-point operations of a forward pass and of a request, body, attention and head apart.

`CONVENTION` says what is counted; tests hold it against `torch.utils.flop_counter` to the digit.
"""

from dataclasses import dataclass

from softguard.costs.shape import ModelShape

CONVENTION = (
    "A multiply-add is 2 floating-point operations. Counted are matrix products: linear layers (body), queries by keys and "
    "weights by values (attention), final states by the vocabulary (head); not norms, activations, softmax or rotary factors. "
    "A request of T tokens, prompt and answer together, goes through the model once, and each of its tokens attends to all T "
    "positions (within its layer's window): what kernels compute that do not skip the causal half, and what the T-th token of "
    "cached decoding costs. The head is counted for each of the T tokens. What a request does besides, a recomputed prefix or "
    "the guard's reading, is spread over its T tokens."
)


@dataclass(frozen=True)
class Flops:
    """Operations, by where they are spent."""

    body: float = 0.0
    attention: float = 0.0
    head: float = 0.0

    @property
    def total(self) -> float:
        """All three."""
        return self.body + self.attention + self.head

    @property
    def without_head(self) -> float:
        """Body and attention."""
        return self.body + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        """Return the sums."""
        return Flops(self.body + other.body, self.attention + other.attention, self.head + other.head)

    def over(self, tokens: int) -> "Flops":
        """Return what falls to each of so many tokens."""
        return Flops(self.body / tokens, self.attention / tokens, self.head / tokens)


@dataclass(frozen=True)
class Added:
    """Positions that a system adds to a request: those before the user's text, the same in every request, and the rest.

    The keys and values of those in `front` can be kept between requests; those `after` read the text and are computed anew.
    """

    front: int = 0
    after: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.front + self.after


def pass_flops(shape: ModelShape, new: int, past: int = 0, headed: int | None = None) -> Flops:
    """Return what one forward pass costs.

    Args:
        shape: of the model.
        new: positions that go through it.
        past: positions whose keys and values are at hand.
        headed: how many positions get logits; None is all that are new.
    """
    return Flops(
        body=2.0 * new * shape.body_weights,
        attention=4.0 * new * shape.query_width * shape.attended(past + new),
        head=2.0 * (new if headed is None else headed) * shape.head_weights,
    )


def request_flops(shape: ModelShape, tokens: int, added: Added, *, cached: bool) -> Flops:
    """Return what a request of so many tokens costs, with the positions that a system adds; these get no logits.

    Args:
        shape: of the model.
        tokens: of prompt and answer together.
        added: by the system.
        cached: the keys and values of `added.front` are kept between requests, rather than computed in each.
    """
    past = added.front if cached else 0
    return pass_flops(shape, tokens + added.total - past, past, headed=tokens)


def generated_token_flops(shape: ModelShape, context: int) -> Flops:
    """Return what one generated token costs that attends to `context` positions, itself among them."""
    return pass_flops(shape, 1, context - 1)


def extra_per_generated_token(shape: ModelShape, context: int, added: Added, prompt_tokens: float, answer_tokens: int) -> float:
    """Return the operations that a system adds to one generated token, with the front's keys and values kept.

    The token attends to the added positions; the pass of those after the user's text, which each request pays anew, is spread
    over the answer. It attends to the front, a prompt and itself, and needs no logits.
    """
    plain, longer = (generated_token_flops(shape, context + extra).total for extra in (0, added.total))
    anew = pass_flops(shape, added.after, added.front + round(prompt_tokens), headed=0).total
    return longer - plain + anew / answer_tokens
