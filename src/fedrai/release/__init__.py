"""What goes with an exported model: its card."""

from fedrai.release.card import ExportedModel, card, relabel_merged

__all__ = ["ExportedModel", "card", "relabel_merged"]
