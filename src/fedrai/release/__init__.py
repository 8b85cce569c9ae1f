"""Exported models and their cards.

export.py          an adapter or a merged model in a folder of its own
card.py            its model card: metadata, warnings, how to load it
card_figures.py    the measured part of the card
card_training.py   how it was trained
markdown.py        sections and tables
"""

from fedrai.release.card import ExportedModel, card, relabel_merged

__all__ = ["ExportedModel", "card", "relabel_merged"]
