"""The full model and the files of a bundle, over MQTT."""
