"""Why an int8 model is slow or inaccurate: facts of its file, of the graph that runs and of its values, in words."""
