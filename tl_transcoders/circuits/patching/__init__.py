"""Path patching."""

from tl_transcoders.circuits.patching.families import ActiveFeatures as ActiveFeatures
from tl_transcoders.circuits.patching.families import AllHeads as AllHeads
from tl_transcoders.circuits.patching.freeze import Freeze as Freeze
from tl_transcoders.circuits.patching.path_patch import PatchResult as PatchResult
from tl_transcoders.circuits.patching.path_patch import path_patch as path_patch
from tl_transcoders.circuits.patching.sweep import SweepResult as SweepResult
from tl_transcoders.circuits.patching.sweep import sweep as sweep
