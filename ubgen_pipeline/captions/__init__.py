"""Captions of each class by a language model, written as a file with templates."""
