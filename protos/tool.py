"""Generate the Python stubs, check that they are up to date, and lint the contract.

    python protos/tool.py generate   write the stubs into clients/python
    python protos/tool.py check      fail if they differ from what would be generated, and say what to do
    python protos/tool.py lint       buf lint, and buf breaking against the last released contract
    python protos/tool.py release    make the contract as it stands the released one
    python protos/tool.py protoc OPTION...   run protoc over the contract, for the stubs of another language

`make proto` and `make lint` call it in an environment of its own, with the oldest grpcio-tools whose generated
code emitd supports: generated code refuses an older protobuf than it was made for. buf runs on descriptor
images, because it cannot fetch googleapis' modules by itself.
"""

import filecmp
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import google.rpc.status_pb2
import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).parent
ROOT = PROTOS.parent
STUBS = ROOT / "clients" / "python"
RELEASED = PROTOS / "released" / "emitd.v1.binpb"
INCLUDES = [
    PROTOS,
    Path(google.rpc.status_pb2.__file__).parents[2],
    Path(grpc_tools.__file__).parent / "_proto",
]
RULES = str(PROTOS / "buf.yaml")


def generate(target: Path) -> None:
    """Write the stubs into `target`."""
    run_protoc(f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}")


def check() -> int:
    """Compare the committed stubs with fresh ones."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = sorted(path.relative_to(folder) for path in Path(folder).rglob("*_pb2*"))
        committed = sorted(
            path.relative_to(STUBS) for path in STUBS.rglob("*_pb2*") if path.suffix in (".py", ".pyi")
        )
        different = sorted(set(fresh) ^ set(committed))
        different += [
            name
            for name in sorted(set(fresh) & set(committed))
            if not filecmp.cmp(STUBS / name, Path(folder) / name, shallow=False)
        ]
    if different:
        print(f"the stubs are not up to date: {', '.join(map(str, different))}", file=sys.stderr)
        print("cure: make proto, and commit the result", file=sys.stderr)
        return 1
    return 0


def lint() -> int:
    """Lint the contract, and compare it with the released one."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "emitd.v1.binpb"
        build_image(image, "--include_source_info", "--include_imports")
        now, then = f"{image}#format=binpb", f"{RELEASED}#format=binpb"
        # Only our own: googleapis' files have rules of their own.
        linted = buf("lint", now, "--config", RULES, "--path", "emitd/v1")
        compared = buf("breaking", now, "--against", then, "--config", RULES, "--path", "emitd/v1")
    return max(linted, compared)


def release() -> None:
    """Write the released image."""
    RELEASED.parent.mkdir(exist_ok=True)
    build_image(RELEASED, "--include_imports")


def build_image(path: Path, *options: str) -> None:
    """Write a descriptor set of the contract."""
    run_protoc(f"--descriptor_set_out={path}", *options)


def run_protoc(*options: str) -> None:
    """Run protoc over every proto of the contract; ends the program where it fails."""
    sources = [str(path) for path in sorted(PROTOS.rglob("*.proto"))]
    includes = [f"-I{include}" for include in INCLUDES]
    if protoc.main(["protoc", *includes, *options, *sources]):
        sys.exit(1)


def buf(*arguments: str) -> int:
    """Run buf beside this interpreter; return its exit code."""
    command: Sequence[str] = [str(Path(sys.executable).parent / "buf"), *arguments]
    return subprocess.run(command, cwd=PROTOS, check=False).returncode


def main() -> int:
    """Run the command named on the command line."""
    match sys.argv[1:]:
        case ["generate"]:
            generate(STUBS)
        case ["check"]:
            return check()
        case ["lint"]:
            return lint()
        case ["release"]:
            release()
        case ["protoc", *options] if options:
            run_protoc(*options)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
