"""Build main.wasm from main.c with the pinned compiler: `python build.py [TARGET]`. The same bytes every time.

The compiler is the package ziglang 0.17.1 (a C compiler with wasi-libc); a test of Enarx rebuilds main.wasm with it.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ("-target", "wasm32-wasi", "-std=gnu11", "-Os", "-s", "-Wall", "-Wextra", "-Werror")


def build(target: Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(target.resolve()), "main.c"]
    subprocess.run(command, check=True, cwd=HERE)
    target.chmod(0o644)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "main.wasm")
