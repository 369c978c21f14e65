"""Runnable examples on real models and real text, and the code that fetches both."""
