"""Compiled programs are kept for the test session: many searches have the same structures.

A worker takes a file, or a chapter of the notebooks. What takes long goes first, so that no worker
waits for the other at the end.
"""

import os
import re
import tempfile
from pathlib import Path

from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# The same examples every time: what a new one finds is no reason for a change to fail.
# `--hypothesis-profile default` draws others.
settings.register_profile('suite', derandomize=True, deadline=None, database=None)
settings.load_profile('suite')

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='munet-tests-')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

LONGEST_FIRST = (
    'notebooks of guides',
    'test_workers',
    'notebooks of 90_bench',
    'notebooks of 50_engine',
    'notebooks of 60_roots',
    'test_common',
    'test_training',
    'test_quality',
)


def group_of(nodeid: str) -> str:
    "What one worker runs, one after the other."
    chapter = re.search(r'test_runs_top_to_bottom\[(\w+)/', nodeid)
    return f'notebooks of {chapter[1]}' if chapter else Path(nodeid.split('::')[0]).stem


class ByGroup(LoadScopeScheduling):
    "Whole groups for workers. Marks of groups go unseen with pytest 9.2 and xdist 3.8."

    def _split_scope(self, nodeid):
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return ByGroup(config, log)


def pytest_collection_modifyitems(items):
    "The order of the groups (with `--no-loadscope-reorder`, that of the workers too)."
    last = len(LONGEST_FIRST)
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(group_of(item.nodeid), last))


def pytest_terminal_summary(terminalreporter):
    "Tell what tests measured, whichever process they ran in."
    for report in terminalreporter.stats.get('passed', ()):
        for name, value in report.user_properties:
            if name == 'measured':
                terminalreporter.write_line(value)
