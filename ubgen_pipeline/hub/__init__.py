"""Talking to the Hub: access, streaming a dataset there, publishing."""
