"""What goes with an exported model: its card."""

from fedrai.release.card import Exported, card, relabelled

__all__ = ["Exported", "card", "relabelled"]
