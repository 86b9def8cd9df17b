"A guard against losing speed: the benchmark in small, as ratios with wide bands."

from statistics import median

from munet_nb.bench.turns import compare
from munet_nb.bench.work import Case, make_work


def test_a_generation_costs_less_than_its_children_one_after_the_other(record_property):
    """It runs what children share once, and compiles few programs.

    A machine that does other things at the same time slows both ways, whose turns alternate.
    """
    ratios = []
    with make_work(Case('Ti1', 32, 64, 2)) as work:
        while not ratios or min(ratios) < 1.4 and len(ratios) < 3:  # others may be at work
            found = compare(work, work.plans[:4], ('munet', 'solo'), 3, lambda text: None)
            ratios.append(found['seconds']['solo'] / found['seconds']['munet'])
    faster = median(ratios)
    record_property('measured', f'a generation is {faster:.2f} times as fast as child after child')
    assert found['children'] == 4
    assert sum(found['programs'].values()) <= 10, found['programs']
    assert faster > 1.2  # 1.8 to 2.1 on two cores
