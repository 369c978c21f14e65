"""A spliced model taken apart, and its runs kept value by value."""
