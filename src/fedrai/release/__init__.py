"""The gate: a model is handed out with evidence and signatures, or not at all; exports and cards.

releasing.py       a run -> the gate's decision -> a release folder
deciding.py        the last round that meets the bars, or why none does
bars.py            the bars of a round, judged on its records
outcomes.py        verdicts on the outside sets, item by item
asking.py          further items of outside sets while a bar is not settled
writing.py         the release folder
evidence.py        its JSON files
bom.py             its bill of materials
safety_case.py     its safety case
signature.py       signatures in the format of OpenSSF Model Signing
signing.py         keys, and further signatures
verifying.py       whether a release is what its signers signed

export.py          an adapter or a merged model in a folder of its own
card.py            its model card, with the text in templates/
card_figures.py    the figures of the card
"""

from fedrai.release.card import ExportedModel, card, relabel_merged

__all__ = ["ExportedModel", "card", "relabel_merged"]
