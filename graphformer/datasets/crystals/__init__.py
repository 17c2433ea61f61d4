"""Graphs of crystals: atoms, and their neighbours in all periodic images."""
