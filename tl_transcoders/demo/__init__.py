"""A small language model that knows that spans of years end after they begin, and its transcoders.

It ships with the package, so that examples and tests need no network.

```python
from tl_transcoders.demo import PROMPT, load_model, load_transcoders

model = load_model()
with tlt.splice(model, load_transcoders("skip")):
    logits = model(PROMPT)
```
"""

from tl_transcoders.demo.data import PROMPT as PROMPT
from tl_transcoders.demo.data import greater_than_score as greater_than_score
from tl_transcoders.demo.data import prompt_tokens as prompt_tokens
from tl_transcoders.demo.data import training_tokens as training_tokens
from tl_transcoders.demo.loading import load_hooked as load_hooked
from tl_transcoders.demo.loading import load_model as load_model
from tl_transcoders.demo.loading import load_transcoders as load_transcoders
