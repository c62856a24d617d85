"""Why a request is refused: a status of the API and a sentence that names the input."""

STATUSES = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "DEADLINE_EXCEEDED": 504,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
}
"""The status of REST by the status of gRPC, as TensorFlow Serving maps them."""


class Refused(Exception):
    """A request that gets no answer.

    Args:
        code: A status of gRPC, one of `STATUSES`.
        message: What was wrong, what came, and what would be right.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    @property
    def http_status(self) -> int:
        """The status of REST."""
        return STATUSES[self.code]


def invalid(message: str) -> Refused:
    """A request with a wrong input."""
    return Refused("INVALID_ARGUMENT", message)
