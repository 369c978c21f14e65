"""The command `tl-transcoders`, one file per verb."""

from tl_transcoders.cli.app import app as app
