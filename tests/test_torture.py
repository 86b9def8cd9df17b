"Less than a minute of `tests/torture.py`, which can go on for longer."

import pytest
from torture import HARM, KINDS, torture

SECONDS = 45


@pytest.mark.long
def test_nothing_is_lost_nothing_damaged_is_accepted_and_nobody_sees_a_traceback(capsys):
    table = torture(SECONDS, seed=0)
    with capsys.disabled():
        print('\n' + table.to_string())
    assert len(table) == len(KINDS) and (table.drop(columns='seconds').sum(axis=1) > 0).all()
    assert not table[list(HARM)].to_numpy().sum()
