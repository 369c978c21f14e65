"""Changing nodes of a spliced model and seeing what follows."""

from tl_transcoders.circuits.edits import Ablate as Ablate
from tl_transcoders.circuits.edits import Add as Add
from tl_transcoders.circuits.edits import Edit as Edit
from tl_transcoders.circuits.edits import Mean as Mean
from tl_transcoders.circuits.edits import Patch as Patch
from tl_transcoders.circuits.edits import Scale as Scale
from tl_transcoders.circuits.edits import Set as Set
from tl_transcoders.circuits.interventions.context import intervening as intervening
from tl_transcoders.circuits.interventions.intervene import Intervened as Intervened
from tl_transcoders.circuits.interventions.intervene import intervene as intervene
