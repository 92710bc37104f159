"""Reports: a typed document, and the one HTML file that it is rendered to."""
