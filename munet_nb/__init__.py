"""muNet in JAX and Flax: one pretrained Vision Transformer evolved into a multitask system.

    import munet_nb as mu

offers what users need. Each name is loaded when it is first used, so that a search does not wait
for the panel, nor a prediction for TensorFlow Datasets.
"""
__version__ = "0.1.0"

from importlib import import_module

_HOMES = {
    'Config': 'search.config',
    'Dashboard': 'pictures.panel',
    'Evolution': 'runs.evolution',
    'HParams': 'models.hparams',
    'InputError': 'checks',
    'MultitaskClassifier': 'classifier',
    'System': 'runs.system',
    'Task': 'tasks.task',
    'TrainingSettings': 'search.config',
    'choose': 'choices',
    'compare': 'pictures.compare',
    'example_run': 'runs.rundir',
    'load_benchmark': 'tasks.benchmarks',
    'load_folder': 'tasks.folders',
    'load_hf': 'tasks.hub',
    'load_idx': 'tasks.folders',
    'load_root': 'roots.load',
    'load_table': 'tasks.tables',
    'load_task': 'tasks.sources',
    'load_tfds': 'tasks.tfds',
    'look': 'pictures.look',
    'processes': 'workers.processes',
    'ray_workers': 'workers.cluster',
    'report': 'pictures.report',
    'task_from_arrays': 'tasks.task',
    'task_from_dataset': 'tasks.datasets',
    'track': 'tracking.track',
}
__all__ = sorted([*_HOMES, 'plots'])


def __getattr__(name: str):
    if name == 'plots':
        value = import_module('.pictures', __name__)
    elif name in _HOMES:
        value = getattr(import_module(f'.{_HOMES[name]}', __name__), name)
    else:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
