"""Takes the README's picture of a report, by the Chromium of the tests. Use the demo's run: no real rows.

python -m tests.documents.picture runs/demo/report.html docs/images/report.png
"""

import base64
import sys
import tempfile
from pathlib import Path

from tests.chromium import start_chromium

WIDTH, HEIGHT = 1200, 820


def take_picture(page: Path, picture: Path) -> None:
    """Write the top of a page as a PNG."""
    with tempfile.TemporaryDirectory() as profile, start_chromium(Path(profile)) as browser:
        browser.open(page, WIDTH, HEIGHT)
        browser.ask("Emulation.setScrollbarsHidden", hidden=True)
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
        shot = browser.ask("Page.captureScreenshot", format="png", clip=clip)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), Path(sys.argv[2]))
