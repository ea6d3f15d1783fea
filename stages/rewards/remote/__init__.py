"""Scorers behind HTTP: the contract, the client and the answers that an interrupted job keeps."""
