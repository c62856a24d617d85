"""The configurations of this project, by name. Each file is an example for a new configuration."""
