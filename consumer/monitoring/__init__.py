"""How the daemon is watched: metrics, health, and the look at the queue that they tell of."""
