"muNet in JAX and Flax: one pretrained Vision Transformer evolved into a system that solves many tasks."
__version__ = "0.1.0"

from .checks import InputError
from .models.hparams import HParams
from .roots.load import load_root
from .runs.evolution import Evolution
from .runs.system import System
from .search.config import Config, TrainingSettings
from .tasks.benchmarks import load_benchmark
from .tasks.folders import load_folder, load_idx
from .tasks.hub import load_hf
from .tasks.task import Task, task_from_arrays
from .tasks.tfds import load_tfds
