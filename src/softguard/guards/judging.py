"""What every guard asks before it judges: is there an answer to judge, and would its text break out of the guard's prompt?

One idea: the judged text is hostile. Whatever in it a tokenizer or a format would take for a mark of its own (`<|eot_id|>`,
`<END CONVERSATION>`) is broken by an invisible character, so that an answer cannot close the turn it stands in and write the
verdict itself. Text without such marks passes unchanged, so the format stays the one that the model was trained with.
"""

import re
from collections.abc import Iterable

from softguard.core import Conversation, Message

WORD_JOINER = "\u2060"
"""Invisible, and no space: what a reader sees stays the same."""


def why_ungraded(conversation: Conversation) -> str | None:
    """Return why a conversation cannot be judged, or None where it can: it needs a prompt and an assistant's turn."""
    if not any(m.role == "user" for m in conversation.messages):
        return "no user turn"
    if conversation.messages[-1].role != "assistant":
        return "no answer: the last turn is not the assistant's"
    if not conversation.prompt.strip():
        return "empty prompt"
    return None


def defused(conversation: Conversation, marks: Iterable[str]) -> Conversation:
    """Return the conversation with a word joiner after the first character of every mark that its turns hold."""
    longest_first = sorted({m for m in marks if len(m) > 1}, key=lambda m: (-len(m), m))
    if not longest_first:
        return conversation
    pattern = re.compile("|".join(re.escape(m) for m in longest_first), re.IGNORECASE)
    return Conversation(tuple(Message(m.role, pattern.sub(_broken, m.content)) for m in conversation.messages))


def last_pair(conversation: Conversation) -> tuple[str, str]:
    """Return the last user turn and the answer: all that the families read which know no longer conversations."""
    return conversation.prompt, conversation.response


def _broken(found: re.Match[str]) -> str:
    return found[0][0] + WORD_JOINER + found[0][1:]
