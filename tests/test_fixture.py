"A run directory made before the package had chapters still opens, predicts the same and goes on."

import json
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from munet_nb import Evolution, System, load_benchmark

GOLDEN = Path(__file__).parent / 'golden' / 'run_before_chapters.zip'
KEPT = 'digits:0.1.0'


@pytest.fixture
def run(tmp_path):
    "The old run, unpacked: stopped after the first generation of the second task iteration."
    path = tmp_path / 'run'
    with zipfile.ZipFile(GOLDEN) as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            assert '..' not in parts and not PurePosixPath(name).is_absolute(), name
        archive.extractall(path)
    return path


def predictions(system: System) -> np.ndarray:
    test = load_benchmark('demo', ['digits'])[0].test
    return system.predict('digits', [test[i][0] for i in range(8)])


def layer_files(path: Path, digests) -> dict[str, bytes]:
    return {d: (path / 'pool' / f'{d}.safetensors').read_bytes() for d in digests}


def test_its_system_predicts_what_it_predicted(run):
    before = json.loads((run / 'predictions.json').read_text())
    np.testing.assert_allclose(predictions(System.open(run)), before, atol=1e-3)


def test_it_goes_on_to_its_end_and_its_kept_model_stays_the_same_bytes(run):
    journal = (run / 'journal.jsonl').read_bytes()
    before = json.loads((run / 'predictions.json').read_text())
    with Evolution.resume(run) as evo:
        assert not evo.done and evo.state.kept == {'digits': KEPT}
        assert evo.config.scale_factor == 0.9, 'was changed on the way'
        model = evo.state.models[KEPT]
        kept = layer_files(run, model.digests)
        np.testing.assert_allclose(predictions(evo.system), before, atol=1e-3)

        evo.step()
        assert evo.done and evo.state.visits == {'digits': 2}
        assert evo.state.models[KEPT] == model
        shared = evo.state.alive & kept.keys()
        assert shared and layer_files(run, shared) == {d: kept[d] for d in shared}
        after = predictions(evo.system)
    assert (run / 'journal.jsonl').read_bytes().startswith(journal)
    np.testing.assert_array_equal(predictions(System.open(run)), after)


def test_its_kept_model_is_what_the_archive_has(run):
    with Evolution.resume(run) as evo:
        digests = evo.state.models[KEPT].digests
    with zipfile.ZipFile(GOLDEN) as archive:
        packed = {d: archive.read(f'pool/{d}.safetensors') for d in digests}
    assert layer_files(run, digests) == packed
