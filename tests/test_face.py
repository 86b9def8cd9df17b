"What `import munet_nb as mu` offers, what it costs, and what the wheel holds."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import munet_nb as mu
import pytest
import sync

TOP = Path(__file__).resolve().parents[1]
NAMES = [
    'Config',
    'Dashboard',
    'Evolution',
    'HParams',
    'InputError',
    'MultitaskClassifier',
    'System',
    'Task',
    'TrainingSettings',
    'choose',
    'compare',
    'example_run',
    'load_benchmark',
    'load_folder',
    'load_hf',
    'load_idx',
    'load_root',
    'load_table',
    'load_task',
    'load_tfds',
    'look',
    'plots',
    'processes',
    'ray_workers',
    'report',
    'task_from_arrays',
    'task_from_dataset',
    'track',
]
SEARCH = 'mu.Evolution, mu.Config, mu.load_root, mu.load_benchmark, mu.load_tfds, mu.System'


def python(code: str, **env) -> str:
    "What a fresh interpreter prints."
    run = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_face_is_these_names_and_each_is_there():
    assert mu.__all__ == NAMES
    assert set(NAMES) <= set(dir(mu))
    for name in NAMES:
        assert getattr(mu, name) is not None
    assert mu.plots.plot_architectures.__doc__


def test_an_unknown_name_is_an_attribute_error():
    try:
        mu.Evolutoin  # noqa: B018
    except AttributeError as e:
        assert 'Evolutoin' in str(e)
    else:
        raise AssertionError('a misspelled name was found')


def test_what_a_search_does_not_use_is_not_loaded():
    heavy = ('ipywidgets', 'matplotlib', 'tensorflow_datasets', 'grain', 'datasets', 'fontTools')
    code = f'import sys, munet_nb as mu; {SEARCH}; print([m for m in {heavy} if m in sys.modules])'
    assert python(code).strip() == '[]'


def test_importing_costs_little_beside_jax():
    "In seconds, both from the same interpreter: what `import jax` takes, then what we add."
    code = f"""
import json, time
begun = time.perf_counter(); import jax; jax_took = time.perf_counter() - begun
begun = time.perf_counter(); import munet_nb as mu; face = time.perf_counter() - begun
begun = time.perf_counter(); {SEARCH}; search = time.perf_counter() - begun
print(json.dumps([jax_took, face, search]))
"""
    ratios = []
    for _ in range(3):
        jax_took, face, search = json.loads(python(code))
        ratios.append((face / jax_took, (face + search) / jax_took))
    assert min(r[0] for r in ratios) < 0.2
    assert min(r[1] for r in ratios) < 3


FIRST_GENERATION = """
import sys
import munet_nb as mu
assert mu.__file__.startswith(sys.argv[1]), mu.__file__
tasks = mu.load_benchmark('demo')
config = mu.Config.preset('demo')
with mu.Evolution.create('run', mu.load_root('Ti3-glyphs'), tasks, config) as evo:
    evo.step()
    print(len(evo.records))
"""


@pytest.mark.long
@pytest.mark.core
def test_the_wheel_is_enough_for_the_first_generation_of_the_demo(tmp_path):
    "It is built from the source archive of a copy, and used from another folder."
    copy, wheels, site = tmp_path / 'copy', tmp_path / 'wheels', tmp_path / 'site'
    shutil.copytree(TOP, copy, ignore=sync.not_copied)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([sys.executable, 'setup.py', '--quiet', 'sdist'], cwd=copy, check=True)
    (archive,) = copy.glob('dist/munet_nb-*.tar.gz')
    build = [*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', str(wheels), str(archive)]
    subprocess.run(build, check=True)
    (wheel,) = wheels.glob('munet_nb-*.whl')
    subprocess.run([*pip, 'install', '--no-deps', '--target', str(site), str(wheel)], check=True)
    packaged = {p.relative_to(site) for p in (site / 'munet_nb').rglob('*') if p.is_file()}
    in_tree = {p.relative_to(TOP) for p in (TOP / 'munet_nb').rglob('*') if p.is_file()}
    missing = {p for p in in_tree - packaged if '__pycache__' not in p.parts}
    assert not missing, f'the wheel lacks {sorted(map(str, missing))}'
    assert (site / 'bin/munet').exists()
    work = tmp_path / 'work'
    work.mkdir()
    run = subprocess.run(
        [sys.executable, '-c', FIRST_GENERATION, str(site)],
        cwd=work,
        env=os.environ | {'PYTHONPATH': str(site)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith('3')  # with those of the search for groups
