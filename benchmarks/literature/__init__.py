"""Methods of the literature beside the two papers of the project, each measured on the project's models and clips."""
