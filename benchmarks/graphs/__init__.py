"""Graph models on data sets of molecules, proteins and materials, beside peers that are trained in
the same run.
"""
