"""The files of nbs/guides/cluster: as valid as one can tell without a cluster, and of one mind.

The scripts are run with programs in place of Ray, Slurm, ssh and munet that write down how they
were called.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sync

from munet_nb.cli import make_parser
from munet_nb.workers.cluster import _PACKAGES

yaml = pytest.importorskip('yaml')

TOP = Path(__file__).resolve().parents[1]
RECIPES = TOP / 'nbs/guides/cluster'
SETTINGS = sync.settings(TOP)
FILES = sorted(p for p in RECIPES.iterdir() if p.is_file())


def read(name):
    return (RECIPES / name).read_text()


def parsed(name):
    return yaml.safe_load(read(name))


# What is said in several files


def constraints():
    "Package -> its version on all machines."
    lines = [line for line in read('constraints.txt').splitlines() if not line.startswith('#')]
    return dict(line.split('==') for line in lines)


def numbers(version):
    return tuple(map(int, version.split('.')))


def test_the_versions_that_must_be_the_same_are_pinned_and_new_enough():
    pinned = constraints()
    assert set(pinned) == {'ray', 'jaxlib', *_PACKAGES} - {'munet_nb'}
    wanted = f'{SETTINGS["requirements"]} {SETTINGS["ray_requirements"]}'
    for name, least in re.findall(r'(\w+)>=([\d.]+)', wanted):
        assert name not in pinned or numbers(pinned[name]) >= numbers(least)


def test_all_files_say_the_same_versions():
    text = {p.name: p.read_text() for p in FILES}
    images = {m for t in text.values() for m in re.findall(r'rayproject/ray:([\d.]+)-py(\d+)', t)}
    assert images == {(constraints()['ray'], SETTINGS['min_python'].replace('.', ''))}
    assert parsed('kuberay.yaml')['spec']['rayClusterSpec']['rayVersion'] == constraints()['ray']
    installed = {m for t in text.values() for m in re.findall(r'ray\[default\]==([\d.]*\d)', t)}
    assert installed == {constraints()['ray']}
    pythons = {m for t in text.values() for m in re.findall(r'python(3\.\d+)', t)}
    assert pythons == {SETTINGS['min_python']}
    wheels = {m for t in text.values() for m in re.findall(r'[\w.-]+\.whl', t)}
    assert wheels == {f'munet_nb-{SETTINGS["version"]}-py3-none-any.whl'}
    tags = {m for t in text.values() for m in re.findall(r'/munet:([\d.]+\d)', t)}
    assert tags == {SETTINGS['version']}


def test_paths_that_are_named_exist():
    for path in FILES:
        for target in re.findall(r'nbs/guides/cluster/([\w.-]*\w)', path.read_text()):
            assert (RECIPES / target).exists(), f'{path.name}: {target}'
        if path.suffix == '.md':
            for target in re.findall(r'\]\((?!http)([^)#]+)\)', path.read_text()):
                assert (RECIPES / target).exists(), f'{path.name}: {target}'


def test_every_file_is_told_of():
    assert [p.name for p in FILES if f'({p.name})' not in read('README.md')] == ['README.md']


# Commands of munet


def check_command(words):
    "Have the real parser read a command of munet; what it understood."
    assert words[0] == 'munet'
    return make_parser().parse_args(words[1:])


def searched(line):
    "What `search.sh RUN ... -- ...`, found in a line, gives to munet for a new run."
    words = shlex.split(line[line.index('search.sh') :].split(' #')[0])[1:]
    i = words.index('--')
    return check_command(['munet', 'evolve', '--run', words[0], *words[1:i], *words[i + 1 :]])


def lines_of_readme():
    "The lines of its blocks of commands."
    blocks = re.findall(r'```sh\n(.*?)```', read('README.md'), re.S)
    return [line.strip() for block in blocks for line in block.splitlines()]


def test_every_command_of_munet_in_the_readme_parses():
    for line in lines_of_readme():
        if 'search.sh' in line:
            assert searched(line.replace("'", '')).ray
        if line.startswith('munet '):
            check_command(shlex.split(line.split(' #')[0]))
    assert sum('search.sh' in line for line in lines_of_readme()) >= 2


# Files for Ray's launcher


@pytest.mark.parametrize('name', ['ray-up.yaml', 'ray-up-local.yaml'])
def test_the_launcher_takes_its_file(name):
    pytest.importorskip('ray')
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(parsed(name))
    validate_config(config)
    least = sum(node['min_workers'] for node in config['available_node_types'].values())
    assert least == config['max_workers'] > 0  # nothing is asked for when the search runs
    local = [p for p in config['file_mounts'].values() if not p.startswith('~')]
    assert set(local) == {'dist', str(RECIPES.relative_to(TOP))}


def test_the_head_that_the_launcher_starts_trains_nothing():
    assert parsed('ray-up.yaml')['available_node_types']['head']['resources'] == {'CPU': 0}
    assert '--num-cpus=0' in parsed('ray-up-local.yaml')['head_start_ray_commands'][-1]


# Kubernetes


def containers(group):
    return group['template']['spec']['containers']


def test_the_job_of_kuberay_has_what_a_search_needs():
    job = parsed('kuberay.yaml')
    assert (job['apiVersion'], job['kind']) == ('ray.io/v1', 'RayJob')
    spec, cluster = job['spec'], job['spec']['rayClusterSpec']
    assert spec['submissionMode'] == 'K8sJobMode' and spec['backoffLimit'] > 0
    assert spec['shutdownAfterJobFinishes']  # without it a job cannot be suspended
    assert cluster['headGroupSpec']['rayStartParams'] == {'num-cpus': '0'}
    (workers,) = cluster['workerGroupSpecs']
    assert workers['replicas'] == workers['minReplicas'] == workers['maxReplicas']
    for group in (cluster['headGroupSpec'], workers):
        (container,) = containers(group)
        volumes = {v['name']: v for v in group['template']['spec']['volumes']}
        mounts = {m['mountPath']: volumes[m['name']] for m in container['volumeMounts']}
        assert mounts['/dev/shm']['emptyDir']['medium'] == 'Memory'
        assert container['resources']['requests'] == container['resources']['limits']
    (head,) = containers(cluster['headGroupSpec'])
    (worker,) = containers(workers)
    assert head['env'] == [{'name': 'NPROC', 'value': worker['resources']['limits']['cpu']}]


def test_the_run_of_kuberay_lies_on_the_volume():
    volume, job, files = map(parsed, ('kuberay-volume.yaml', 'kuberay.yaml', 'kuberay-files.yaml'))
    entrypoint = job['spec']['entrypoint']
    args = searched(entrypoint)
    assert args.ray == 'auto'
    assert not re.search(r'[;&|<>"\'$]', entrypoint)  # it is put into a line of a shell
    for spec in (job['spec']['rayClusterSpec']['headGroupSpec']['template']['spec'], files['spec']):
        (claim,) = [v for v in spec['volumes'] if 'persistentVolumeClaim' in v]
        assert claim['persistentVolumeClaim']['claimName'] == volume['metadata']['name']
        (mount,) = [m for m in spec['containers'][0]['volumeMounts'] if m['name'] == claim['name']]
        assert args.run.startswith(f'{mount["mountPath"]}/')


def test_the_image_has_what_the_job_starts():
    text = read('Dockerfile')
    (place,) = re.findall(r'WORKDIR (.*)', text)
    (copied,) = re.findall(r'COPY (.*) \./', text)
    command = parsed('kuberay.yaml')['spec']['entrypoint'].split()[0]
    assert command == f'{place}/search.sh' and 'nbs/guides/cluster/search.sh' in copied.split()


# Scripts


FAKE = """#!{python}
import os, shlex, signal, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
def write(*words):
    with open(os.environ['CALLS'], 'a') as f:
        f.write(shlex.join(words) + '\\n')
def interrupted(*_):
    write('munet', 'was', 'interrupted')
    sys.exit(130)
waits = name == 'munet' and os.environ.get('UNTIL_INTERRUPTED')
if waits and signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # it may be ignored
    signal.signal(signal.SIGINT, interrupted)
write(name, *words)
if name == 'munet' and os.environ.get('SLURM_NNODES', '1') != '1':
    while 'srun ' not in open(os.environ['CALLS']).read():  # it is begun beside the search
        time.sleep(0.02)
if name == 'srun':
    while words[0].startswith('-'):
        words.pop(0)
    os.execvp(words[0], words)
if name == 'ssh':
    os.execvp('bash', ['bash', '-c', words[-1]])
if name == 'ray' and '--block' in words:
    signal.pause()
if name == 'ray' and words[0] == 'get-auth-token':
    print('secret')
if name == 'hostname':
    print('10.0.0.1 fd00::1')
if waits:
    time.sleep(20)
"""


class Project:
    "A folder with the recipes, and programs that write down how they were called."

    def __init__(self, path):
        self.path = path
        self.calls = path / 'calls'
        for folder in ('bin', 'home', '.venv/bin', 'nbs/guides'):
            (path / folder).mkdir(parents=True)
        (path / 'nbs/guides/cluster').symlink_to(RECIPES)
        (path / '.venv/bin/activate').write_text('')
        for name in ('ray', 'munet', 'srun', 'scontrol', 'ssh', 'hostname'):
            (path / 'bin' / name).write_text(FAKE.format(python=sys.executable))
            (path / 'bin' / name).chmod(0o755)

    def start(self, *words, **environment):
        "A script of the recipes, begun."
        own = {
            'PATH': f'{self.path}/bin:{os.environ["PATH"]}',
            'HOME': str(self.path / 'home'),
            'CALLS': str(self.calls),
        }
        script = f'nbs/guides/cluster/{words[0]}'
        return subprocess.Popen(
            ['bash', script, *words[1:]],
            cwd=self.path,
            env={**os.environ, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words, **environment):
        "What was called, the words of each call; its last is the script's status."
        told, status = self.end(self.start(*words, **environment))
        return [*told, status]

    def end(self, process):
        out, _ = process.communicate(timeout=30)
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        assert process.returncode in (0, 2, 130), out
        return [shlex.split(line) for line in lines], process.returncode

    def make_run(self, run='runs/many'):
        (self.path / run).mkdir(parents=True)
        (self.path / run / 'journal.jsonl').write_text('{}\n')


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_scripts_are_shell_and_may_be_run():
    for path in RECIPES.glob('*.sh'):
        assert os.access(path, os.X_OK), path.name
        subprocess.run(['bash', '-n', path], check=True)


def test_a_search_is_started_and_gone_on_with(project):
    words = ['search.sh', 'runs/a b', '--ray', 'auto', '--', '--benchmark', 'demo', '--lr', '0.02']
    *told, status = project.run(*words)
    assert told == [['munet', 'evolve', '--run', 'runs/a b', '--ray', 'auto', *words[5:]]]
    assert status == 0 and check_command(told[0]).benchmark == 'demo'
    project.make_run('runs/a b')
    *told, status = project.run(*words)
    assert told[1:] == [['munet', 'resume', 'runs/a b', '--trust-sources', '--ray', 'auto']]
    assert check_command(told[1]).run == 'runs/a b'


SLURM = {
    'SLURM_JOB_ID': '70001',
    'SLURM_NNODES': '3',
    'SLURM_CPUS_PER_TASK': '16',
    'SLURMD_NODENAME': 'node1',
}


def starting_with(told, *words):
    return [call for call in told if call[: len(words)] == list(words)]


def test_slurm_starts_a_cluster_a_search_on_it_and_ends_both(project):
    *told, status = project.run('slurm.sh', **SLURM)
    assert status == 0
    (head,) = starting_with(told, 'ray', 'start', '--num-cpus=16', '--head')
    assert {'--node-ip-address=10.0.0.1', '--port=20001'} <= set(head)
    (workers,) = starting_with(told, 'srun')
    assert {'--nodes=2', '--ntasks=2', '--exclude=node1', '--cpus-per-task=16'} <= set(workers)
    assert workers[-5:] == ['ray', 'start', '--num-cpus=16', '--address=10.0.0.1:20001', '--block']
    (search,) = starting_with(told, 'munet')
    args = check_command(search)
    assert (args.command, args.ray, args.cores) == ('evolve', '10.0.0.1:20001', 16)
    assert told[-1] == ['ray', 'stop'] and not starting_with(told, 'scontrol')


def test_one_node_of_slurm_needs_no_other(project):
    *told, status = project.run('slurm.sh', **{**SLURM, 'SLURM_NNODES': '1'})
    assert status == 0 and not starting_with(told, 'srun') and starting_with(told, 'munet')


@pytest.mark.parametrize('sent, again', [(signal.SIGUSR1, True), (signal.SIGINT, False)])
def test_slurm_interrupts_a_search_and_waits_in_the_queue_again(project, sent, again):
    project.make_run()
    process = project.start('slurm.sh', **SLURM, UNTIL_INTERRUPTED='1')
    while 'munet' not in (project.calls.read_text() if project.calls.exists() else ''):
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(0.5)  # the script waits for it now
    process.send_signal(sent)
    told, status = project.end(process)
    assert status == 130
    (search,) = starting_with(told, 'munet', 'resume')
    assert check_command(search).run == 'runs/many'
    last = [['scontrol', 'requeue', '70001']] if again else []
    assert told[told.index(['munet', 'was', 'interrupted']) + 1 :] == [['ray', 'stop'], *last]


def test_the_signal_of_slurm_is_the_one_that_the_script_hears():
    sent = re.search(r'^#SBATCH --signal=B:(\w+)@(\d+)', read('slurm.sh'), re.M)
    assert re.search(rf"^trap '.*again=1.*' {sent[1]}$", read('slurm.sh'), re.M)
    assert f'{sent[2]} s' in read('slurm.sh')
    for option in ('requeue', 'open-mode=append', 'exclusive', 'ntasks-per-node=1'):
        assert f'\n#SBATCH --{option}\n' in read('slurm.sh')


def test_hosts_are_started_and_stopped(project):
    *told, status = project.run('hosts.sh', 'up', 'gpu1', 'gpu2', WORKER_ENV='A=1 B=2')
    assert status == 0
    (head,) = starting_with(told, 'ray', 'start', '--head')
    assert {'--num-cpus=0', '--num-gpus=0', '--port=6379'} <= set(head)
    assert [call[-2] for call in starting_with(told, 'ssh')] == ['gpu1', 'gpu2']
    assert told.count(['ray', 'start', '--address=10.0.0.1:6379']) == 2
    token = project.path / 'home/.ray/auth_token'
    assert token.read_text() == 'secret\n' and token.stat().st_mode & 0o77 == 0
    assert 'A=1 B=2 ray start' in starting_with(told, 'ssh')[0][-1]
    *told, status = project.run('hosts.sh', 'down', 'gpu1', 'gpu2')
    assert status == 0 and told.count(['ray', 'stop']) == 3


def test_hosts_wants_to_be_told_what_to_do(project):
    *told, status = project.run('hosts.sh')
    assert (told, status) == ([], 2)
