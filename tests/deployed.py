"""A deployment by ``cloud-server provision``: mosquitto with the configuration in docker/."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.shared.transport.mqtt import Address
from tests.broker import Mosquitto

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docker/mosquitto.conf"


class Deployed(Mosquitto):
    """A broker provisioned for ``devices``; ``out`` is the directory of the deployment."""

    def __init__(self, directory: Path, *devices: str) -> None:
        super().__init__(directory)
        self.out = directory / "deployment"
        self.provision(*devices, "--host", "127.0.0.1")
        shipped = CONFIGURATION.read_text()
        changed = shipped.replace("listener 8883", f"listener {self.port} 127.0.0.1")
        assert changed != shipped
        (directory / "mosquitto.conf").write_text(changed)
        # The path is relative to the broker's directory, as in docs/deploy.md. A broker that root starts drops its
        # rights, and may not enter root's directories on an absolute path.
        directory.chmod(0o711)
        self._command[-1] = "../../mosquitto.conf"
        self._place = self.out / "broker"

    @property
    def url(self) -> str:
        raise NotImplementedError("the broker needs a user; see `address`")

    def provision(self, *arguments: str) -> str:
        """Run the command. Its output."""
        done = CliRunner().invoke(
            app, ["provision", *arguments, "--out", str(self.out), "--broker", f"127.0.0.1:{self.port}"]
        )
        assert done.exit_code == 0, done.output
        return done.output

    def credentials(self, user: str) -> Path:
        """Directory of a user's credentials."""
        return self.out / ("server" if user == "server" else f"devices/{user}")

    def address(self, user: str, of: str = "") -> Address:
        """Address for ``user``, with the password ``of`` another user if given."""
        password = (self.credentials(of or user) / "password").read_text().strip()
        return Address("127.0.0.1", self.port, True, user, password, self.out / "ca.crt")

    def flags(self, user: str) -> list[str]:
        """The address as flags; the provisioned settings name another host and directory."""
        credentials = self.credentials(user)
        broker = ["--broker", f"mqtts://{user}@127.0.0.1:{self.port}", "--ca", str(credentials / "ca.crt")]
        return [*broker, "--password-file", str(credentials / "password")]
