"""`python -m tl_transcoders` is `tl-transcoders`."""

from tl_transcoders.cli import app

if __name__ == "__main__":
    app()
