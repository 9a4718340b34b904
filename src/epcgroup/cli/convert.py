"""Write manifests for another family of EPC resources, or their limits for another family of annotations.

Keys and amounts change, and the keys of tolerations and taints; all else stays as it is, byte by byte. What could not
be converted is one line each on standard error, and exit status 1. Families: intel (sgx.intel.com/epc, bytes), azure
(kubernetes.azure.com/sgx_epc_mem_in_MiB), alibaba (alibabacloud.com/sgx_epc_MiB). Annotations: nri (epc-limit.nri.io),
epcgroup (epcgroup.io).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from epcgroup.errors import InputError
from epcgroup.manifest import convert, documents


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST", help="file, folder, or -")
    parser.add_argument("--to", choices=convert.FAMILIES, help="the family of resources that is wanted")
    parser.add_argument("--annotations", choices=("nri", "epcgroup"), help="the family of annotations that is wanted")
    parser.add_argument("--round-up", action="store_true", help="sizes to whole MiB, where the family counts these")
    parser.add_argument("--pages", action="store_true", help="intel.com/sgx counts pages: convert it as a size")
    parser.add_argument("-i", "--in-place", action="store_true", help="write the files instead of standard output")


def main(args: argparse.Namespace) -> int:
    if args.to is None and args.annotations is None:
        raise InputError("--to or --annotations says what is wanted")
    wanted = convert.Wanted(args.to, args.annotations, args.round_up, args.pages)
    found = list(convert.changed_files(args.manifests, wanted))
    if args.in_place:
        if any(file == documents.STDIN for file, _ in found):
            raise InputError("standard input has no place to write to", where="-i")
        for file, result in found:
            if result.nr_changed:
                _replace(file, result.text)
    elif len(found) != 1:
        raise InputError(f"{len(found)} files; -i writes them, standard output takes one")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(found[0][1].text.encode())
    left = [line for _, result in found for line in result.left]
    for line in left:
        print(f"epcgroup: {line}", file=sys.stderr)
    return int(bool(left))


def _replace(file: Path, text: str) -> None:
    """The file with another text, or as it was: never half of it. Links stay links; the mode stays."""
    file = file.resolve()
    try:
        mode = file.stat().st_mode & 0o7777
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as made:
                made.write(text.encode())
                made.flush()
                os.fsync(handle)
            Path(name).chmod(mode)
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)  # it is there when something failed
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=file) from None
