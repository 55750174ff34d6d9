"""The command ``model-builder``."""

from __future__ import annotations

from models.commands import looking, making, mending, signing
from models.supervise import supervise
from shared import ending
from shared.command_line import Version, program

app = program("model-builder")


@app.callback()
def _root(version: Version = False) -> None:
    """Build the bundles that edge agents and cloud servers run.

    Example: model-builder build --full model.onnx --data frames/ --preprocessing imagenet --out build/mine
    """


for _command in (
    making.train,
    making.build,
    making.fetch,
    mending.specialise,
    mending.add_size,
    mending.layers,
    mending.prove,
    signing.keys,
    signing.sign,
    looking.show,
    looking.report,
    looking.inspect,
):
    app.command()(_command)


def main() -> None:
    supervise("model-builder")
    ending.run(app)
