"""What can go wrong while a network is described, provisioned or run."""


class NetworkError(Exception):
    """The network cannot be brought up, reached or taken down; the text says what to do."""


class DescriptionError(NetworkError):
    """The consortium's description is wrong; the text names the line."""
