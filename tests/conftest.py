"""Compiled programs are kept for the test session: many searches have the same structures.

A worker takes a file, or a chapter of the notebooks. What takes long goes first, so that no worker
waits for the other at the end.
"""

import os
import re
import tempfile

import pytest

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


def group_of(item) -> str:
    "What one worker runs, one after the other."
    chapter = re.search(r'test_runs_top_to_bottom\[(\w+)/', item.nodeid)
    return f'notebooks of {chapter[1]}' if chapter else item.path.stem


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "The groups and their order (`--dist loadgroup --no-loadscope-reorder`)."
    last = len(LONGEST_FIRST)
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: places.get(group_of(item), last))
