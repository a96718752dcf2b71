"""Screenshots of the pages over a sample history, wide in light and dark and on a phone: `make screenshots`.

They are written to the folder SCREENSHOTS, else to screenshots/.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import CHROMIUM, launch_chromium, serve_web  # noqa: E402
from support.sample_history import make_sample_history  # noqa: E402
from trainingtask_history.engine import open_history  # noqa: E402
from trainingtask_history.migrations.runner import migrate  # noqa: E402

VIEWS = {
    "wide-light": ({"width": 1440, "height": 900}, "light", 1),
    "wide-dark": ({"width": 1440, "height": 900}, "dark", 1),
    "phone": ({"width": 390, "height": 844}, "light", 2),
}
_TALLEST = 3200


def main() -> None:
    """Take the screenshots."""
    if not CHROMIUM.exists():
        sys.exit(f"There is no {CHROMIUM}: install Debian's package chromium (hack/prerequisites.sh does)")
    folder = Path(os.environ.get("SCREENSHOTS") or ROOT / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder_of_databases:
        full, empty = (f"sqlite:///{folder_of_databases}/{name}.db" for name in ("full", "empty"))
        sample = make_sample_history()
        for url in (full, empty):
            engine = open_history(url)
            migrate(engine)
            if url == full:
                sample.store(engine)
            engine.dispose()
        chosen = [run for run in sample.runs if run.status == "Succeeded" and run.dataset == "go_emotions"][:3]
        running = sample.get_run("emotions-roberta-large-batch")
        ids = ",".join(str(run.id) for run in (*chosen, running))
        pages = {
            "runs": "/runs",
            "runs-filtered": "/runs?state=Failed&text=tick",
            "runs-no-match": "/runs?namespace=nowhere",
            "run-running": f"/runs/{running.id}",
            "run-succeeded": f"/runs/{sample.get_run('emotions-bert-base', 2).id}",
            "run-failed": f"/runs/{sample.get_run('emotions-bert-base', 1).id}",
            "run-waiting": f"/runs/{sample.get_run('queries-auto').id}",
            "compare": f"/runs/compare?ids={ids}",
            "sign-in": "/session",
            "not-found": "/runs/none",
        }
        with serve_web(full) as address, serve_web(empty) as nothing, launch_chromium() as browser:
            addresses = {name: address + path for name, path in pages.items()} | {"runs-empty": f"{nothing}/runs"}
            for view, (viewport, scheme, scale) in VIEWS.items():
                context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=scale)
                page = context.new_page()
                for name, wanted in addresses.items():
                    page.set_viewport_size(viewport)
                    page.goto(wanted)
                    # A window as tall as the page, so that sticky elements are at the page's edge.
                    height = page.evaluate("document.documentElement.scrollHeight")
                    page.set_viewport_size({**viewport, "height": min(max(height, viewport["height"]), _TALLEST)})
                    page.screenshot(path=folder / f"{name}-{view}.png")
                context.close()
    print(f"{len(addresses) * len(VIEWS)} pictures in {folder}")


if __name__ == "__main__":
    main()
