"""What the weights connect, whatever the input: the one factor of an effect, and the other on prompts and data."""

from tl_transcoders.circuits.weights.card import FeatureCard as FeatureCard
from tl_transcoders.circuits.weights.card import feature_card as feature_card
from tl_transcoders.circuits.weights.connections import Connections as Connections
from tl_transcoders.circuits.weights.connections import connections as connections
from tl_transcoders.circuits.weights.contributions import Contributions as Contributions
from tl_transcoders.circuits.weights.contributions import contributions as contributions
from tl_transcoders.circuits.weights.ends import Features as Features
from tl_transcoders.circuits.weights.greedy_paths import greedy_paths as greedy_paths
from tl_transcoders.circuits.weights.heads import HeadMap as HeadMap
from tl_transcoders.circuits.weights.heads import by_head as by_head
from tl_transcoders.circuits.weights.heads import ov_norms as ov_norms
from tl_transcoders.circuits.weights.match import Match as Match
from tl_transcoders.circuits.weights.means import MeanConnections as MeanConnections
from tl_transcoders.circuits.weights.means import mean_connections as mean_connections
from tl_transcoders.circuits.weights.path_graph import PathGraph as PathGraph
from tl_transcoders.circuits.weights.paths import Account as Account
from tl_transcoders.circuits.weights.paths import Path as Path
from tl_transcoders.circuits.weights.paths import Paths as Paths
from tl_transcoders.circuits.weights.via import Skip as Skip
