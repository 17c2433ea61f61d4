from graphformer.cli import main

main()
