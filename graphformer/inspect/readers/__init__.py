"""How the graphs of each kind of model are read: pre-trained ones, our layers over tokens, our
networks over graphs.
"""
