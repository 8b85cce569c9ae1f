"""Exported models and their cards.

export.py          an adapter or a merged model in a folder of its own
card.py            its model card, with the text in templates/
card_figures.py    the figures of the card
"""

from fedrai.release.card import ExportedModel, card, relabel_merged

__all__ = ["ExportedModel", "card", "relabel_merged"]
