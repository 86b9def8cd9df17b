"The quickstart and its panel in a real browser, on a real JupyterLab: what a newcomer clicks."

import re
import statistics
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import PATIENCE, browser, lab, wait_for
from PIL import Image
from playwright.sync_api import expect

from munet_nb import example_run
from munet_nb.pictures.mistakes import ERROR_VIEWS
from munet_nb.pictures.report import report

QUICKSTART = Path(__file__).resolve().parents[1] / 'nbs/guides/00_quickstart.ipynb'
# The cell that shows the panel.
PANEL = [c.source for c in nbformat.read(QUICKSTART, 4).cells].index('board')

# From a click to what it changes on the page, in the page's own time (milliseconds).
ACKNOWLEDGED = '''async ([button, watched, disabled]) => {
  const panel = document.querySelector('.munet');
  const buttons = () => [...document.querySelectorAll('.munet button')];
  const find = text => buttons().find(b => b.textContent.trim() == text);
  const until = async condition => {
    for (const start = performance.now(); !condition(); await new Promise(requestAnimationFrame))
      if (performance.now() > start + 30000) throw new Error(panel.innerText) };
  await until(() => !find(button).disabled);
  const start = performance.now();
  find(button).click();
  await until(() => find(watched).disabled == disabled);
  return performance.now() - start }'''

# What is told while the pointer is in the middle of a picture's last part that tells something.
TOLD = '''picture => {
  const part = [...picture.querySelectorAll(':scope :has(> title)')].at(-1);
  part.scrollIntoView({block: 'center'});
  const box = part.getBoundingClientRect();
  const under = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return under.closest(':has(> title)')?.querySelector('title').textContent }'''
# A picture, its name, and whether it fits into the panel.
SHOWN = '''(panel, of) => {
  const svg = panel.querySelector(of + ' svg');
  return svg && [svg.outerHTML, svg.getAttribute('aria-label'),
    svg.clientWidth <= panel.clientWidth] }'''


# What each view of errors has on the page, if it shows what it is for.
SHOWS = {
    'Confusion': 'svg[aria-label*="are taken for another class"]',
    'Classes': 'svg[aria-label*="images are right, by class"]',
    'Mistakes': 'figure[title*="answered"] img',
    'Calibration': 'svg[aria-label*="confidence and accuracy"]',
    'Gained and lost': 'p:text-matches("images right that|from none of the same task")',
    'Attention': 'figure[title*="answered"] img',
}
# Pictures in a page that could not be read.
UNREAD = "images => images.filter(image => !image.complete || !image.naturalWidth).length"


class Panel:
    "What is on the page, in the words of a user."

    def __init__(self, page, number=0):
        self.page, self.root = page, page.locator('.munet').nth(number)

    def button(self, name):
        return self.root.locator(f'button:text-is("{name}")')

    def text(self, name):
        # Not `inner_text`: JupyterLab skips what is out of sight, and that has no inner text.
        return self.root.locator(f'.munet-{name}').text_content()

    def click(self, name):
        self.button(name).click()

    def ready(self):
        expect(self.button('Pause')).to_be_disabled()
        expect(self.button('Stop')).to_be_disabled()

    def step(self):
        "One generation: the count of those to go falls by one."
        left = self.to_go()
        self.click('Step')
        wait_for(lambda: self.to_go() == left - 1, lambda: self.root.text_content())
        self.ready()

    def to_go(self) -> int:
        said = self.text('left')
        found = re.search(r'(\d+) generations? to go', said)
        assert found or 'every generation is trained' in said, said
        return int(found[1]) if found else 0

    def choose(self, label, value):
        self.root.locator('.widget-dropdown', has_text=label).locator('select').select_option(value)

    def table(self) -> list[list[str]]:
        return [
            row.locator('td').all_text_contents()
            for row in self.root.locator('tbody tr:visible').all()
        ]

    def look(self, group, view=None):
        "Click a group of views, and one of its views."
        self.root.locator(f'.munet-group button:text-is("{group}")').click()
        if view:
            self.root.locator(f'.munet-choice button:text-is("{view}"):visible').click()

    def picture(self, of='.munet-page') -> str:
        "The picture that is looked at, or the curves. It fits into the panel, and has a name."
        html, name, inside = wait_for(lambda: self.root.evaluate(SHOWN, of))
        assert name and inside
        return html

    def new_picture(self, old, of='.munet-page') -> str:
        "Another picture than the old one, as soon as it is there."

        def another():
            now = self.picture(of)
            return now if now != old else None

        return wait_for(another, lambda: f'{of}: the picture stayed the same')


def run_cells(page, first, last):
    "Press Shift+Enter on cells."
    expect(page.get_by_text('Python 3 (ipykernel) | Idle')).to_be_visible()
    cell = page.locator('.jp-Notebook .jp-Cell').nth(first)
    cell.scroll_into_view_if_needed()
    cell.locator('.jp-InputPrompt, .jp-MarkdownOutput').first.click(position={'x': 3, 'y': 3})
    page.keyboard.press('Escape')
    for _ in range(first, last):
        page.keyboard.press('Shift+Enter')


def write_images(folder: Path):
    "A task of dark and bright images, as a folder of split/class/file."
    for split, n in (('train', 30), ('validation', 10), ('test', 10)):
        for bright, name in enumerate(('dark', 'bright')):
            own = folder / split / name
            own.mkdir(parents=True)
            for i in range(n):
                rng = np.random.default_rng([i, bright])
                pixels = rng.integers(128 * bright, 128 * bright + 128, (12, 12), 'uint8')
                Image.fromarray(pixels).save(own / f'{split}{i}.png')


SECOND = 'mu.Dashboard(evo)'  # a cell below the first panel's
TELL = '''
print(f"drawing takes {board.budget.drawing / board.budget.training:.3f} of training")
import re
print('drawn last:', *re.findall('>([^<]*)</text>', board.views['Architectures'].value))'''


@pytest.fixture
def page(tmp_path):
    (tmp_path / 'work').mkdir()
    notebook = nbformat.read(QUICKSTART, 4)
    notebook.cells.insert(PANEL + 1, nbformat.v4.new_code_cell(SECOND))
    notebook.cells.append(nbformat.v4.new_code_cell(TELL))
    nbformat.write(notebook, tmp_path / 'work/quickstart.ipynb')
    write_images(tmp_path / 'work/brightness')
    with lab(tmp_path) as address, browser() as chromium:
        page = chromium.new_page(viewport={'width': 1280, 'height': 900})
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        page.goto(address + 'lab/tree/quickstart.ipynb')
        try:
            yield page
        finally:
            page.screenshot(path=tmp_path / 'page.png')  # what was to be seen last


def test_a_newcomer_runs_the_quickstart_and_clicks(page, tmp_path):
    run_cells(page, 0, PANEL + 1)
    panel = Panel(page)
    panel.ready()
    for row in ('.munet-group', '.munet-choice:visible:not(.munet-group)'):
        buttons = panel.root.locator(f'{row} button').all()
        assert len(buttons) > 2 and len({b.bounding_box()['y'] for b in buttons}) == 1, row
    assert panel.root.get_by_role('button', name='Play').get_attribute('title')
    assert re.search('trains on .*(CPU|x[0-9])', panel.root.text_content())

    # Two steps: the count falls, the curves and the architectures change.
    left, before = panel.to_go(), panel.picture()
    panel.step()
    curves = panel.picture('.munet-curves')
    panel.step()
    panel.new_picture(curves, '.munet-curves')
    panel.new_picture(before)
    assert panel.root.locator('.munet-page svg').evaluate(TOLD)

    # While a generation trains, a click shows what it does within 300 ms: a pause, taken back,
    # and again. Three generations are left, of which the clicks take one or two.
    assert panel.to_go() == left - 2 == 3
    panel.click('Run')
    expect(panel.button('Pause')).to_be_enabled()
    expect(panel.root.locator('.munet-message')).to_contain_text('training')
    times = [
        page.evaluate(ACKNOWLEDGED, [button, 'Pause', button == 'Pause'])
        for button in ('Pause', 'Run') * 2 + ('Pause',)
    ]
    print('acknowledged after (ms):', *map(round, times))
    assert statistics.median(times) < 300, times
    panel.ready()
    wait_for(lambda: 0 < panel.to_go() < left - 2, lambda: panel.root.text_content())
    assert 'paused' in panel.text('message')

    # A second panel of the search follows the first one, and says so; each does what both show.
    run_cells(page, PANEL + 1, PANEL + 2)
    second = Panel(page, 1)
    expect(second.root.locator('.munet-notice')).to_contain_text('follows')
    assert second.to_go() == panel.to_go()
    second.step()
    wait_for(
        lambda: second.to_go() == panel.to_go() and second.text('message') == panel.text('message'),
        lambda: 'both say the same',
    )
    wait_for(
        lambda: second.picture('.munet-curves') == panel.picture('.munet-curves'),
        lambda: 'both show the same curves',
    )

    # What the model of the first task, which had its turn, gets wrong.
    assert set(SHOWS) == set(ERROR_VIEWS)
    for view, shown in SHOWS.items():
        panel.look('Errors', view)
        panel.choose('task', 'mnist')
        expect(panel.root.locator(f'.munet-page {shown}').first).to_be_visible()
        assert panel.root.locator('.munet-page img').evaluate_all(UNREAD) == 0
        for picture in panel.root.locator('.munet-page svg').all():
            assert picture.evaluate(TOLD), view
    panel.look('System', 'Architectures')

    # Back to the start and forth again.
    now = panel.text('moment')
    moment = panel.root.locator('.munet-moment')
    slider = panel.root.locator('.slider-container').first  # another one chooses the size

    def height() -> float:
        size = re.search('viewBox="0 0 [0-9.]+ ([0-9.]+)', panel.picture())
        return float(size[1])  # what has no columns yet is low

    tall = height()
    panel.root.locator('.noUi-handle').first.press('Home')
    expect(moment).to_have_text('start')
    outline = page.evaluate('getComputedStyle(document.activeElement).outlineStyle')
    assert outline == 'solid', 'what has the focus shows it'
    wait_for(lambda: height() < tall, lambda: 'at the start there is nothing to see')
    box = slider.bounding_box()
    slider.click(position={'x': box['width'] - 2, 'y': box['height'] / 2})
    expect(moment).to_have_text(now)
    wait_for(lambda: height() >= tall, lambda: 'the system is back')

    # A value out of range is answered, and stays to be mended.
    scale = panel.root.locator('input[type=number]').first
    scale.fill('2')
    scale.press('Enter')
    panel.click('Change')
    expect(panel.root.locator('.munet-notice')).to_contain_text('scale_factor = 2.0: must be')
    expect(scale).to_have_value('2')

    # Change the scale factor: the journal tells.
    scale.fill('0.9')
    scale.press('Enter')
    panel.click('Change')
    expect(panel.root.locator('.munet-notice')).to_contain_text('changed: scale_factor = 0.9')
    panel.look('Journal')
    expect(panel.root.locator('tbody:visible tr').first).to_contain_text('scale_factor = 0.9')

    # A task that is not there is refused, and what was typed stays; one that is there joins.
    source = panel.root.get_by_placeholder('image folder')
    source.fill('nowhere')
    panel.click('Add task')
    expect(panel.root.locator('.munet-notice')).to_contain_text('nowhere: does not exist')
    expect(source).to_have_value('nowhere')
    before = panel.to_go()
    source.fill('brightness')
    panel.click('Add task')
    expect(panel.root.locator('.munet-notice')).to_contain_text('added: brightness')
    expect(source).to_have_value('')
    panel.ready()
    assert panel.to_go() > before

    # The page is closed and opened again: the search is where it was, and goes on.
    left = panel.to_go()
    page.keyboard.press('Control+s')
    wait_for(lambda: 'widget-view+json' in (tmp_path / 'work/quickstart.ipynb').read_text())
    page.reload()
    shown = page.locator('.jp-Notebook .jp-Cell').nth(PANEL)
    shown.scroll_into_view_if_needed()  # what is out of sight is not rendered
    gone = shown.get_by_text('run this cell to see it')
    expect(panel.button('Step').or_(gone)).to_be_visible()
    if gone.is_visible():
        # JupyterLab does not always find the panel again by itself.
        run_cells(page, PANEL, PANEL + 1)
    panel.button('Step').wait_for()
    assert panel.to_go() == left
    panel.step()

    # The rest of the notebook: to the end, predict, save, reopen.
    panel.look('System', 'Architectures')
    run_cells(page, PANEL + 2, page.locator('.jp-Notebook .jp-Cell').count())
    said = page.get_by_text(re.compile(r'^drawing takes [\d.]+ of training')).last
    said.wait_for()
    print(said.text_content())
    # 0.05 is the aim; a drawing may cost more than the one before it told.
    assert float(said.text_content().split()[2]) < 0.08
    told = said.text_content()
    last = told.partition('drawn last: ')[2].split()
    texts = panel.root.locator('.munet-page svg text')
    wait_for(lambda: ' '.join(texts.all_text_contents()).split() == last, lambda: told)
    bad = ':is([data-mime-type*="error"], [data-mime-type*="stderr"])'
    told = page.locator(f'.jp-OutputArea-output{bad}').all_text_contents()
    few = 'cannot be told apart'  # that the folder is small is told when the run is resumed
    assert not [text for text in told if few not in text]
    # The architectures; the images with their answers.
    assert page.locator('.jp-OutputArea-output[data-mime-type="image/png"]').count() == 2

    # From small to good: this run keeps the best models alone, so there is one system.
    panel.look('System', 'Size')
    panel.root.locator('.munet-page .noUi-handle').press('Home')
    expect(panel.root.locator('.munet-page svg')).to_be_visible()
    expect(panel.root.get_by_text('from small to good')).to_be_visible()

    # The leaderboard of three tasks, sorted.
    panel.look('System', 'Leaderboard')
    for column, place, rising in (('task', 0, True), ('test', 2, False), ('charged', 3, True)):
        panel.choose('sort by', column)

        def values(place=place):
            return [row[place].replace(',', '').rstrip('%') for row in panel.table()]

        def is_sorted(place=place, rising=rising):
            found = values()
            in_order = sorted(found, key=float if place else str, reverse=not rising)
            return len(found) == 3 and found == in_order

        wait_for(is_sorted, lambda: f'{column}: {values()}')  # noqa: B023


def test_a_report_is_read_on_a_phone(tmp_path):
    """The page never scrolls sideways, though tables and pictures do; a click on a head sorts.

    It needs no other file, and the browser has nothing to complain about.
    """
    path = report(example_run(), tmp_path / 'report.html').path
    with browser() as chromium:
        page = chromium.new_page(viewport={'width': 390, 'height': 844}, color_scheme='dark')
        asked, complaints = [], []
        page.on('request', lambda request: asked.append(request.url))
        page.on('console', lambda message: complaints.append(message.text))
        page.on('pageerror', lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        assert asked == [path.as_uri()]
        assert page.evaluate('document.documentElement.scrollWidth') == 390
        lettering = page.locator('svg.munet-picture text').evaluate_all(
            'texts => texts.map(text => text.getBoundingClientRect().height)'
        )
        assert statistics.median(lettering) > 7  # pixels: they can be read
        assert page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(21, 23, 26)'

        for picture in page.locator('svg.munet-picture').all():
            assert picture.evaluate(TOLD), picture.get_attribute('aria-label')

        system = page.locator('table', has_text='charged')
        head = system.get_by_role('button', name='charged')
        cells = system.locator('tbody tr td:nth-child(4)')
        for rising in (False, True):
            head.click()
            values = [int(text.replace(',', '')) for text in cells.all_text_contents()]
            assert len(values) == 8 and values == sorted(values, reverse=not rising)
        assert head.locator('..').get_attribute('aria-sort') == 'ascending'
        assert not complaints
