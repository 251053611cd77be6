"""What a caller hands over as objects, put into the folders and files that everything below reads."""
