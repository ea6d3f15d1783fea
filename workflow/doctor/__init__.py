"""What the machine has and what the active study needs of it: `make doctor`."""
