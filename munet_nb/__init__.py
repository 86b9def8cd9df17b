"muNet in JAX and Flax: one pretrained Vision Transformer evolved into a system that solves many tasks."
__version__ = "0.1.0"

from .checks import InputError
from .evolution import Config, Evolution, System
from .models import HParams
from .pretrained import load_root
from .tasks import Task, load_benchmark, load_folder, load_hf, load_idx, load_tfds, task_from_arrays
from .feeds import TrainingSettings
