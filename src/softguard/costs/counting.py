"""Floating-point operations of a forward pass and of a request, body, attention and head apart.

`CONVENTION` says what is counted; tests hold it against `torch.utils.flop_counter` to the digit.
"""

from dataclasses import dataclass, replace

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
    """What a system adds to a request.

    Attributes:
        front: positions before the user's text, the same in every request, so that their keys and values can be kept.
        after: positions that read the text: computed anew.
        held: positions whose keys and values are parameters: never computed.
        weights: numbers that every position is multiplied with besides the model's own, as those of a LoRA that is not merged.
    """

    front: int = 0
    after: int = 0
    held: int = 0
    weights: int = 0

    @property
    def total(self) -> int:
        """All positions."""
        return self.front + self.after + self.held

    def on(self, shape: ModelShape) -> ModelShape:
        """Return the shape with the added weights in its body."""
        return replace(shape, body_weights=shape.body_weights + self.weights)


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
    past = added.held + (added.front if cached else 0)
    return pass_flops(added.on(shape), tokens + added.total - past, past, headed=tokens)


def generated_token_flops(shape: ModelShape, context: int) -> Flops:
    """Return what one generated token costs that attends to `context` positions, itself among them."""
    return pass_flops(shape, 1, context - 1)


def extra_per_generated_token(shape: ModelShape, context: int, added: Added, prompt_tokens: float, answer_tokens: int) -> float:
    """Return the operations that a system adds to one generated token, with the front's keys and values kept.

    The token attends to the added positions and is multiplied with the added weights; what each request pays anew is spread over
    the answer: the pass of the positions after the user's text, which attends to those before, a prompt and itself and needs no
    logits, and the prompt's own products with the added weights.
    """
    plain = generated_token_flops(shape, context).total
    longer = generated_token_flops(added.on(shape), context + added.total).total
    anew = pass_flops(added.on(shape), added.after, added.front + added.held + round(prompt_tokens), headed=0).total
    return longer - plain + (anew + 2.0 * added.weights * prompt_tokens) / answer_tokens
