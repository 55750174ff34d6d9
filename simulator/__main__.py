"""The program ``simulator``, also as ``python -m simulator`` in a clone."""

from cachenet.shared.command.start import start


def main() -> None:
    start("cachenet.simulator.cli")


if __name__ == "__main__":
    main()
