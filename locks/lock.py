"""Renew the locks: every package that the set-up installs, with hashes. Run by `make lock`.

    pip.txt           pip itself, installed first: older ones read no hashes from constraints
    fedrai.txt        what `make quickstart` and `make test` install
    integrations.txt  what `make test-integrations` adds
    docs.txt          what `make docs` adds: the extra `docs` alone, without fedrai's requirements
    torch-cpu.txt     torch without CUDA, tried first; where pip finds no such build, fedrai.txt's
                      is taken, which on Linux is the CUDA build of PyPI
    accelerator.txt   constraints: what a CUDA build of torch asks for, installed only with one

uv resolves once for Python 3.11 and newer on Linux and macOS; plain pip installs. pip-tools would
need a machine of each kind, since it resolves for the interpreter that it runs on.

    python locks/lock.py               what pyproject.toml asks for now; what fits already stays
    python locks/lock.py --upgrade     the newest releases that pyproject.toml allows
    python locks/lock.py --check       see that each lock installs on every platform; writes nothing
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
EXTRAS = {  # the larger one first: the other takes its versions, so that both fit one environment
    "integrations.txt": ["test", "inspect", "lm-eval", "mlflow", "wandb", "trackio"],
    "fedrai.txt": ["test"],
}
DOCS = "docs.txt"
BUILD = "hatchling>=1.27,<2\neditables>=0.5,<1\n"  # fedrai itself, installed without isolation
ACCELERATOR = re.compile(r"(nvidia-|cuda-|triton==)")
CPU_BUILDS = [  # PyTorch's own builds without CUDA, which PyPI does not have: file, digest
    (
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    )
]
SOURCES = ["rouge-score", "sqlitedict", "word2number"]  # of lm-eval; these publish no wheels
PLATFORMS = ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def main() -> None:
    """Write the locks, all of them or none, or check them."""
    if sys.argv[1:] == ["--check"]:
        check()
        return
    upgrade = sys.argv[1:] == ["--upgrade"]
    pip = packages(resolve("pip.txt", "pip>=26.1\n", [], "", upgrade))
    locks = {"pip.txt": "".join(pip.values())}
    accelerator: dict[str, str] = {}
    larger = ""
    for name, extras in EXTRAS.items():
        blocks = packages(resolve(name, BUILD, extras, larger, upgrade))
        accelerator |= {k: b for k, b in blocks.items() if ACCELERATOR.match(k)}
        kept = {k: b for k, b in blocks.items() if k not in accelerator}
        locks[name] = larger = "".join(kept.values())
    locks[DOCS] = "".join(packages(resolve(DOCS, docs(), [], larger, upgrade)).values())
    torch = next(package for package in kept if package.startswith("torch=="))
    locks["torch-cpu.txt"] = cpu_builds(torch)
    unmarked = [re.sub(r" ;.*", r" \\", accelerator[k], count=1) for k in sorted(accelerator)]
    locks["accelerator.txt"] = "".join(unmarked)
    for name, text in locks.items():
        (HERE / name).write_text(text)
    check()


def docs() -> str:
    """The lines of the extra `docs`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return "".join(f"{line}\n" for line in project["optional-dependencies"]["docs"])


def resolve(name: str, lines: str, extras: list[str], larger: str, upgrade: bool) -> str:
    """A universal resolution by uv, as text in pip's format.

    Args:
        name: of the lock that it is for.
        lines: requirements beside those of pyproject.toml.
        extras: of pyproject.toml; none: its own requirements are left out too.
        larger: a lock whose versions hold here too; may be empty.
        upgrade: whether versions that are locked and still fit may change.
    """
    project = ["pyproject.toml", *itertools.chain(*(["--extra", e] for e in extras))]
    with tempfile.TemporaryDirectory() as folder:
        asked, limits, out = (Path(folder, file) for file in ("asked.in", "limits.txt", "out.txt"))
        asked.write_text(lines)
        limits.write_text(larger)
        if not upgrade:  # uv keeps the versions of the file that it is to write
            files = [HERE / name, HERE / "accelerator.txt"]
            out.write_text("".join(file.read_text() for file in files if file.is_file()))
        command = ["uv", "pip", "compile", "--universal", "--generate-hashes", "--no-annotate",
                   "--quiet", "--no-header", "--python-version", PYTHONS[0], str(asked), "-c",
                   "constraints.txt", "-c", str(limits), "-o", str(out),
                   *(project if extras else [])]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return out.read_text()


def packages(lock: str) -> dict[str, str]:
    """Each package's lines, by its first one."""
    marks = Counter(re.findall(r"(?m)^[A-Za-z0-9][^;\n]* ; (.*) \\$", lock))
    everywhere = marks.most_common(1)[0][0]  # true wherever the Makefile sets up
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", lock.replace(f" ; {everywhere}", ""))
    return {block.split(" ")[0]: block for block in blocks if block.strip()}


def cpu_builds(torch: str) -> str:
    """The lines that pin builds of a torch without CUDA, each for its own Python and machine.

    Args:
        torch: the locked version, as `torch==2.13.0`.
    """
    lines = []
    for file, digest in CPU_BUILDS:
        _, version, python, _, platform = file.removesuffix(".whl").split("-")
        if f"torch=={version}".partition("+")[0] != torch:
            sys.exit(f"{torch} is locked, and {file} is of another: renew CPU_BUILDS in lock.py")
        machine = platform.partition("linux_2_28_")[2]
        marker = (
            f"python_version == '{python[2]}.{python[3:]}' and sys_platform == 'linux'"
            f" and platform_machine == '{machine}'"
        )
        lines.append(f"torch=={version} ; {marker} \\\n    --hash=sha256:{digest}\n")
    return "".join(lines)


def check() -> None:
    """See that every lock installs on all platforms and Pythons; exits with 1 if one does not."""
    failed = False
    sources = [o for name in SOURCES for o in ("--no-binary", name)]
    oldest_mac = {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    for name, platform, python in itertools.product([*EXTRAS, DOCS], PLATFORMS, PYTHONS):
        with tempfile.TemporaryDirectory() as folder:
            command = ["uv", "pip", "install", "--dry-run", "--quiet", "--require-hashes",
                       "--only-binary", ":all:", *sources, "--target", folder,
                       "--python-platform", platform, "--python-version", python,
                       "-r", str(HERE / name), "-c", str(HERE / "accelerator.txt")]  # fmt: skip
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **oldest_mac}, capture_output=True, text=True
            )
        print(f"{name:18} {platform:24} {python:5} {'ok' if not done.returncode else 'FAILED'}")
        if done.returncode:
            print(done.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
