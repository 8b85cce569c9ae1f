"""The page in a real browser: no complaint, its boxes and headings work, it fits and can be read.

Runs where there is a Chromium (`CHROMIUM` names one); the other tests read the page with a parser.
"""

import pytest

import chromium
from fedrai.rates import Rate
from fedrai.report import build
from run_folders import answer, report_body, write_answers, write_run

FOUND = chromium.find()
pytestmark = pytest.mark.skipif(
    FOUND is None,
    reason="no Chromium here (install Debian's package chromium, or name one with CHROMIUM)",
)
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\ud800\x00<!--"
HEADING = "[...document.querySelectorAll('.sortable thead button')].find(b => b.textContent === {})"
ORDER = "[...document.querySelectorAll('.sortable tbody th')].map(h => h.textContent).join()"
CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const seen = new Map();
  const paint = (colour) => {
    if (!seen.has(colour)) seen.set(colour, fresh(colour));
    return seen.get(colour);
  };
  const fresh = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => paint(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (paint(colour)[3] > 0) return colour;
    }
    return 'white';
  };
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    const style = getComputedStyle(node);
    const said = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!node.checkVisibility() || ['title', 'desc', 'SCRIPT'].includes(node.nodeName)) continue;
    const drawn = node.nodeName === 'text' ? style.fill : style.color;
    if (said && ratio(drawn, behind(node)) < 4.5) found.push([node.nodeName, node.textContent]);
    const shape = ['mark', 'part'].some((name) => node.classList.contains(name));
    if (shape && ratio(style.fill, behind(node)) < 3) found.push([node.nodeName, style.fill]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three arms with everything that a report can show, and hostile text."""
    folder = tmp_path_factory.mktemp("compared")
    constitution = {"schedule": "every", "name": "fedrai", "version": "1", "hash": "e" * 64}
    write_run(folder / "harmful", safe=(Rate(1, 50), Rate(1, 50)))
    write_run(folder / "filter", filtered=True, safe=(Rate(1, 50), Rate(20, 50)))
    write_run(folder / "both", filtered=True, safe=(Rate(1, 50), Rate(50, 50)),
              refused=(Rate(0, 50), Rate(0, 50)),
              info={"constitution": constitution, "machine": HOSTILE, "filter_skipped": ""},
              reports={1: report_body(), 2: report_body(why=HOSTILE)})  # fmt: skip
    for name in ("harmful", "filter", "both"):
        rows = [answer(0, HOSTILE, HOSTILE, "refusal"),
                answer(1, HOSTILE, HOSTILE + "x" * 1_000_000, "compliance")]  # fmt: skip
        write_answers(folder / name, 2, rows)
    return build([folder], folder / "report.html", transcripts=2)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with chromium.browser(FOUND, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def browser(started, page):
    started.width(1280)
    started.scheme("light")
    started.load(page)
    yield started
    assert started.complaints() == []


def test_it_loads_without_complaint_or_request(browser):
    assert browser.run("document.title") == "FedRAI report: 3 runs"
    assert browser.run("document.images.length + document.scripts.length") == 1
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    assert "<script>alert(1)</script>" in browser.run("document.querySelector('pre').textContent")


def test_the_policy_stops_any_other_script(browser):
    browser.run("""(() => {
      const other = document.createElement('script');
      other.textContent = 'window.other = true';
      document.body.append(other);
    })()""")
    assert browser.run("window.other") is None
    complaints = browser.complaints()
    assert len(complaints) == 1
    assert "Content Security Policy" in str(complaints)
    browser.events.clear()


def test_a_heading_sorts_by_its_numbers(browser):
    button = HEADING.format("'development: AdvBench safe'")
    assert browser.run(ORDER) == "both,filter,harmful"
    browser.run(f"{button}.click()")
    assert browser.run(ORDER) == "harmful,filter,both"
    assert browser.run(f"{button}.closest('th').getAttribute('aria-sort')") == "ascending"
    browser.run(f"{button}.click()")
    assert browser.run(ORDER) == "both,filter,harmful"
    status = browser.run("document.getElementById('status').textContent")
    assert status == "sorted by development: AdvBench safe, descending"


def test_boxes_hide_runs_in_tables_and_drawings_by_keyboard(browser):
    parts = "[...document.querySelectorAll('[data-arm=\"1\"]')]"
    shown = f"{parts}.filter((part) => part.getBoundingClientRect().width > 0).length"
    before = browser.run(shown)
    assert before > 10
    browser.run("document.querySelectorAll('#shown input')[1].focus()")
    browser.press(" ", 32, " ")
    assert browser.run(shown) == 0
    assert browser.run("document.getElementById('status').textContent") == "2 of 3 runs shown"
    rows = "document.querySelectorAll('#arms ~ .scroll tbody tr:not([hidden])').length"
    assert browser.run(rows) == 2
    browser.press(" ", 32, " ")
    assert browser.run(shown) == before


def test_the_first_tab_skips_to_the_report(browser):
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.textContent") == "Skip to the report"
    browser.press("Enter", 13, "\r")
    assert browser.run("document.activeElement.id") == "main"


@pytest.mark.parametrize("pixels", [320, 360, 768, 1280])
def test_it_fits_the_screen(browser, pixels):
    browser.width(pixels)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.run("document.documentElement.scrollWidth") <= pixels


@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"),
                                               ("light", "print"), ("dark", "print")])  # fmt: skip
def test_text_and_marks_stand_out_from_what_is_behind_them(browser, scheme, media):
    browser.scheme(scheme, media)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.run(CONTRAST) == []
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    dark = (scheme, media) == ("dark", "screen")
    assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_it_prints(browser):
    printed = browser.ask("Page.printToPDF")["data"]
    assert len(printed) > 20_000
