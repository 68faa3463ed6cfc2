"""The commands, a module for each: what it takes, what it shows, and how it ends."""
