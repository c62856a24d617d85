"""What is known and asked: the declaration of a problem and of an experiment, as plain data.

In go a user's words (`ProblemSpec`, `ExperimentConfig` and their parts); out come frozen
dataclasses with a JSON round trip, from which every other room derives what it needs. Nothing here
reads data, computes, or imports TensorFlow.
"""
