"""The report page in a real browser."""

import os
import re
import shutil
import subprocess

import pytest
from conftest import snakemake

CHECK = """<script>
window.onload = () => {
  const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
  const wide = document.documentElement.scrollWidth > window.innerWidth;
  document.title = `images ${document.images.length} broken ${broken} wide ${wide}`;
};
</script></body>"""


def browse(page, *options):
    browser = shutil.which("chromium")
    if browser is None:
        if os.environ.get("CI"):
            raise RuntimeError("the browser chromium is missing; envs/test_tools.sh installs it")
        pytest.skip("chromium is not installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={page.parent / 'browser'}", "--virtual-time-budget=10000"]
    command = [browser, *flags, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("width", [1200, 420])
def test_page_shows_all_pictures_with_captions(finished_run, tmp_path, width):
    text = (finished_run / "scratch" / "report" / "r0050.html").read_text()
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text), "the page needs nothing from elsewhere"
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", CHECK))
    shown = browse(page, "--dump-dom", f"--window-size={width},900")
    assert "<title>images 12 broken 0 wide false</title>" in shown
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", shown, flags=re.DOTALL)
    assert len(captions) == 12
    assert all(len(re.sub("<[^>]*>", "", caption).split()) > 20 for caption in captions)
    for word in ("accepted", "frames used", "hit rate", "Findings of the integrity check", "Pulse energy", "Gallery"):
        assert word in shown


def test_links_of_the_page_lead_to_its_pictures(finished_run):
    text = (finished_run / "scratch" / "report" / "r0050.html").read_text()
    targets = re.findall(r'href="#(\w+)"', text)
    assert len(targets) == 13
    assert all(f'id="{target}"' in text for target in targets)


def test_snakemake_report_holds_all_pictures_with_captions(finished_run, tmp_path):
    report = tmp_path / "report.html"
    snakemake(finished_run, "r0050_hits.cxi", "--report", str(report))
    text = report.read_text()
    assert text.count("Run 0050") > 0
    for name in ("hitscore", "coverage", "gallery", "powder_all"):
        assert f"r0050_{name}.png" in text
    assert "the particle&#x27;s fringes" in text or "the particle's fringes" in text
