"""The program ``model-builder``, also as ``python -m models`` in a clone."""

from cachenet.shared.command.start import start


def main() -> None:
    start("cachenet.models.cli")


if __name__ == "__main__":
    main()
