"""The error of a request that got no answer."""


class ServingError(RuntimeError):
    """The server refused a request or was not reachable.

    Args:
        code: A status of gRPC, such as `INVALID_ARGUMENT`, for both interfaces.
        message: What the server said.
        where: The server and the model.
    """

    def __init__(self, code: str, message: str, where: str) -> None:
        super().__init__(f"{where}: {code}: {message}")
        self.code, self.message = code, message
