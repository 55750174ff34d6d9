"""Commands for keys and signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cachenet.models.commands.options import check_paths, user_errors
from cachenet.shared.bundle.manifest import SIGNATURE, Bundle


def keys(
    out: Annotated[Path, typer.Option(help="Directory for the two files.")] = Path("keys"),
) -> None:
    """Make a key pair: a private key that signs bundles, and a public key that devices trust.

    Example: model-builder keys --out keys
    """
    with user_errors(out):
        from cachenet.shared.bundle.trust import generate

        private, public = generate(out)
    typer.echo(f"Written: {private}, the private key; keep it secret (model-builder sign BUNDLE --key {private})")
    typer.echo(f"         {public}, for devices (edge-agent run ... --trusted-key {public})")


def sign(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
    key: Annotated[Path, typer.Option(help="File of the private key to sign with; 'model-builder keys' makes one.")],
) -> None:
    """Sign a bundle; an earlier signature is replaced.

    Example: model-builder sign build/mine --key keys/bundle.key
    """
    with user_errors(bundle):
        check_paths(key=key)
        from cachenet.shared.bundle.trust import Signer
        from cachenet.shared.command import atomic_files

        atomic_files.write(bundle / SIGNATURE, Signer(key).sign(Bundle(bundle).data))
    typer.echo(f"Signed: {bundle}")
