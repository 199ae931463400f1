"""The vocabulary and the protocols that all rooms share. Tensors and models are no business of this room."""

from softguard.core.conversation import Conversation, Message
from softguard.core.protocols import Guard, Piece, Reply, ReplySettings, StreamingSystem, System
from softguard.core.verdict import Verdict

REFUSAL_TEXT = "Sorry, I cannot help with this matter."
"""The fixed refusal y_r (paper, section 3.1), the default of every refusal text in the package."""

__all__ = [
    "REFUSAL_TEXT",
    "Conversation",
    "Guard",
    "Message",
    "Piece",
    "Reply",
    "ReplySettings",
    "StreamingSystem",
    "System",
    "Verdict",
]
