"""What clients see: the routes and their answers."""
