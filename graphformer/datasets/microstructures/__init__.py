"""Graphs of grains from images and models of microstructures, and their properties."""
