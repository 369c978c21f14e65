"""What a model does when only a circuit of it is left."""

from tl_transcoders.circuits.ablation.ablations import Ablation as Ablation
from tl_transcoders.circuits.ablation.ablations import Resample as Resample
from tl_transcoders.circuits.ablation.ablations import Zero as Zero
from tl_transcoders.circuits.ablation.faithfulness import Faithfulness as Faithfulness
from tl_transcoders.circuits.ablation.faithfulness import faithfulness as faithfulness
