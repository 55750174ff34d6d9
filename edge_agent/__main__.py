"""The program ``edge-agent``, also as ``python -m edge_agent`` in a clone."""

from cachenet.shared.command.start import start


def main() -> None:
    start("cachenet.edge_agent.cli")


if __name__ == "__main__":
    main()
