"""How a head is computed: the readable dense oracle and what is faster. Executors never change the
answer.
"""
