# SPDX-License-Identifier: Apache-2.0
"""Compiles the .proto texts below kvtest/rpc/protos into one descriptor set for each API of kvtest/rpc/apis.toml."""

from __future__ import annotations

import sys
import tomllib
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

RPC = Path(__file__).parent.parent / "kvtest" / "rpc"


def compile_all(target: Path) -> None:
    """Write NAME.binpb for every API into a directory."""
    target.mkdir(parents=True, exist_ok=True)
    common = resources.files("grpc_tools") / "_proto"
    for name, api in tomllib.loads((RPC / "apis.toml").read_text()).items():
        directories = [RPC / "protos" / directory for directory in api["directories"]]
        files = sorted({path.name for directory in directories for path in directory.glob("*.proto")})
        arguments = [
            "protoc",
            *(f"--proto_path={directory}" for directory in (*directories, common)),
            "--include_imports",
            f"--descriptor_set_out={target / f'{name}.binpb'}",
            *files,
        ]
        if protoc.main(arguments) != 0:
            sys.exit(f"could not compile the API {name}")


if __name__ == "__main__":
    compile_all(Path(sys.argv[1]))
