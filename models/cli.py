"""The command ``model-builder``."""

from __future__ import annotations

from cachenet.models.build_config import BuildSettings
from cachenet.models.commands import create, inspect, signing, update
from cachenet.models.supervise import supervise
from cachenet.shared.command import exit
from cachenet.shared.command.options import Version, program

app = program("model-builder", BuildSettings)


@app.callback()
def _root(version: Version = False) -> None:
    """Build the bundles that edge agents and cloud servers run.

    Example: model-builder build --full model.onnx --data frames/ --preprocessing imagenet --out build/mine
    """


for _command in (
    create.train,
    create.build,
    create.fetch,
    update.fine_tune,
    update.add_size,
    update.exits,
    update.prove,
    signing.keys,
    signing.sign,
    signing.revoke,
    signing.rotate,
    inspect.show,
    inspect.report,
    inspect.inspect,
):
    app.command()(_command)


def main() -> None:
    supervise("model-builder")
    exit.run(app)
