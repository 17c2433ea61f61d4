"""``python -m graphformer``: the command line."""

from graphformer.cli import main

if __name__ == "__main__":
    main()
