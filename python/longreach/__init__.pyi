from longreach import deepspeed as deepspeed
from longreach import distributed as distributed
from longreach import nn as nn
from longreach import ops as ops
from longreach import quantization as quantization
from longreach import ray as ray
from longreach import search as search
from longreach import sentence_transformers as sentence_transformers
from longreach import transformers as transformers
from longreach._core import Error as Error
from longreach._core import InternalError as InternalError
from longreach._core import get_num_threads as get_num_threads
from longreach._core import set_num_threads as set_num_threads
from longreach._encoder import Encoder as Encoder
from longreach._mechanism import Mechanism as Mechanism
from longreach._mechanism import mechanisms as mechanisms
from longreach._model import Model as Model
from longreach._model import Score as Score
from longreach._model import Session as Session
from longreach._model import load as load

__version__: str
