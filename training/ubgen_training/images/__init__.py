"""Labelled images as a trainer reads them."""
