"Records that no search writes: those of a real one with something changed."

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy

ODD = (
    None, True, False, 0, -1, 1, 2, 0.5, 1e300, 10**30, float('nan'), float('inf'), '', 'x',
    'root', 'block_99', 'head', '0' * 64, '<b>$x^2$\x1b[2J\u202e', '\ud800', [], {}, [[]], {'': {}},
)


def places(value, way: tuple = ()) -> Iterator[tuple]:
    "The ways to everything inside a value."
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for step, item in inside:
        yield (*way, step)
        if isinstance(item, (dict, list)):
            yield from places(item, (*way, step))


def _inside(record, way: tuple):
    for step in way[:-1]:
        record = record[step]
    return record, way[-1]


def _delete(record, way, pick):
    place, last = _inside(record, way)
    del place[last]


def _replace(record, way, pick):
    place, last = _inside(record, way)
    place[last] = deepcopy(pick(ODD))


def _take(record, way, pick):
    "What stands somewhere else in the record."
    place, last = _inside(record, way)
    other, step = _inside(record, pick(list(places(record))))
    place[last] = deepcopy(other[step])


def _retag(record, way, pick):
    "A field by another name, a list in another order."
    place, last = _inside(record, way)
    if isinstance(place, dict):
        place[pick(['', 'x', *map(str, place)])] = place.pop(last)
    else:
        place.append(place.pop(last))


def _double(record, way, pick):
    place, last = _inside(record, way)
    copy = deepcopy(place[last])
    if isinstance(place, dict):
        place[f'{last} '] = copy
    else:
        place.insert(last, copy)


def _drop_line(records, i, pick):
    del records[i]


def _double_line(records, i, pick):
    records.insert(pick(range(len(records))), deepcopy(records[i]))


def _swap_lines(records, i, pick):
    j = pick(range(len(records)))
    records[i], records[j] = records[j], records[i]


def _copy_line(records, i, pick):
    records[i] = deepcopy(records[pick(range(len(records)))])


IN_RECORDS = (_delete, _replace, _replace, _take, _retag, _double)
OF_LINES = (_drop_line, _double_line, _swap_lines, _copy_line)


def altered(records: Sequence[dict], pick: Callable[[Sequence], object]) -> list[dict]:
    "The records with one thing changed, or two; `pick` chooses one of several."
    # A fresh copy: where a run reads them equal references are one dict, which deepcopy keeps.
    records = json.loads(json.dumps(list(records)))
    for _ in range(pick([1, 1, 2])):
        i = pick(range(len(records)))
        act = pick([*IN_RECORDS, *IN_RECORDS, *OF_LINES])
        if act in OF_LINES:
            act(records, i, pick)
        elif records[i]:
            act(records[i], pick(list(places(records[i]))), pick)
    return records
