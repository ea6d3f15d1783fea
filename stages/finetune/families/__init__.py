"""The objectives of the families of methods, and the settings that the methods of a family share."""
