"""Images: built by buildah from Dockerfiles, pushed to the local registry, pulled by the kubelet as anywhere.

References carry the image's id as their tag, so that a changed image is a changed reference and rolls its pods. The
current and the previous one of each name are kept: pods that have not been rolled yet may still restart.
"""

import fcntl
import functools
import hashlib
import http.client
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .config import HERE, PROJECT, REPOSITORY, Config
from .console import ClusterError, run, stage
from .settings import PAUSE_TAG

NAMES = ("operator", "web", "trainer", "postgres")
ON_DEMAND = ("serve",)  # built only when it is named
GENERATIONS = 2
BASE_SUITE = "trixie"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
CERTIFICATES = Path("/etc/ssl/certs")
BUILD_HOME = "/root"  # inside the image: builds run as its root
MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Recipe:
    """A Dockerfile with its build options."""

    dockerfile: Path
    context: Path
    target: str = ""  # empty: the last one
    downloads: bool = True  # by pip or uv over HTTPS; apt needs no certificates, and its packages may write theirs


def _recipes() -> dict[str, Recipe]:
    postgres = HERE / "images" / "postgres"
    return {
        "operator": Recipe(REPOSITORY / "Dockerfile", REPOSITORY),
        "web": Recipe(REPOSITORY / "Dockerfile", REPOSITORY, target="web"),
        "serve": Recipe(REPOSITORY / "Dockerfile", REPOSITORY, target="serve"),
        "trainer": Recipe(REPOSITORY / "trainer_image" / "Dockerfile", REPOSITORY),
        "postgres": Recipe(postgres / "Dockerfile", postgres, downloads=False),
    }


def references(config: Config) -> dict[str, str]:
    """Return the current reference of each built image of this project."""
    return {name: generations[0] for name, generations in _generations(config).items() if name in NAMES}


def build(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Build and push the named images, and remove those of older generations."""
    recipes = _recipes()
    names = list(names)
    if unknown := [name for name in names if name not in recipes]:
        raise ClusterError(f"there is no image {unknown[0]!r}; there are {', '.join(recipes)}")
    with locked(config):
        _require_registry(config)
        with stage("base image") as line:
            base, fresh = _ensure_base(config)
            line.note("built" if fresh else "cached")
        changed = False
        for name in names:
            with stage(f"build {name}") as line:
                line.progress = functools.partial(_read_step, _build_log(config, name))
                image = _build(config, name, recipes[name], base)
            with stage(f"push {name}") as line:
                changed |= _publish(config, name, image)
                line.note(_generations(config)[name][0])
        if changed:
            with stage("remove old images"):
                _prune(config)
    return {name: _generations(config)[name][0] for name in names}


def build_on_trainer(config: Config, name: str, context: Path) -> str:
    """Build a Dockerfile that starts from the trainer's image, push it, and return its reference."""
    with locked(config):
        _require_registry(config)
        recipe = Recipe(context / "Dockerfile", context, downloads=False)
        with stage(f"build {name}"):
            image = _build(config, name, recipe, f"localhost/{PROJECT}/trainer:latest")
        with stage(f"push {name}"):
            _publish(config, name, image)
    return _generations(config)[name][0]


def build_static(config: Config, name: str, binary: Path) -> str:
    """Build an image of one static binary, push it, and return its reference."""
    with locked(config):
        _require_registry(config)
        context = config.run / "static"
        context.mkdir(exist_ok=True)
        shutil.copyfile(binary, context / "binary")
        recipe = Recipe(HERE / "images" / "static" / "Dockerfile", context, downloads=False)
        _publish(config, name, _build(config, name, recipe, "scratch"))
        shutil.rmtree(context)
    return _generations(config)[name][0]


def ensure_pause(config: Config) -> None:
    """Build the pause image, a static program of a few lines of C, if the registry lacks it."""
    if _manifest_digest(config, "pause", PAUSE_TAG):
        return
    source = HERE / "images" / "pause"
    context = config.run / "pause"
    context.mkdir(exist_ok=True)
    run(["gcc", "-Os", "-static", "-s", "-o", context / "pause", source / "pause.c"])
    image = _build(config, "pause", Recipe(source / "Dockerfile", context, downloads=False), "scratch")
    _push(config, image, config.image("pause", PAUSE_TAG))
    shutil.rmtree(context)


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold the lock of builds, which is separate so that a long build does not block `cluster.py up`."""
    config.create_directories()
    with (config.state / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _buildah(config: Config, *arguments: str | Path, log: Path | None = None) -> str:
    storage: list[str | Path] = ["--root", config.state / "buildah", "--runroot", config.state / "buildah-run"]
    return run(["buildah", *storage, "--storage-driver", "overlay", *arguments], log=log)


def _ensure_base(config: Config) -> tuple[str, bool]:
    """Build the BASE_IMAGE of the Dockerfiles, a minimal Debian with Python; its tag is a digest of its packages."""
    key = hashlib.sha256(" ".join([BASE_SUITE, *BASE_PACKAGES]).encode()).hexdigest()[:12]
    name = f"localhost/{PROJECT}/base:{key}"
    if _buildah(config, "images", "--quiet", "--filter", f"reference={name}").strip():
        return name, False
    context = config.state / "base"
    context.mkdir(exist_ok=True)
    archive = context / "base.tar"
    options = ["--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"]
    run(["mmdebstrap", *options, BASE_SUITE, archive], log=config.logs / "mmdebstrap.log")
    dockerfile = HERE / "images" / "base" / "Dockerfile"
    log = config.logs / "image-base.log"
    _buildah(config, "bud", "--file", dockerfile, "--tag", name, context, log=log)
    shutil.rmtree(context)
    return name, True


def _build(config: Config, name: str, recipe: Recipe, base: str) -> str:
    """Build an image by layers and return its id."""
    if not recipe.dockerfile.exists():
        raise ClusterError(f"{recipe.dockerfile} does not exist")
    package_cache = config.cache / "packages"
    package_cache.mkdir(parents=True, exist_ok=True)
    id_file = config.state / f"image-{name}.id"
    volumes = []
    if recipe.downloads:
        # For the build only: this machine's certificate authorities, and the downloads of pip and uv.
        uv_settings = config.etc / "uv"
        uv_settings.mkdir(exist_ok=True)
        (uv_settings / "uv.toml").write_text('system-certs = true\nlink-mode = "copy"\n')
        volumes = [
            f"{CERTIFICATES}:{CERTIFICATES}:ro",
            f"{uv_settings}:/etc/uv:ro",
            f"{package_cache}:{BUILD_HOME}/.cache",
        ]
    _buildah(
        config,
        "bud",
        *("--isolation", "chroot", "--layers", "--http-proxy=false"),
        *(part for volume in volumes for part in ("--volume", volume)),
        *("--build-arg", f"BASE_IMAGE={base}"),
        *(("--target", recipe.target) if recipe.target else ()),
        *("--file", recipe.dockerfile, "--tag", f"localhost/{PROJECT}/{name}:latest", "--iidfile", id_file),
        recipe.context,
        log=_build_log(config, name),
    )
    return id_file.read_text().strip().removeprefix("sha256:")


def _build_log(config: Config, name: str) -> Path:
    return config.logs / f"image-{name}.log"


def _read_step(log: Path) -> str:
    """Return the step of a Dockerfile that a build is at."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    steps = [line for line in lines if line.startswith("STEP ")]
    return steps[-1][:100] if steps else ""


def _publish(config: Config, name: str, image: str) -> bool:
    """Push an image if the registry lacks it, and make it the current one; return whether it was not."""
    tag = image[:12]
    reference = config.image(name, tag)
    if not _manifest_digest(config, name, tag):
        _push(config, image, reference)
    generations = _generations(config)
    former = generations.get(name, [])
    if former[:1] == [reference]:
        return False
    generations[name] = [reference, *(old for old in former if old != reference)][:GENERATIONS]
    temporary = _generations_file(config).with_suffix(".new")
    temporary.write_text(json.dumps(generations, indent=2) + "\n")
    temporary.rename(_generations_file(config))
    return True


def _push(config: Config, image: str, reference: str) -> None:
    # The fastest compression saves disk writes; images never leave the machine.
    compression = ("--disable-compression=false", "--compression-format", "zstd", "--compression-level", "1")
    _buildah(config, "push", "--quiet", "--tls-verify=false", *compression, image, f"docker://{reference}")


def _generations_file(config: Config) -> Path:
    return config.state / "images.json"


def _generations(config: Config) -> dict[str, list[str]]:
    """Return the references by image name, the current one first."""
    path = _generations_file(config)
    known: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
    return known


def _request(config: Config, method: str, path: str) -> tuple[int, str, bytes]:
    """Send a request to the registry; return status, digest and body."""
    connection = http.client.HTTPConnection("127.0.0.1", config.registry_port, timeout=30)
    try:
        connection.request(method, f"/v2/{path}", headers={"Accept": MANIFEST_TYPES})
        response = connection.getresponse()
        return response.status, response.headers.get("Docker-Content-Digest", ""), response.read()
    except OSError as error:
        raise ClusterError("the image registry does not answer; run `cluster.py up` first") from error
    finally:
        connection.close()


def _require_registry(config: Config) -> None:
    _request(config, "GET", "")


def _manifest_digest(config: Config, name: str, tag: str) -> str:
    status, digest, _ = _request(config, "HEAD", f"{PROJECT}/{name}/manifests/{tag}")
    return digest if status == http.HTTPStatus.OK else ""


def _prune(config: Config) -> None:
    """Remove images without a generation from the registry, containerd and buildah's storage."""
    kept = {reference for generations in _generations(config).values() for reference in generations}
    for name in _generations(config):
        _, _, body = _request(config, "GET", f"{PROJECT}/{name}/tags/list")
        for tag in json.loads(body).get("tags") or []:
            if config.image(name, tag) not in kept:
                _request(config, "DELETE", f"{PROJECT}/{name}/manifests/{_manifest_digest(config, name, tag)}")
    # Safe while the registry runs: only this command, under its lock, writes to it.
    log = config.logs / "registry-collect.log"
    run([config.bin / "registry", "garbage-collect", config.etc / "registry.json"], log=log)

    containerd: list[str | Path] = ["ctr", "--address", config.containerd_socket, "--namespace", "k8s.io", "images"]
    names = tuple(_generations(config))
    own_images = re.compile(rf"^{re.escape(config.registry)}/{PROJECT}/({'|'.join(names)}):")
    pulled = run([*containerd, "list", "--quiet"]).split()
    if stale := [reference for reference in pulled if own_images.match(reference) and reference not in kept]:
        run([*containerd, "remove", *stale])

    # buildah keeps the layers of steps as unnamed images: the cache, if the last build of an image used them, else waste.
    _buildah(config, "rm", "--all")  # containers of killed builds keep their images
    steps = re.compile(r"^--> (?:Using cache )?([0-9a-f]{11,64})\b", re.MULTILINE)
    logs = [_build_log(config, name) for name in (*names, "pause")]
    cached = tuple({step for log in logs if log.exists() for step in steps.findall(log.read_text())})
    unnamed = _buildah(config, "images", "--quiet", "--no-trunc", "--filter", "dangling=true").split()
    for image in (line.removeprefix("sha256:") for line in unnamed):
        if not image.startswith(cached):
            _buildah(config, "rmi", image)
