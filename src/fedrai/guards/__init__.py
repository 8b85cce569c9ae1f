"""Guards: conversations in, verdicts out.

`base` is the protocol. Behind it stand generative guards (`generative`, with the table of their
formats in `formats`), sequence classifiers (`classifier`), endpoints (`remote`), rules (`rules`),
cascades (`cascade`) and the guards that `fedrai guard train` makes, the embedded one among them
(`trained`). `loading` makes a guard from its name, its folder or its table in a recipe.
"""

from fedrai.guards.base import Conversation, Guard, VerdictBatch, part_of

__all__ = ["Conversation", "Guard", "VerdictBatch", "part_of"]
