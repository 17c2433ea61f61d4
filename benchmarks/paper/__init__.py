"""The paper's study redone: arXiv 2501.02393's claims, one by one, and recipes around them.

``python -m benchmarks.paper --help`` says what can be asked for.
"""
