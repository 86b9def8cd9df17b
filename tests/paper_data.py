"""The paper's data sets as TFDS mocks them: true features and classes.

Sizes are true unless they are to be small; the pixels and labels are random.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import tensorflow_datasets as tfds

from munet_nb import Config

# One small generation on each of many data sets
ONE_GENERATION = Config.preset(
    'characters',
    batch_size=8,
    batches=1,
    segments=1,
    validation_batches=1,
    children_per_task=2,
    children_per_generation=2,
    task_iterations=1,
    device_budget=0,  # streamed, so that programs do not depend on a data set's sizes
)

# TFDS's catalogue: classes, then examples of each split
VDD = 'visual_domain_decathlon/'
DATA = {
    'emnist/digits': (10, dict(train=240_000, test=40_000)),
    'emnist/letters': (37, dict(train=88_800, test=14_800)),
    'kmnist': (10, dict(train=60_000, test=10_000)),
    'mnist': (10, dict(train=60_000, test=10_000)),
    'omniglot': (1623, dict(train=19_280, test=13_180, small1=2_720, small2=3_120)),
    'cmaterdb/bangla': (10, dict(train=5_000, test=1_000)),
    'cmaterdb/devanagari': (10, dict(train=2_400, test=600)),
    'cmaterdb/telugu': (10, dict(train=2_400, test=600)),
    VDD + 'imagenet12': (1000, dict(train=1_232_167, validation=49_000, test=48_238)),
    VDD + 'svhn': (10, dict(train=47_217, validation=26_040, test=26_032)),
    VDD + 'cifar100': (100, dict(train=40_000, validation=10_000, test=10_000)),
    VDD + 'gtsrb': (43, dict(train=31_367, validation=7_842, test=12_630)),
    VDD + 'daimlerpedcls': (2, dict(train=23_520, validation=5_880, test=19_600)),
    VDD + 'omniglot': (1623, dict(train=17_853, validation=6_492, test=8_115)),
    VDD + 'ucf101': (101, dict(train=7_585, validation=1_952, test=3_783)),
    VDD + 'aircraft': (100, dict(train=3_334, validation=3_333, test=3_333)),
    VDD + 'dtd': (47, dict(train=1_880, validation=1_880, test=1_880)),
    VDD + 'vgg-flowers': (102, dict(train=1_020, validation=1_020, test=6_149)),
    'imagenet2012': (1000, dict(train=1_281_167, validation=50_000, test=100_000)),
    'cifar100': (100, dict(train=50_000, test=10_000)),
    'cifar10': (10, dict(train=50_000, test=10_000)),
    'imagenet_v2': (1000, dict(test=10_000)),
    'cifar10_1': (10, dict(test=2_021)),  # the last two validate
}

VTAB_DATA = {  # of the other data sets that mu2net69 reads
    'caltech101': dict(train=3_060, test=6_741),
    'dtd': dict(train=1_880, validation=1_880, test=1_880),
    'oxford_flowers102': dict(train=1_020, validation=1_020, test=6_149),
    'oxford_iiit_pet': dict(train=3_680, test=3_669),
    'sun397/tfds': dict(train=76_128, validation=10_875, test=21_750),
    'svhn_cropped': dict(train=73_257, test=26_032, extra=531_131),
    'patch_camelyon': dict(train=262_144, validation=32_768, test=32_768),
    'eurosat/rgb': dict(train=27_000),
    'resisc45': dict(train=31_500),
    'diabetic_retinopathy_detection/btgraham-300': dict(
        train=35_126, validation=10_906, test=42_670, sample=10
    ),
    'clevr': dict(train=70_000, validation=15_000, test=15_000),
    'dmlab': dict(train=65_550, validation=22_628, test=22_735),
    'dsprites': dict(train=737_280),
    'kitti': dict(train=6_347, validation=423, test=711),
    'smallnorb': dict(train=24_300, test=24_300),
}


def _split(name: str, size: int) -> dict:
    "What a prepared data set says of one of its splits."
    return dict(
        name=name,
        numBytes='1',
        shardLengths=[str(size)],
        filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    )


def _describe(folder: Path, name: str, sizes: dict):
    "What a prepared data set says of itself. Without it a mock does not know the splits."
    builder = tfds.builder(name, data_dir=folder)
    info = dict(
        name=builder.name,
        version=str(builder.version),
        fileFormat='array_record',
        splits=[_split(s, n) for s, n in sizes.items()],
    )
    if builder.builder_config:
        info['configName'] = builder.builder_config.name
    path = Path(builder.data_dir)
    path.mkdir(parents=True, exist_ok=True)
    (path / 'dataset_info.json').write_text(json.dumps(info))


@contextmanager
def mocked(folder: Path, at_most: int = 10**9):
    "Inside, TFDS has the paper's data sets in `folder`, with at most so many examples per split."
    known = {name: sizes for name, (_, sizes) in DATA.items()} | VTAB_DATA
    for name, sizes in known.items():
        _describe(Path(folder), name, {s: min(n, at_most) for s, n in sizes.items()})
    with tfds.testing.mock_data(num_examples=at_most, data_dir=str(folder)):
        yield
