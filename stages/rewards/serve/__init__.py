"""A server that puts rewards of this project behind the contract of HTTP scorers."""
