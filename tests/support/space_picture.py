"""Draws docs/images/space.png: the Space after a visitor drew triangles from both models and clicked one of them.

.venv-browser/bin/python tests/support/space_picture.py     # .ci/browser --install-only makes that environment
"""

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "space.png"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def draw(file: Path) -> None:
    from playwright.sync_api import sync_playwright

    from support.space_visit import choose, generate, run_space, visit, wait_for, wait_until_still

    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise SystemExit("No Chromium is installed; .ci/browser --install-only installs it.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        with run_space(Path(folder), {}) as address, visit(chromium, address) as page:
            choose(page, "class", "triangle")
            generate(page, samples=4, steps=20)
            page.click("#gallery-tuned button >> nth=2")
            wait_for(page, "generate-facts", "seed")
            page.wait_for_selector("#generate-picture img")
            wait_until_still(page)
            page.screenshot(path=file, full_page=True)
        chromium.close()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    draw(PICTURE)
    print(PICTURE)
