"""Graphs of polymers from SMILES."""
