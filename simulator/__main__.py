"""``python -m simulator``."""

from cachenet.simulator.cli import main

if __name__ == "__main__":
    main()
