"""The report as a page: its text, and what a real browser makes of it."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest

from refimpl.conformance.html import guessed_command, render, write
from refimpl.conformance.plots import Axis, histogram
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Cell, Report, Violation
from tests import browser

EVIL = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>\"'&"
LOSSES = ("masked_mse", "negative_pearson_loss", EVIL)
DTYPES = ("float16", "bfloat16", "float32", "float64")


def _cell(loss: str, name: str, dtype: str) -> Cell:
    """Everything holds but the gradient of Pearson and the value of the evil loss; one question was cut."""
    wrong = (loss, name) in {(LOSSES[1], "gradient"), (EVIL, "value")} and dtype != "float64"
    ratios = {"zeros": (0.0, 0.25), "huge": (3.75 if wrong else 0.625,), EVIL: (math.inf if wrong else 0.5,)}
    return Cell(
        loss,
        name,
        dtype,
        0 if name == "nan" else 3,
        2 * wrong,
        (loss, name, dtype) == (LOSSES[0], "inert", "float64"),
        ratios if name in {"value", "gradient"} else {},
    )


CELLS = tuple(
    _cell(loss, name, dtype)
    for loss in LOSSES
    for dtype in DTYPES
    for name in ("returns", "value", "gradient", "nan", "inert", "my own")
    if (loss, name) != (LOSSES[1], "inert")
)
VIOLATIONS = tuple(
    Violation(one.loss, one.dtype, one.property, EVIL, f"message {EVIL}", 3, f'print("{place}")  # {EVIL}\n')
    for place, one in enumerate(one for one in CELLS if one.violated)
)
REPORT = Report(
    EVIL,
    "torch",
    "cpu",
    11,
    8,
    CELLS,
    VIOLATIONS,
    ("nll_loss", EVIL + "2"),
    {"masked_mse": ("reduction",)},
    4,
    {"python": "3.99", "machine": EVIL},
    12.4,
)
PAGE = render(REPORT, f"python -m refimpl verify '{EVIL}'")


class _Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


READ = _Reader(PAGE)


def test_it_says_what_the_report_says():
    text = " ".join(READ.text.split())
    assert REPORT.verdict == "6 violations in 36 examples, seed 11; 1 question unfinished"
    for part in (REPORT.verdict, *REPORT.notes, *REPORT.environment.values(), *REPORT.missing):
        assert " ".join(part.split()) in text
    for violation in VIOLATIONS:
        assert violation.message in text
        assert violation.snippet in READ.text
    for cell in CELLS:
        if cell.ratios:
            assert f"{cell.worst[0]:.3g}" in text
    assert PROPERTIES["value"].holds in text
    assert f"python -m refimpl verify '{EVIL}'" in text


def test_the_matrix_has_a_field_for_every_cell_and_no_other():
    fields = [
        one
        for tag, one in READ.tags
        if tag == "a" and one.get("class") in {"held", "violated", "unfinished", "not-asked"}
    ]
    found = Counter((one["class"].replace("-", " "), one["aria-label"].split(";")[0]) for one in fields)
    wanted = Counter(
        (one.verdict, f"{one.loss}, {one.dtype}, {one.property}: {one.verdict}") for one in CELLS
    )
    assert found == wanted
    assert all(one["title"] == one["aria-label"] for one in fields)
    matrix = PAGE.partition('<table class="matrix">')[2].partition("</table>")[0]
    assert matrix.count("<td></td>") == len(DTYPES)  # Pearson has no "inert"


def test_labels_count():
    wrong = next(one for one in CELLS if one.violated)
    label = next(
        one["title"]
        for _, one in READ.tags
        if f"{wrong.loss}, {wrong.dtype}, gradient" in (one.get("title") or "")
    )
    assert "asked 3 times, violated 2 times; largest error / bound inf (" in label
    assert any("time limit reached" in (one.get("title") or "") for _, one in READ.tags)
    assert any("not asked; asked never" in (one.get("title") or "") for _, one in READ.tags)


def test_ids_are_unique_and_links_lead_somewhere():
    ids = [one["id"] for _, one in READ.tags if "id" in one]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    links = {one["href"] for tag, one in READ.tags if tag in {"a", "use"}}
    assert {link[1:] for link in links} <= set(ids)
    clips = set(re.findall(r"url\(#([^)]*)\)", PAGE))
    assert clips
    assert clips <= set(ids)


def test_violated_fields_lead_to_their_own_counterexample():
    for place, one in enumerate(VIOLATIONS):
        link = next(
            tag["href"]
            for _, tag in READ.tags
            if (tag.get("title") or "").startswith(f"{one.loss}, {one.dtype}, {one.property}:")
        )
        assert link == f"#violation-{place}"


def test_names_and_messages_are_escaped():
    scripts = [one for tag, one in READ.tags if tag == "script"]
    assert scripts == [{}]
    assert not any(tag == "img" for tag, _ in READ.tags)
    assert not any(name.startswith("on") for _, one in READ.tags for name in one)
    assert PAGE.count("&lt;script&gt;document.title") >= 2 * len(VIOLATIONS)


def test_nothing_from_outside_is_named():
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", PAGE.replace(EVIL, ""), re.IGNORECASE)
    for _, one in READ.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (one.get(name) or "#").startswith(("#", "data:,"))


def test_equal_reports_give_equal_pages():
    assert render(REPORT) == render(dataclasses.replace(REPORT))


def test_a_report_without_cells_can_be_shown():
    page = render(Report("mine", "torch", "cpu", 0, 8, (), (), ("masked_mse",)))
    assert "no violation in 0 examples" in page
    assert "No value or gradient was compared" in page


def test_write_makes_the_file(tmp_path):
    write(REPORT, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(REPORT)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_its_cure(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*pip install 'proven-losses\[verify\]'"):
        render(REPORT)


def test_only_a_page_needs_matplotlib_and_jinja2():
    code = (
        "import sys, refimpl.conformance.html, refimpl.conformance.plots, refimpl.conformance.table;"
        "print([name for name in ('matplotlib', 'jinja2') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_command_quotes_and_names_what_differs_from_the_defaults():
    command = guessed_command(dataclasses.replace(REPORT, target="a b", adapter="numpy", device="cuda"))
    assert command.startswith("python -m refimpl verify 'a b' --loss masked_mse negative_pearson_loss ")
    assert command.endswith("--adapter numpy --device cuda --max-examples 8 --seed 11")


@pytest.mark.parametrize("ratio", [0.0, 5e-324, 1e-9, 0.99, 1.0, 1.01, 9e8, 1e308, math.inf, math.nan])
def test_a_bar_lies_on_the_right_side_of_the_bound(ratio):
    axis = Axis.around([ratio])
    assert (axis.bin(ratio) >= 0.0) == (not ratio <= 1.0)
    assert axis.low - 2.0 <= axis.bin(ratio) <= axis.high + 1.5


def test_a_picture_has_a_bar_for_every_kind_of_ratio():
    ratios = {"float16": [0.0] * 9 + [0.25, 7.0, math.inf], "other": [0.5]}
    picture = histogram(ratios, Axis.around([0.25, 7.0]), "x")
    assert picture.count("fill: var(--float16)") == 4
    assert picture.count("fill: var(--other)") == 1
    heights = [
        abs(float(top) - float(base))
        for base, top in re.findall(
            r'd="M \S+ (\S+) L \S+ \S+ L \S+ (\S+) [^"]*"[^>]*var\(--float16\)', picture
        )
    ]
    # nine inputs beside one; coordinates have six decimals: two in the first height, six in 3 · second
    assert abs(heights[0] - 3 * heights[1]) <= 8 * 5e-7
    assert {"0", "1", "1e-3", "inf", "float16"} <= set(re.findall(r">([^<>]+)</text>", picture))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    program = browser.find()
    if program is None:
        assert not os.environ.get("CI"), f"none of {', '.join(browser.NAMES)} is installed"
        pytest.skip(f"none of {', '.join(browser.NAMES)} is installed")
    one = browser.Page(program, tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(PAGE, encoding="utf-8")
    return path


ROWS = "[...document.querySelectorAll('.matrix tbody tr[data-dtype]')].filter(row => row.offsetParent)"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 420])
def test_browser_shows_the_matrix_without_complaint_request_or_overflow(page, file, tmp_path, width, dark):
    page.view(width, 900, dark=dark)
    page.open(file)
    assert page.ask("document.querySelectorAll('.matrix td a').length") == len(CELLS)
    assert page.ask(f"{ROWS}.length") == len(LOSSES) * len(DTYPES) + len(REPORT.missing)
    assert page.ask("document.title") == f"{EVIL}: {REPORT.verdict}"
    assert page.complaints == []
    assert page.requests == [file.as_uri()]
    assert page.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    light = page.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(n => n > 128)")
    assert light is not dark
    page.shoot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.parametrize("width", [360, 800, 1216, 1280, 1920])
@pytest.mark.parametrize("columns", [33, 34, 35, 70])
def test_browser_shows_many_properties_without_overflow(page, tmp_path, columns, width):
    cells = tuple(Cell("masked_mse", f"property {place}", "float16", 1) for place in range(columns))
    write(Report("mine", "torch", "cpu", 0, 8, cells, ()), tmp_path / "report.html")
    page.view(width, 900)
    page.open(tmp_path / "report.html")
    assert page.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_browser_has_text_that_can_be_read_on_its_ground(page, file):
    contrast = """(() => {
      const part = n => (n /= 255) <= 0.03928 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4;
      const light = text => { const [r, g, b] = text.match(/\\d+/g).map(part);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const ground = one => { const found = getComputedStyle(one).backgroundColor;
        return found.endsWith(", 0)") && one.parentElement ? ground(one.parentElement) : found; };
      const names = '.matrix a, p, .tag, .dtype, th, td, code, .label, h1, h2, h3';
      return [...document.querySelectorAll(names)].map(one => {
        const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05); });
    })()"""
    for dark in (False, True):
        page.view(1280, 900, dark=dark)
        page.open(file)
        assert min(page.ask(contrast)) >= 4.5  # the limit of WCAG 2 AA for small text


@pytest.mark.parametrize(
    ("fragment", "rows"),
    [
        ("", 14),
        ("#only=violated", 6),
        ("#dtype=float64", 3),
        ("#loss=PEARSON", 4),
        ("#only=violated&loss=pearson&dtype=float16", 1),
        ("#loss=nll", 1),
        ("#loss=nothing", 0),
    ],
)
def test_browser_filters_by_address(page, file, fragment, rows):
    page.view(1280, 900)
    page.open(file, fragment)
    assert page.ask(f"{ROWS}.length") == rows
    wanted = "[...document.querySelectorAll('details')].filter(one => one.offsetParent).length"
    assert page.ask(wanted) == {0: 0, 14: 6, 6: 6, 3: 0, 4: 3}.get(rows, int("pearson" in fragment))
    assert page.complaints == []


def test_browser_filters_by_form_and_remembers_in_the_address(page, file):
    page.view(1280, 900)
    page.open(file)
    page.ask("document.querySelector('[name=only]').click()")
    assert page.ask(f"{ROWS}.length") == 6
    assert page.ask("location.hash") == "#only=violated"
    assert page.ask("shown.value") == "6 of 12 rows"
    page.ask("document.querySelector('[name=only]').click()")
    assert page.ask("shown.value") == "12 rows"


def test_browser_leads_from_a_field_to_its_counterexample_by_keyboard(page, file):
    page.view(1280, 900)
    page.open(file)
    assert page.ask("document.querySelectorAll('.matrix td a[tabindex=\"0\"]').length") == 1
    page.ask("document.querySelector('.matrix td a').focus()")
    for key in ("ArrowRight", "ArrowRight", *["ArrowDown"] * 4):
        page.press(key)
    label = page.ask("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("negative_pearson_loss, float16, gradient: violated")
    assert page.ask("told.hidden ? '' : told.textContent") == label
    assert page.ask("document.querySelectorAll('details[open]').length") == 0
    page.press("Enter")
    page.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.ask("document.activeElement.id") == "violation-0"
    assert page.ask("document.activeElement.closest('details').open")
    place = page.ask("document.activeElement.getBoundingClientRect().top")
    assert 0 <= place <= 900


def test_browser_copies_a_snippet(page, file):
    page.view(1280, 900)
    page.open(file, "#violation-0")
    page.ask("navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }")
    page.ask("document.querySelector('#violation-0 .copy').click()")
    assert page.ask("window.copied") == VIOLATIONS[0].snippet
    assert page.ask("document.querySelector('#violation-0 .copy').textContent") == "Copied"


def test_browser_reads_it_without_scripts(page, file):
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.view(1280, 900)
        page.open(file, "#violation-0")
        assert page.ask("document.querySelectorAll('.matrix td a').length") == len(CELLS)
        assert page.ask("document.getElementById('filter').hidden")
        assert page.ask("[...document.querySelectorAll('.copy')].every(one => one.hidden)")
        # the browser itself unfolds what an address points into
        assert page.ask("document.getElementById('violation-0').closest('details').open")
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_browser_refuses_a_foreign_script(page, tmp_path):
    file = tmp_path / "tampered.html"
    file.write_text(
        PAGE.replace("</main>", "<script>document.title = 'taken'</script></main>"), encoding="utf-8"
    )
    page.open(file)
    assert page.ask("document.title") != "taken"
    assert any("Content Security Policy" in json.dumps(one) for one in page.complaints)
