"""Compiled programs are kept for the test session: many searches have the same structures.

Files that take long go first, so that no worker waits for the other at the end.
"""

import os
import tempfile

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='munet-tests-')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

LONGEST_FIRST = ('test_notebooks', 'test_torture', 'test_common', 'test_workers', 'test_training')


def pytest_collection_modifyitems(items):
    "The order in which workers take files (`--dist loadfile --no-loadscope-reorder`)."
    last = len(LONGEST_FIRST)
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, last))
