"A search and its predictions under what JAX can be told to refuse, or to do otherwise."

import os
import subprocess
import sys
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from munet_nb import Config, Evolution, load_root, task_from_arrays
from munet_nb.engine import programs

REFUSE = {
    'jax_enable_x64': True,
    'jax_numpy_rank_promotion': 'raise',
    'jax_numpy_dtype_promotion': 'strict',
    'jax_transfer_guard': 'disallow',
}
OTHER = {**REFUSE, 'jax_disable_jit': True}


@contextmanager
def told(flags):
    "JAX with other settings in all threads, and without programs that were traced before."
    before = {name: getattr(jax.config, name) for name in flags}
    shared, programs._shared = programs._shared, {}
    for name, value in flags.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        programs._shared = shared


def colored(name):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    return task_from_arrays(name, (images, np.arange(40) % 2))


def search(path, tasks, **values):
    "The journal of a small search, and what it predicts."
    small = dict(
        children_per_task=2,
        batches=1,
        segments=1,
        batch_size=8,
        group_generations=1,
        trial_segments=1,
        trunk_segments=1,
        mutation_prob=0.0,
        image_size=16,
    )
    config = Config.preset('demo', **small | values)
    root = load_root('random:Ti1', image_size=16)
    with Evolution.create(path, root, tasks, config) as evo:
        while not evo.done:
            evo.step()
        images = [tasks[0].test[0][0], tasks[0].test[1][0][:8, :9]]
        predicted = evo.system.predict(tasks[0].name, images)
        evo.system.export(tasks[0].name, path / 'exported', 'stablehlo')
        return evo.records, predicted


@pytest.mark.long
def test_whatever_jax_is_told_no_bit_changes(tmp_path):
    "Groups and their probes, a generation, a test accuracy, a prediction, an export."
    tasks = [colored('a'), colored('b')]
    records, predicted = search(tmp_path / 'usual', tasks)
    assert {'groups', 'generation', 'task_end'} <= {r['kind'] for r in records}
    with told(OTHER):
        told_records, told_predicted = search(tmp_path / 'told', tasks)
    assert told_records == records
    np.testing.assert_array_equal(told_predicted, predicted)
    assert told_predicted.dtype == np.float32


@pytest.mark.parametrize('flag', REFUSE)
def test_what_is_refused_would_be_noticed(flag):
    with told({flag: REFUSE[flag]}):
        if flag == 'jax_enable_x64':
            assert jax.numpy.zeros(1).dtype == np.float64
            return
        with pytest.raises(Exception, match='promotion|Disallowed'):
            jax.numpy.ones(2, np.float32) + np.ones((2, 2), np.int32)


MESH = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file
from munet_nb import System
from test_flags import colored, search

set_mesh = getattr(jax, 'set_mesh', None) or jax.sharding.use_mesh
with set_mesh(jax.make_mesh((2,), ('x',))):
    _, predicted = search(Path({path!r}), [colored('a')], common_trunks=False)
    folder = {path!r} + '/exported/'
    system = System.open({path!r})
program = export.deserialize(open(folder + 'model.stablehlo', 'rb').read())
assert program.nr_devices == 1
program.call(load_file(folder + 'model.safetensors'), np.zeros((1, 16, 16, 3), np.uint8))
images = [colored('a').test[i][0] for i in range(2)]
system.predict('a', images)

with jax.default_device(jax.devices()[1]):
    again = system.predict('a', images)
    placed = [p for p in jax.live_arrays() if p.devices() == {{jax.devices()[1]}}]
    assert len(placed) > 10, 'the parameters of its layers'
np.testing.assert_allclose(again[0], predicted[0], atol=1e-6)
"""


def test_a_mesh_and_a_device_that_the_user_set(tmp_path):
    "Nothing was compiled before: a mesh tells in what is traced under it."
    code = MESH.format(tests=os.path.dirname(__file__), path=str(tmp_path / 'run'))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    env = {**os.environ, 'XLA_FLAGS': flags}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


FORK = """
import os
import signal
import sys
import numpy as np
from munet_nb import InputError, System, load_root
from munet_nb.engine.programs import shared_programs

system = System.open({path!r})
image = np.zeros((1, 16, 16), np.uint8)
if {predicts!r}:
    system.predict('a', image)
else:
    load_root('random:Ti1')
if not os.fork():
    signal.alarm(60)
    asked = lambda: system.predict('a', image), lambda: load_root('random:Ti1'), shared_programs
    for ask in asked:
        try:
            ask()
        except InputError as e:
            assert 'spawn' in str(e)
        else:
            os._exit(1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize('predicts', [True, False])
def test_a_fork_of_a_process_that_used_jax_says_so_instead_of_waiting_for_ever(tmp_path, predicts):
    search(tmp_path / 'run', [colored('a')], common_trunks=False)
    code = FORK.format(path=str(tmp_path / 'run'), predicts=predicts)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
