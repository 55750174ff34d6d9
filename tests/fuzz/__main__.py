"""Fuzz one decoder with atheris: ``python -m tests.fuzz --decoder NAME [--runs N] [--seed K] [--corpus DIRECTORY]``.

It ends with a line of executions and findings. A finding ends the run with exit code 1, and its input is written to
``tests/fuzz/corpus/NAME/finding-...``: mend the decoder, and commit the input, which then is a regression test.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import traceback
import tracemalloc
from hashlib import sha256
from pathlib import Path

import msgspec

CORPUS = Path(__file__).parent / "corpus"
NAMES = ("protocol", "pictures", "manifests", "graphs")
#: Wall time after which libFuzzer ends an input that hangs, seconds; more than ``decoders.MAX_SECONDS`` on a busy
#: machine.
_HANG_S = 60
#: Address space beyond that of the start, bytes: a decoder that wants more gets ``MemoryError``.
_ADDRESS_SPACE = 2 << 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz one decoder with atheris.")
    parser.add_argument("--decoder", choices=NAMES, required=True, help="decoder to fuzz")
    parser.add_argument("--runs", type=int, default=100_000, help="number of inputs (default: 100000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the fuzzer, from 1 (default: 1)")
    parser.add_argument("--corpus", type=Path, help="directory that collects inputs with new coverage (default: none)")
    parser.add_argument("--verbose", action="store_true", help="show what libraries write to standard error")
    chosen = parser.parse_args()
    try:
        import atheris  # type: ignore[import-untyped]
    except ImportError:
        parser.error("atheris is missing: pip install '.[dev]' on Linux, x86-64, with Python 3.11 to 3.13")
    begun, count, errors = time.monotonic(), 0, os.dup(sys.stderr.fileno())
    if not chosen.verbose:  # libjpeg writes a line about each damaged picture
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    with atheris.instrument_imports(include=["cachenet.shared"]):
        from tests.fuzz import decoders
    from tests.fuzz import mutators

    decoder = decoders.DECODERS[chosen.decoder]

    def report(findings: int) -> None:
        seconds = time.monotonic() - begun
        os.dup2(errors, sys.stderr.fileno())
        print(f"{chosen.decoder}: {count} inputs in {seconds:.0f} s, {findings} findings", flush=True)

    def one(data: bytes) -> None:
        nonlocal count
        try:
            decoders.check(decoder, data)
        except BaseException:
            path = CORPUS / chosen.decoder / f"finding-{sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            report(1)
            traceback.print_exc()
            print(f"the input is {path}", file=sys.stderr, flush=True)
            os._exit(1)
        count += 1
        if count == chosen.runs:
            report(0)
            os._exit(0)  # libFuzzer's own end takes seconds

    def mutate(data: bytes, max_size: int) -> bytes:
        changed: bytes = atheris.Mutate(data, max_size)  # ``Fuzz`` replaces the function
        return changed

    custom = {
        "protocol": mutators.structured(msgspec.msgpack.decode, msgspec.msgpack.encode, mutate),
        "manifests": mutators.structured(msgspec.json.decode, msgspec.json.encode, mutate),
        "pictures": mutators.with_checksums(mutate),
    }
    options = {"custom_mutator": custom[chosen.decoder]} if chosen.decoder in custom else {}
    if chosen.corpus is not None:
        chosen.corpus.mkdir(parents=True, exist_ok=True)
    # As seeds: libFuzzer would add inputs to a directory that it reads.
    seeds = ",".join(str(path) for path in sorted((CORPUS / chosen.decoder).iterdir()))
    flags = [
        *(f"-seed_inputs={seeds}", f"-seed={chosen.seed}", f"-max_len={decoder.max_input}", "-verbosity=0"),
        *(f"-timeout={_HANG_S}", "-rss_limit_mb=2048"),
        # A crash of the process leaves its input there, too.
        f"-artifact_prefix={CORPUS / chosen.decoder / 'finding-'}",
    ]
    directories = [str(chosen.corpus)] if chosen.corpus is not None else []
    tracemalloc.start()
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    atheris.Setup([sys.argv[0], *flags, *directories], one, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
