"""An independent recomputation of the numbers of a finished study, and of those that the documents quote."""
