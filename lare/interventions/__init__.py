"""Interventions: what is done to latents, or around them, to find out whether an answer needs what they hold.

One entry each, found by name through `lare.registry.INTERVENTIONS`; another package adds its own as an entry point of
the group ``lare.interventions``. An entry says what it changes and what it holds fixed, so that a table of results says
it too. Nothing here knows a model: a loop that makes latents hands each step's to a `Replacer` and feeds what comes
back. `lare.methods.intervening` does so for LaRe's own model; any other method needs the same two lines.
"""

from lare.interventions.asked import Asked, question_key
from lare.interventions.bank import Bank, draw_partners, read_bank
from lare.interventions.base import OWN, Intervention, get_intervention, intervention_names
from lare.interventions.replacing import Branches, Replacer, Setting

__all__ = [
    "OWN",
    "Asked",
    "Bank",
    "Branches",
    "Intervention",
    "Replacer",
    "Setting",
    "draw_partners",
    "get_intervention",
    "intervention_names",
    "question_key",
    "read_bank",
]
