"""What peers' configs mean, and their objects in memory. No peer is imported until one is asked for."""
