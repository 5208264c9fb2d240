"""Where this system is better and where it is worse, in sentences whose numbers are those of the results."""
