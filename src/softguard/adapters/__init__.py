"""What is learned and attached to a frozen model. A new adapter is one file here with its config and `@ADAPTERS.register`."""

from softguard.adapters._direction import Direction
from softguard.adapters.lora import Lora
from softguard.adapters.protocol import ADAPTERS, Adapter, Fitted
from softguard.adapters.soft_prompt import SoftPrompt, SoftPromptConfig
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = ["ADAPTERS", "Adapter", "Direction", "Fitted", "Lora", "SoftPrompt", "SoftPromptConfig"]
