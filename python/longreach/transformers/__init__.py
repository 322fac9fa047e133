"""transformers' names on this engine, and this engine's attention in transformers.

``register()`` adds an attention implementation to transformers. ``AutoModelForCausalLM``, ``AutoModel``, ``AutoTokenizer`` and the
classes of Longformer load models into this engine in place of transformers', which need not be installed for them.
"""

from longreach._needs import needs

needs("longreach.transformers", "torch")

from longreach.transformers._attention import register as register  # noqa: E402
from longreach.transformers._causal import AutoModelForCausalLM as AutoModelForCausalLM  # noqa: E402
from longreach.transformers._encoder import AutoModel as AutoModel  # noqa: E402
from longreach.transformers._encoder import LongformerModel as LongformerModel  # noqa: E402
from longreach.transformers._tokenizer import AutoTokenizer as AutoTokenizer  # noqa: E402
from longreach.transformers._tokenizer import LongformerTokenizer as LongformerTokenizer  # noqa: E402

__all__ = ["AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "LongformerModel", "LongformerTokenizer", "register"]
