"""Graph layers on node classification, swapped for one another in one script."""
