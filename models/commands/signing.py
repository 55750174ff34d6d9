"""Keys and signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cachenet.models.commands.options import check_paths, refusing
from cachenet.shared.bundle.manifest import SIGNATURE, Bundle


def keys(
    out: Annotated[Path, typer.Option(help="Directory that the two files go to.")] = Path("keys"),
) -> None:
    """Make a pair of keys: one to sign bundles with, and one for devices to trust.

    Example: model-builder keys --out keys
    """
    with refusing(out):
        from cachenet.shared.bundle.trust import generate

        private, public = generate(out)
    typer.echo(
        f"Written: {private}, to sign with, which nobody else may see (model-builder sign BUNDLE --key {private})"
    )
    typer.echo(f"         {public}, for devices (edge-agent run ... --trusted-key {public})")


def sign(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    key: Annotated[Path, typer.Option(help="File of the private key to sign with; 'model-builder keys' makes one.")],
) -> None:
    """Sign a bundle, in the place of any signature before.

    Example: model-builder sign build/mine --key keys/bundle.key
    """
    with refusing(bundle):
        check_paths(key=key)
        from cachenet.shared.bundle.trust import Signer
        from cachenet.shared.command import atomic_files

        atomic_files.write(bundle / SIGNATURE, Signer(key).sign(Bundle(bundle).data))
    typer.echo(f"Signed: {bundle}")
