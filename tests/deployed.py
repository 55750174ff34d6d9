"""A deployment as ``cloud-server provision`` makes it: a real mosquitto on the very configuration that is shipped."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.shared.transport.mqtt import Address
from tests.broker import Mosquitto

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docker/mosquitto.conf"


class Deployed(Mosquitto):
    """A broker that has been provisioned for ``devices``; ``out`` is where."""

    def __init__(self, directory: Path, *devices: str) -> None:
        super().__init__(directory)
        self.out = directory / "deployment"
        self.provision(*devices, "--host", "127.0.0.1")
        # As it is shipped but for the port.
        shipped = CONFIGURATION.read_text()
        changed = shipped.replace("listener 8883", f"listener {self.port} 127.0.0.1")
        assert changed != shipped
        (directory / "mosquitto.conf").write_text(changed)
        # From the broker's place as docs/deploy.md has it: a broker that root starts gives root's rights up, and may
        # then pass through no directory of root's own on an absolute path.
        directory.chmod(0o711)
        self._command[-1] = "../../mosquitto.conf"
        self._place = self.out / "broker"

    @property
    def url(self) -> str:
        raise NotImplementedError("whose? see `address`")

    def provision(self, *arguments: str) -> str:
        """Run the command; what it prints."""
        done = CliRunner().invoke(
            app, ["provision", *arguments, "--out", str(self.out), "--broker", f"127.0.0.1:{self.port}"]
        )
        assert done.exit_code == 0, done.output
        return done.output

    def kit(self, user: str) -> Path:
        return self.out / ("server" if user == "server" else f"devices/{user}")

    def address(self, user: str, of: str = "") -> Address:
        """Where and as whom to connect; with the password ``of`` another, if it is named."""
        password = (self.kit(of or user) / "password").read_text().strip()
        return Address("127.0.0.1", self.port, True, user, password, self.out / "ca.crt")

    def flags(self, user: str) -> list[str]:
        """The same for a command line; its kit's settings name a host and a place that are not here."""
        kit = self.kit(user)
        broker = ["--broker", f"mqtts://{user}@127.0.0.1:{self.port}", "--ca", str(kit / "ca.crt")]
        return [*broker, "--password-file", str(kit / "password")]
