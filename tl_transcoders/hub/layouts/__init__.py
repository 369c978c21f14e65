"""What the configs and tensors of published layouts mean; `hub.formats` reads their files."""
