"""Configurations that come with the project, by name; each file is an example for your own."""
