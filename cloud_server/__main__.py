"""The program ``cloud-server``, also as ``python -m cloud_server`` in a clone."""

from cachenet.shared.command.start import start


def main() -> None:
    start("cachenet.cloud_server.cli")


if __name__ == "__main__":
    main()
