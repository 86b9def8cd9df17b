"The panel over a long run."

import gc
import json
from io import BytesIO
from statistics import median
from time import perf_counter

import pytest
from matplotlib.figure import Figure
from toy import ARCH, ToyRun, info

from munet_nb.pictures.panel import OTHER_PICTURES, PICTURES, TABS, Dashboard
from munet_nb.search.config import Config, config_to_json
from munet_nb.search.journal import FORMAT


def seconds(act):
    started = perf_counter()
    act()
    return perf_counter() - started


def empty_axes():
    "What matplotlib takes on this machine to draw eight pairs of axes with nothing in them: some 0.2 s, where a redraw may take 0.3."
    gc.disable()  # a pause in the yardstick would hide one in the panel
    figure = Figure(figsize=(10, 4))
    figure.subplots(2, 4)
    figure.savefig(BytesIO(), format='png', dpi=90)
    gc.enable()


@pytest.fixture(scope='module')
def long_run(tmp_path_factory):
    "A run directory with 1,024 generations of 4 children each over 8 tasks, which pretend to train."
    config = Config(children_per_task=32, children_per_generation=4, task_iterations=16, seed=3)
    run = ToyRun(config, [info(f'task{i}') for i in range(8)])
    while run.step():
        pass
    run.records[0] |= {'format': FORMAT, 'arch': ARCH.name, 'config': config_to_json(config)}
    assert sum(r['kind'] == 'generation' for r in run.records) >= 1000
    folder = tmp_path_factory.mktemp('long')
    (folder / 'journal.jsonl').write_text(
        ''.join(json.dumps(r, default=lambda number: number.item()) + '\n' for r in run.records)
    )
    return folder


def test_a_journal_of_1000_generations_opens_at_once_and_its_slider_answers(long_run, capsys):
    # Limits are multiples of the empty axes, measured in between: the machine's speed varies more than the panel's.
    opened = median(
        seconds(lambda: Dashboard.open(long_run)) / seconds(empty_axes) for _ in range(3)
    )
    panel, slowest = Dashboard.open(long_run), {}
    for name, ticked in [(name, False) for name in PICTURES] + [
        (name, True) for name in OTHER_PICTURES
    ]:
        panel.tabs.selected_index, drawn = TABS.index(name), []
        if ticked:
            panel._beside[name].value = True
        for n in range(panel.slider.max - 3, panel.slider.max):  # where there is most to draw
            panel.views[name].value = b''
            drawn.append(seconds(lambda: setattr(panel.slider, 'value', n)) / seconds(empty_axes))
            assert bytes(panel.views[name].value).startswith(b'\x89PNG'), (
                f'{name} was not drawn again'
            )
        slowest[OTHER_PICTURES[name][0] if ticked else name] = median(drawn)
    with capsys.disabled():
        print(
            f'\nopens in {opened:.1f} times what eight empty pairs of axes take, redraws in',
            ', '.join(f'{v:.1f} ({k})' for k, v in slowest.items()),
        )
    assert opened < 8
    assert max(slowest[name] for name in PICTURES) < 1.8, slowest
    assert max(slowest.values()) < 2.5, (
        slowest
    )  # fifteen hyperparameters were tuned here: twice as many axes
