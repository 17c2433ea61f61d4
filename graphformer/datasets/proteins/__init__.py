"""Graphs of proteins from sequences and structures."""
