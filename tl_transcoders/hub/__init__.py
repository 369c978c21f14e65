"""Transcoders from folders and hub repositories, and back."""

from tl_transcoders.hub.load import load as load
from tl_transcoders.hub.push import push_to_hub as push_to_hub
from tl_transcoders.hub.release import Release as Release
from tl_transcoders.hub.release import Releases as Releases
from tl_transcoders.hub.releases import releases as releases
from tl_transcoders.hub.save import save as save
