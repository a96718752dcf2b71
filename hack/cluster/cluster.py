#!/usr/bin/env python3
"""A real single-node Kubernetes on this machine: `cluster.py up`, `cluster.py down`. See README.md beside this file."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from localcluster import addons, images, lifecycle, storage
from localcluster.config import Config
from localcluster.console import ClusterError


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="cluster.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start the cluster, or reuse the healthy one")
    down = commands.add_parser("down", help="stop it and undo its mounts, links and rules; data stays")
    down.add_argument("--purge", action="store_true", help="delete its data too (never the cache of built binaries)")
    commands.add_parser("status", help="what runs and whether it answers; exit code 1 when it is not healthy")
    build = commands.add_parser("images", help="build and push images, print their references")
    build.add_argument(
        "names",
        nargs="*",
        metavar="IMAGE",
        help=f"of {', '.join((*images.NAMES, *images.ON_DEMAND))}; default: all but {', '.join(images.ON_DEMAND)}",
    )
    build.add_argument("--json", action="store_true", help="print the references as one JSON object")
    extend = commands.add_parser("extend", help="build and push an image on top of the trainer's, print its reference")
    extend.add_argument("name")
    extend.add_argument("directory", type=Path, help="holds the Dockerfile and what it copies")
    listed = ", ".join(addons.ADDONS)
    for command, purpose in (
        ("build", "build the binaries of add-ons ahead of their installation"),
        ("install", f"install add-ons ({listed}), and wait until they serve"),
        ("uninstall", "remove add-ons with all their objects"),
    ):
        commands.add_parser(command, help=purpose).add_argument("addons", nargs="+", metavar="ADDON", help=listed)
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    commands.add_parser("env", help="print shell exports: KUBECONFIG, PATH and the image references")
    claim = commands.add_parser("claim", help="offer a directory of this machine to pods as a read-only claim")
    claim.add_argument("namespace")
    claim.add_argument("name")
    claim.add_argument("directory", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code."""
    options = parse(arguments)
    config = Config.from_environment()
    match options.command:
        case "up":
            lifecycle.up(config)
        case "down":
            lifecycle.down(config, purge=options.purge)
        case "status":
            return 0 if lifecycle.status(config) else 1
        case "images":
            references = images.build(config, options.names or list(images.NAMES))
            print(json.dumps(references) if options.json else "\n".join(f"{k}={v}" for k, v in references.items()))
        case "extend":
            print(images.build_on_trainer(config, options.name, options.directory))
        case "build":
            addons.build(config, options.addons)
        case "install":
            addons.install(config, options.addons)
        case "uninstall":
            addons.uninstall(config, options.addons)
        case "kubeconfig":
            print(config.kubeconfig)
        case "env":
            print(f"export KUBECONFIG={config.kubeconfig}")
            print(f"export PATH={config.bin}:$PATH")
            for name, reference in images.references(config).items():
                print(f"export TRAININGTASK_IMAGE_{name.upper()}={reference}")
        case "claim":
            storage.claim(config, options.namespace, options.name, options.directory)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] not in (["kubeconfig"], ["env"], ["-h"], ["--help"]) and os.geteuid() != 0:
        sys.exit("cluster.py: needs root, because it runs containers and changes this machine's network")
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"cluster.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
