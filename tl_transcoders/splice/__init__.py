"""Letting transcoders stand where MLPs stood, for a while."""

from tl_transcoders.splice.checks import check_original as check_original
from tl_transcoders.splice.forward_state import Exclude as Exclude
from tl_transcoders.splice.hooked_transcoder import HookedTranscoder as HookedTranscoder
from tl_transcoders.splice.hooked_transcoder import Mode as Mode
from tl_transcoders.splice.session import Spliced as Spliced
from tl_transcoders.splice.session import splice as splice
from tl_transcoders.splice.session import unsplice as unsplice
