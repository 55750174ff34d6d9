from cachenet.models.cli import main

main()
