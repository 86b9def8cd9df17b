"""Whatever is drawn: pictures, tables, the panel.

The functions that draw a run from its records are here by name, so that `mu.plots` offers them.
Each is loaded when it is first used; the panel and its widgets are not among them.
"""

from importlib import import_module

_HOMES = {
    'DARK': 'canvas',
    'LIGHT': 'canvas',
    'error_view': 'mistakes',
    'hyperparameter_table': 'hyperparameters',
    'journal_table': 'tables',
    'knowledge_flow': 'flow',
    'leaderboard': 'tables',
    'plot_architectures': 'architectures',
    'plot_attention': 'mistakes',
    'plot_calibration': 'errors',
    'plot_classes': 'errors',
    'plot_confusion': 'errors',
    'plot_flow_graph': 'flow',
    'plot_front': 'progress',
    'plot_graph': 'graph',
    'plot_groups': 'groups',
    'plot_hyperparameters': 'hyperparameters',
    'plot_knowledge_flow': 'flow',
    'plot_learning_curves': 'curves',
    'plot_lineage': 'progress',
    'plot_progress': 'progress',
    'plot_system': 'progress',
    'plot_sizes': 'progress',
    'plot_tuned_values': 'hyperparameters',
    'save_film': 'film',
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(f'.{_HOMES[name]}', __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
