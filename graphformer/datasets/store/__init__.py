"""What the data sets of all domains share: downloads, caches, tables."""
