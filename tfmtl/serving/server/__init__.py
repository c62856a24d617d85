"""A small server of TensorFlow Serving's interface, for a laptop and for tests.

It answers gRPC and REST requests for one exported model, and changes to a new version while it
runs. Production uses TensorFlow Serving, which is faster and serves several models. Nothing here is
needed there, and nothing of the library imports it.
"""
