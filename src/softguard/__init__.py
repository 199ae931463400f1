"""softguard: the guard, distilled into a soft prompt."""

__version__ = "0.1.0"
