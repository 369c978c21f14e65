"""Tasks to trace circuits on: pairs of prompts, a metric, named positions, and a gate before they may be used."""

from tl_transcoders.circuits.tasks.agreement import Clause as Clause
from tl_transcoders.circuits.tasks.agreement import agreement as agreement
from tl_transcoders.circuits.tasks.gate import Gate as Gate
from tl_transcoders.circuits.tasks.gate import gate as gate
from tl_transcoders.circuits.tasks.gate import measure as measure
from tl_transcoders.circuits.tasks.gate import require as require
from tl_transcoders.circuits.tasks.greater_than import Digit as Digit
from tl_transcoders.circuits.tasks.greater_than import greater_than as greater_than
from tl_transcoders.circuits.tasks.greater_than import greater_than_digit as greater_than_digit
from tl_transcoders.circuits.tasks.induction import induction as induction
from tl_transcoders.circuits.tasks.ioi import Corruption as Corruption
from tl_transcoders.circuits.tasks.ioi import Order as Order
from tl_transcoders.circuits.tasks.ioi import ioi as ioi
from tl_transcoders.circuits.tasks.pronoun import pronoun as pronoun
from tl_transcoders.circuits.tasks.task import Task as Task
